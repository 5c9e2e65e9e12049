"""fsspec: the content of files and the cost of reading it."""

import csv
import io
import os
import random
import threading
import zipfile
from pathlib import Path
from typing import Any, Final

import fsspec
import numpy as np
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.mounts import eventually
from tests.zips import cheap_bytes

NOISE: Final = os.urandom(700_000)
OUTPUTS: Final = {
    "lines.txt": "".join(f"{n} ä\n" for n in range(20_000)).encode(),
    "noise.bin": NOISE,
    "words.txt": cheap_bytes(1_500_000),
    "table.csv.gz": b"",
    "empty": b"",
}


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    return cloud.add_task(outputs=OUTPUTS)


def store_bytes(cloud: FakeCloud) -> int:
    return sum(record.bytes_sent for record in cloud.requests if record.side == "store")


def archive_size(cloud: FakeCloud, task: str) -> int:
    stored = cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    return stored.source.size


def test_open_gives_a_seekable_file(remote: TaskFileSystem, task: str) -> None:
    """P-5: `open` gives a seekable file that behaves as Python's own."""
    for name in ("noise.bin", "words.txt"):
        content = OUTPUTS[name]
        with remote.open(f"taskfs://{task}/outputs/{name}") as file:
            assert (file.size, file.mode, file.path) == (len(content), "rb", file.name)
            assert file.readable() and file.seekable() and not file.writable()
            assert file.read(10) == content[:10]
            assert file.seek(-5, io.SEEK_END) == len(content) - 5
            assert file.read() == content[-5:]
            assert file.read() == b""
            assert file.seek(300_000) == 300_000
            assert file.seek(7, io.SEEK_CUR) == 300_007
            buffer = bytearray(200_000)
            assert file.readinto(buffer) == 200_000
            assert_same(bytes(buffer), content[300_007:500_007])
            assert file.tell() == 500_007
            file.seek(0)
            assert_same(file.read(), content)
            with pytest.raises(OSError, match="Invalid"):
                file.seek(-1)
            with pytest.raises(io.UnsupportedOperation):
                file.write(b"x")
            assert file.details == remote.info(f"{task}/outputs/{name}")
        assert file.closed
        with pytest.raises(ValueError, match="closed"):
            file.read()


def test_random_reads(remote: TaskFileSystem, task: str) -> None:
    """P-5: Any bytes can be read in any order."""
    chance = random.Random(5)
    with remote.open(f"{task}/outputs/words.txt") as file:
        for _ in range(60):
            at, size = chance.randrange(1_500_000), chance.choice((1, 700, 90_000))
            file.seek(at)
            assert_same(file.read(size), OUTPUTS["words.txt"][at : at + size])


def test_text(remote: TaskFileSystem, task: str) -> None:
    """P-5: Text mode works through fsspec."""
    wanted = OUTPUTS["lines.txt"].decode().splitlines(keepends=True)
    with remote.open(f"{task}/outputs/lines.txt", "r", encoding="utf-8") as file:
        assert list(file) == wanted
    with remote.open(f"{task}/outputs/lines.txt") as file:
        assert [next(file) for _ in range(3)] == [line.encode() for line in wanted[:3]]
    assert remote.read_text(f"{task}/status") == "success\n"
    assert remote.cat_file(f"{task}/outputs/empty") == b""
    assert remote.cat_file(f"{task}/kill") == b""
    with remote.open(f"{task}/outputs/lines.txt", "rt", newline="") as file:
        assert next(csv.reader(file)) == ["0 ä"]


def test_the_raw_archive(remote: TaskFileSystem, task: str) -> None:
    """P-2, N-3: The raw archives exist by name."""
    with remote.open(f"{task}/output.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert_same(archive.read("artifacts/noise.bin"), NOISE)


@pytest.mark.parametrize("name", ["noise.bin", "words.txt"])
@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (0, 10), (5, None), (-7, None), (None, -699_990), (-20, -10), (9, 3),
     (10**9, None), (65_530, 65_540), (0, 10**9), (-(10**9), 4)],
)  # fmt: skip
def test_cat_file_takes_ranges(
    remote: TaskFileSystem, task: str, name: str, start: int | None, end: int | None
) -> None:
    """P-6: `cat_file` takes ranges, which count as those of a slice do."""
    assert_same(remote.cat_file(f"{task}/outputs/{name}", start, end), OUTPUTS[name][start:end])


def test_cat_ranges_fetches_nothing_twice(
    remote: TaskFileSystem, task: str, cloud: FakeCloud
) -> None:
    """P-6: `cat_ranges` fetches nothing twice."""
    chance = random.Random(3)
    names = [chance.choice(("noise.bin", "words.txt")) for _ in range(200)]
    starts = [chance.randrange(700_000) for _ in names]
    ends = [start + chance.choice((10, 70_000)) for start in starts]
    paths = [f"{task}/outputs/{name}" for name in names]
    found = remote.cat_ranges(paths, starts, ends)
    for name, start, end, piece in zip(names, starts, ends, found, strict=True):
        assert_same(piece, OUTPUTS[name][start:end])
    assert store_bytes(cloud) <= archive_size(cloud, task) + 70_000
    assert remote.cat_ranges([paths[0]] * 2, 0, [1, 2]) == [
        OUTPUTS[names[0]][:1],
        OUTPUTS[names[0]][:2],
    ]
    with pytest.raises(ValueError, match="length"):
        remote.cat_ranges(paths, [1], [2])


def test_cat_ranges_goes_out_at_once(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-6: No range of `cat_ranges` waits for another one's answer."""
    tasks = [cloud.add_task(outputs={"a": b"a", "noise": os.urandom(300_000)}) for _ in range(3)]
    paths = [f"{task}/outputs/noise" for task in tasks]
    remote.sizes(paths)  # the directories of the archives
    stalls = [cloud.faults.add("stall", side="store", path=task) for task in tasks]
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(remote.cat_ranges(paths, 0, 100)))
    reader.start()
    eventually(lambda: all(stall.hits for stall in stalls))
    cloud.faults.release()
    reader.join(30)
    assert list(map(len, found)) == [100, 100, 100]


def test_cat_ranges_returns_or_raises_failures(remote: TaskFileSystem, task: str) -> None:
    """P-6: `on_error` of cat_ranges says whether a failure replaces its range or is raised."""
    paths = [f"{task}/outputs/noise.bin", f"{task}/nothing", f"{task}/outputs"]
    found = remote.cat_ranges(paths, 0, 5)
    assert found[0] == NOISE[:5]
    assert isinstance(found[1], FileNotFoundError)
    assert isinstance(found[2], IsADirectoryError)
    with pytest.raises(FileNotFoundError):
        remote.cat_ranges(paths, 0, 5, on_error="raise")


def test_cat_of_many(remote: TaskFileSystem, task: str, cloud: FakeCloud) -> None:
    """P-6: `cat` of several files fetches them in parallel."""
    other = cloud.add_task(status="started")
    assert remote.cat("*/status") == {
        f"{task}/status": b"success\n",
        f"{other}/status": b"started\n",
    }
    assert remote.cat(f"{task}/status") == b"success\n"
    tree = remote.cat(f"{task}/outputs", recursive=True)
    assert set(tree) == {f"{task}/outputs/{name}" for name in OUTPUTS}
    assert_same(tree[f"{task}/outputs/words.txt"], OUTPUTS["words.txt"])
    with pytest.raises(FileNotFoundError):
        remote.cat([f"{task}/status", f"{task}/x"])
    assert remote.cat([f"{task}/status", f"{task}/x"], on_error="omit") == {
        f"{task}/status": b"success\n"
    }
    assert store_bytes(cloud) <= archive_size(cloud, task) + 70_000


def test_each_byte_is_fetched_once(new_fs: Any, task: str, cloud: FakeCloud) -> None:
    """P-14: An instance does not fetch bytes that another one has fetched."""
    for timeout in ("31s", "32s"):  # two configurations share no memory
        fs = new_fs(timeout=timeout)
        for name, content in OUTPUTS.items():
            assert_same(fs.cat_file(f"{task}/outputs/{name}"), content)
    assert store_bytes(cloud) <= archive_size(cloud, task) + 70_000


def test_get(remote: TaskFileSystem, task: str, tmp_path: Path) -> None:
    """P-6: `get` copies a directory with all beneath it."""
    remote.get(f"{task}/outputs", str(tmp_path / "copy"), recursive=True)
    for name, content in OUTPUTS.items():
        assert_same((tmp_path / "copy" / name).read_bytes(), content)


def test_behind_a_file_cache(by_environment: FakeCloud, tmp_path: Path) -> None:
    """P-18: fsspec's file cache notices a change by `ukey`."""
    task = by_environment.add_task(outputs={"a.txt": b"old"})
    fs = fsspec.filesystem(
        "filecache",
        target_protocol="taskfs",
        cache_storage=str(tmp_path / "files"),
        check_files=True,
    )
    assert fs.cat_file(f"{task}/outputs/a.txt") == b"old"
    assert fs.cat_file(f"{task}/outputs/a.txt") == b"old"
    other = by_environment.get_object(
        f"{by_environment.add_task(outputs={'a.txt': b'newer'})}/output.zip"
    )
    assert other is not None
    by_environment.put_object(f"{task}/output.zip", other.source)
    fs.fs.invalidate_cache()
    assert fs.cat_file(f"{task}/outputs/a.txt") == b"newer"


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 5000), "compression": "gzip"}])
def test_h5py_reads_slices_of_an_open_file(
    remote: TaskFileSystem, cloud: FakeCloud, options: dict[str, Any]
) -> None:
    """P-16: h5py reads slices of an open file."""
    import h5py

    field = np.random.default_rng(5).normal(size=(120, 10_000))
    whole = io.BytesIO()
    with h5py.File(whole, "w") as made:
        made.create_dataset("pressure", data=field, **options)
    task = cloud.add_task(outputs={"run.h5": whole.getvalue()})
    with remote.open(f"{task}/outputs/run.h5") as opened, h5py.File(opened, "r") as file:
        assert np.array_equal(file["pressure"][100, :50], field[100, :50])
        assert np.array_equal(file["pressure"][3:90:7, 9_000:], field[3:90:7, 9_000:])
