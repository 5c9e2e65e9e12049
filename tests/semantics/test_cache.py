"""README, Semantics: what is kept on disk, over unmounts, beside other mounts and in bad shape."""

import contextlib
import errno
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import in_process, on_mount
from tests.fake_api import FakeCloud
from tests.mounts import Mount, eventually
from tests.odd_zips import Odd, odd_zip
from tests.surfaces import InProcess, Mounted, Surface, assert_same, walk, write

LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
QUICK: Final = {"attr_timeout": "100ms", "status_cache_time": "200ms", "dir_cache_time": "300ms"}
SEGMENT: Final = 4 << 20
Files = dict[str, bytes]
Mounting = Callable[..., contextlib.AbstractContextManager[Mount]]
Opening = Callable[..., contextlib.AbstractContextManager[InProcess]]


def noise(seed: object, size: int) -> bytes:
    return random.Random(str(seed)).randbytes(size)


def some_files(seed: int) -> Files:
    return {
        "small": b"a few bytes of %d\n" % seed,
        "text": b"".join(b"%d line of %d\n" % (number, seed) for number in range(60_000)),
        "deep/noise": noise(seed, 700_000),
    }


def put(cloud: FakeCloud, task: str, files: Files, method: int = 8) -> None:
    members = [Odd(f"artifacts/{name}".encode(), body, method) for name, body in files.items()]
    cloud.put_object(f"{task}/output.zip", odd_zip(members))


def finished(cloud: FakeCloud, files: Files, method: int = 8) -> str:
    task = cloud.add_task(end_time=LONG_AGO)
    put(cloud, task, files, method)
    return task


def check(fs: Surface, task: str, files: Files) -> None:
    """Fail unless the tree lists and gives exactly these files."""
    assert sorted(walk(fs, f"{task}/outputs")) == sorted(files)
    for name, body in files.items():
        assert fs.stat(f"{task}/outputs/{name}").st_size == len(body)
        assert_same(fs.read(f"{task}/outputs/{name}"), body)


def outside(cloud: FakeCloud) -> list[str]:
    """Return what went out for archives: requests to the store, and for signed URLs."""
    return [
        f"{record.side} {record.path}"
        for record in cloud.requests
        if record.side == "store" or "url" in record.path or "output" in record.path
    ]


def kept_files(cache: Path, kind: str) -> list[Path]:
    return sorted(path for path in (cache / "v1" / kind).rglob("*") if path.is_file())


def disk_use(cache: Path) -> int:
    total = 0
    for top, _, names in os.walk(cache):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(top, name).lstat().st_blocks * 512
    return total


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def opened(cloud: FakeCloud, cache: Path) -> Opening:
    """Opens trees of the cloud in process, all on the one cache of the test."""

    def tree(**options: str) -> contextlib.AbstractContextManager[InProcess]:
        return in_process(cloud, cache, options)

    return tree


@pytest.fixture
def mounted(cloud: FakeCloud, cache: Path, tmp_path: Path) -> Mounting:
    """Mounts the cloud, always on the one cache of the test."""

    @contextlib.contextmanager
    def mount(**options: str) -> Iterator[Mount]:
        home = tmp_path / f"mount{len(os.listdir(tmp_path))}"
        with on_mount(cloud, home, {"cache_dir": str(cache), **options}) as mount:
            yield mount

    return mount


@pytest.mark.mount
def test_a_second_mount_asks_the_store_for_nothing(
    mounted: Mounting, cloud: FakeCloud, cache: Path
) -> None:
    """Issue 3: the parsed index of a finished task is kept on disk: a later mount lists without
    touching the store; nothing is fetched twice while it fits. Files are 0600 in 0700
    directories."""
    files = some_files(1)
    task = finished(cloud, files)
    old = os.umask(0)
    try:
        with mounted() as mount:
            check(Mounted(cloud, mount.path), task, files)
    finally:
        os.umask(old)
    assert outside(cloud)
    for path in (cache, *cache.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.is_file() else 0o700), path
    cloud.clear_requests()
    with mounted() as mount:
        check(Mounted(cloud, mount.path), task, files)
        info = (mount.path / task / "output_files_info").read_text()
        assert info.count("\n") == 3 + len(files)
    assert outside(cloud) == []


def test_listing_alone_is_kept_too(opened: Opening, cloud: FakeCloud) -> None:
    """README, Attributes: the first `stat` of a member in a finished task costs one signed URL and
    one range, then it is kept on disk."""
    files = some_files(2)
    task = finished(cloud, files)
    with opened() as fs:
        assert fs.stat(f"{task}/outputs/small").st_size == len(files["small"])
        assert len([line for line in outside(cloud) if line.startswith("store")]) == 1
    cloud.clear_requests()
    with opened() as fs:
        for name, body in files.items():
            assert fs.stat(f"{task}/outputs/{name}").st_size == len(body)
        assert outside(cloud) == []
        check(fs, task, files)


def test_an_unfinished_task_s_index_is_not_kept(
    opened: Opening, cloud: FakeCloud, cache: Path
) -> None:
    """Issue 3: the parsed index of a *finished* task is kept: an archive that may still grow is
    looked at again by each mount, and never mixed with what it was before."""
    task = cloud.add_task(status="computation-started")
    early = {"early": noise(1, 300_000)}
    put(cloud, task, early)
    with opened() as fs:
        check(fs, task, early)
    assert kept_files(cache, "index") == []
    grown = {"early": noise(2, 300_000), "late": b"second\n"}
    put(cloud, task, grown)
    with opened() as fs:
        check(fs, task, grown)
    assert kept_files(cache, "index") == []


def test_a_task_that_ends_after_its_archive_was_seen(opened: Opening, cloud: FakeCloud) -> None:
    """Issue 3: the parsed index of a *finished* task is kept: not the one from before its end."""
    task = cloud.add_task(status="computation-started")
    put(cloud, task, {"x": b"so far\n"})
    with opened(**QUICK) as fs:
        check(fs, task, {"x": b"so far\n"})
        put(cloud, task, {"x": b"all of it\n"})
        cloud.update_task(task, status="success", is_terminated=True, end_time=LONG_AGO)
        eventually(lambda: fs.stat(f"{task}/outputs/x").st_size == len(b"all of it\n"), 5)
        check(fs, task, {"x": b"all of it\n"})
    with opened() as fs:
        check(fs, task, {"x": b"all of it\n"})


def check_replaced(fs: Surface, task: str, old: Files, new: Files) -> set[str]:
    """Read all files twice: old ones or ESTALE, at most once, and from then on new ones. Return
    which there were."""
    seen = []
    for _ in range(2):
        for name in old:
            try:
                content = fs.read(f"{task}/outputs/{name}")
            except OSError as exc:
                assert exc.errno == errno.ESTALE
                seen.append("stale")
                time.sleep(0.3)  # the kernel may keep the old size for the attr timeout
                continue
            seen.append("old" if content == old[name] else "new")
            assert_same(content, (old if content == old[name] else new)[name])
    order = ["old", "stale", "new"]
    assert seen == sorted(seen, key=order.index)
    assert seen.count("stale") <= 1
    return set(seen)


@pytest.mark.parametrize("read_before", ["nothing", "a part", "all"])
def test_an_archive_replaced_while_nobody_looked(
    opened: Opening, cloud: FakeCloud, cache: Path, read_before: str
) -> None:
    """README, Freshness: a member's bytes belong to one version, over an unmount too: the next
    mount gives old bytes from its cache or ESTALE, at most once, then the new ones; never both."""
    names = [f"f{number}" for number in range(4)]
    old = {name: noise(f"old {name}", 400_000) for name in names}
    new = {name: noise(f"new {name}", 400_000) for name in names} | {"more": b"more\n"}
    task = finished(cloud, old, 0)
    with opened(**QUICK) as fs:
        assert sorted(fs.names(f"{task}/outputs")) == names
        if read_before == "all":
            check(fs, task, old)
        elif read_before == "a part":
            assert_same(fs.read(f"{task}/outputs/f0"), old["f0"])
            with fs.open(f"{task}/outputs/f2") as file:
                assert_same(file.read_at(300_000, 1000), old["f2"][300_000:301_000])
    put(cloud, task, new, 0)
    with opened(**QUICK) as fs:
        seen = check_replaced(fs, task, old, new)
        assert "new" in seen or read_before == "all"
        write(fs, ".taskfs/refresh")
        check(fs, task, new)
    with opened() as fs:
        check(fs, task, new)


@pytest.mark.mount
def test_an_archive_replaced_between_two_mounts(mounted: Mounting, cloud: FakeCloud) -> None:
    """README, Freshness: as above, with a kernel that keeps sizes and pages."""
    old = {f"f{number}": noise(f"old {number}", 400_000) for number in range(4)}
    new = {f"f{number}": noise(f"new {number}", 500_000) for number in range(4)}
    task = finished(cloud, old, 0)
    with mounted() as mount:
        assert_same((mount.path / task / "outputs/f0").read_bytes(), old["f0"])
    put(cloud, task, new, 0)
    with mounted(**QUICK) as mount:
        assert "new" in check_replaced(Mounted(cloud, mount.path), task, old, new)
        check(Mounted(cloud, mount.path), task, new)


def test_refresh_forgets_the_index(opened: Opening, cloud: FakeCloud) -> None:
    """README, The tree: `.taskfs/refresh` (write: forget what is cached): also what is on disk."""
    task = finished(cloud, {"x": b"old\n"})
    with opened() as fs:
        check(fs, task, {"x": b"old\n"})
        put(cloud, task, {"x": b"new one\n"})
        write(fs, ".taskfs/refresh")
        assert fs.read(f"{task}/outputs/x") == b"new one\n"
    with opened() as fs:
        check(fs, task, {"x": b"new one\n"})


def test_refresh_forgets_the_index_that_an_earlier_mount_kept(
    opened: Opening, cloud: FakeCloud
) -> None:
    """README, The tree: `.taskfs/refresh` (write: forget what is cached): also what this mount has
    not looked at yet."""
    task = finished(cloud, {"x": b"old\n"})
    with opened() as fs:
        check(fs, task, {"x": b"old\n"})
    put(cloud, task, {"x": b"new one\n"})
    with opened() as fs:
        write(fs, ".taskfs/refresh")
        check(fs, task, {"x": b"new one\n"})


def test_an_archive_removed_while_nobody_looked(opened: Opening, cloud: FakeCloud) -> None:
    """README, Freshness: an archive removed by its owner: a 404 drops its index."""
    task = finished(cloud, {"x": noise(3, 300_000), "y": noise(4, 300_000)}, 0)
    with opened() as fs:
        assert sorted(fs.names(f"{task}/outputs")) == ["x", "y"]
    cloud.remove_object(f"{task}/output.zip")
    with opened() as fs:
        with pytest.raises(FileNotFoundError):
            fs.read(f"{task}/outputs/x")
        assert fs.names(f"{task}/outputs") == []
    with opened() as fs:
        assert fs.names(f"{task}/outputs") == []


def _flip(path: Path) -> None:
    rng, content = random.Random(path.name), bytearray(path.read_bytes())
    for at in (*rng.choices(range(len(content)), k=30), *range(0, len(content), 50_000)):
        content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _swap(path: Path) -> None:
    others = [other for other in path.parents[path.parts[-2] != "index"].rglob("*-0")]
    path.replace(random.Random(path.name).choice(others or [path]))


DAMAGES: Final[dict[str, Callable[[Path], None]]] = {
    "flipped": _flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "another's": _swap,
}


@pytest.mark.parametrize("when", ["between", "while open"])
def test_a_damaged_cache_is_a_cache_miss(
    opened: Opening, cloud: FakeCloud, cache: Path, when: str
) -> None:
    """README, Integrity: cached blocks are checked against their own checksum before they are used
    again; a damaged cache is a cache miss: while nobody has it mounted and under a mount."""
    tasks = {finished(cloud, some_files(number)): some_files(number) for number in range(2)}
    for damage in DAMAGES.values():
        with opened() as before:
            for task, files in tasks.items():
                check(before, task, files)
            for path in kept_files(cache, "blocks") + kept_files(cache, "index"):
                with contextlib.suppress(FileNotFoundError):  # swapped away
                    damage(path)
            with contextlib.ExitStack() as stack:
                fs = before if when == "while open" else stack.enter_context(opened())
                if when == "while open":
                    fs.core.tree.parts.shelf.forget()
                for task, files in tasks.items():
                    check(fs, task, files)


def test_a_byte_flipped_on_the_way_does_not_stay(opened: Opening, cloud: FakeCloud) -> None:
    """README, Integrity: a mismatch drops the blocks it came from, on disk too: a later mount gives
    what the store has."""
    files = {"x": noise(6, 500_000)}
    task = finished(cloud, files, 0)
    with opened() as fs:
        fault = cloud.faults.add("flip", side="store", times=None, at=200_000)
        with pytest.raises(OSError) as caught:
            fs.read(f"{task}/outputs/x")
        assert caught.value.errno == errno.EIO
        assert fault.hits
    cloud.faults.clear()
    with opened() as fs:
        check(fs, task, files)


def test_a_directory_damaged_on_the_way_does_not_stay(opened: Opening, cloud: FakeCloud) -> None:
    """README, Integrity: what proved wrong is dropped: a later mount asks the store again."""
    body = b"some text\n" * 3000
    task = finished(cloud, {"x": body})
    stored = cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    archive = bytes(stored.source.read(0, stored.source.size))
    at = archive.rindex(b"PK\x01\x02") + 16  # the CRC-32 of the member
    with opened() as fs:
        cloud.faults.add("flip", side="store", times=1, at=at)
        with contextlib.suppress(OSError):
            assert_same(fs.read(f"{task}/outputs/x"), body)
    with opened() as fs:
        check(fs, task, {"x": body})


@pytest.mark.mount
def test_the_cache_deleted_underneath(mounted: Mounting, cloud: FakeCloud, cache: Path) -> None:
    """Issue 4, processes: a cache directory deleted underneath: reads go on, right; what is read
    from then on is kept again."""
    tasks = {finished(cloud, some_files(number)): some_files(number) for number in range(3)}
    first, second, third = tasks
    with mounted() as mount:
        fs = Mounted(cloud, mount.path)
        check(fs, first, tasks[first])
        with open(mount.path / second / "outputs/text", "rb") as file:
            content = file.read(100_000)
            shutil.rmtree(cache)
            content += file.read()
        assert_same(content, tasks[second]["text"])
        for task, files in tasks.items():
            check(fs, task, files)
    cloud.clear_requests()
    with mounted() as mount:
        check(Mounted(cloud, mount.path), third, tasks[third])
    assert outside(cloud) == []


@pytest.mark.mount
def test_a_disk_that_takes_no_more(cloud: FakeCloud, tmp_path: Path, cache: Path) -> None:
    """Issue 4, processes: a full cache directory, here by a limit on the size of files: reads go
    on, right; nothing half is left lying; the log says it once."""
    files = some_files(7) | {f"{number:0100}": b"x" for number in range(1000)}
    task = finished(cloud, files)
    place = tmp_path / "mnt"
    place.mkdir()
    mount = Mount(cloud, place, tmp_path, {"cache_dir": str(cache)})
    limit = ("prlimit", "--fsize=20000")
    done = mount.taskfs("mount", *mount.flags, place, prefix=limit)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        for name in ("small", "text", "deep/noise", "text"):
            assert_same((place / task / "outputs" / name).read_bytes(), files[name])
    finally:
        mount.stop()
    mount.check_log()
    told = [line for line in mount.log.read_text().splitlines() if "cache" in line]
    assert len(told) == 1, told
    assert kept_files(cache, "index") == []


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_the_cache_directory(
    cloud: FakeCloud, cache: Path, below: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Issue 4, processes: a cache directory that cannot be made: reads go on, right; the log says
    it once."""
    cache.write_bytes(b"a file")
    task = finished(cloud, some_files(8))
    with in_process(cloud, cache / below, {}) as fs:
        check(fs, task, some_files(8))
    assert len([record for record in caplog.records if "cache" in record.getMessage()]) == 1


@pytest.mark.mount
def test_two_mounts_on_one_cache(mounted: Mounting, cloud: FakeCloud, cache: Path) -> None:
    """Issue 4, processes: two mounts on one cache: each gives right bytes while both read, write
    and make room; disk stays under `--cache-size`, up to a segment per writer."""
    size = 12 << 20
    tasks = {}
    for number in range(4):
        files = {"stored": noise(number, 5_000_000)}
        tasks[finished(cloud, files, 0)] = files
    failures: list[BaseException] = []
    most = 0

    def read(mount: Mount, seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(3):
                task = rng.choice(list(tasks))
                check(Mounted(cloud, mount.path), task, tasks[task])
                body = tasks[task]["stored"]
                with open(mount.path / task / "outputs/stored", "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    for _ in range(10):
                        at = rng.randrange(len(body))
                        assert_same(os.pread(file.fileno(), 9000, at), body[at : at + 9000])
        except BaseException as exc:
            failures.append(exc)

    with contextlib.ExitStack() as stack:
        mounts = [stack.enter_context(mounted(cache_size=str(size))) for _ in range(2)]
        readers = [
            threading.Thread(target=read, args=(mount, number), daemon=True)
            for number, mount in enumerate(mounts * 2)
        ]
        for reader in readers:
            reader.start()
        deadline = time.monotonic() + 30
        while any(reader.is_alive() for reader in readers):
            assert time.monotonic() < deadline
            most = max(most, disk_use(cache))
            time.sleep(0.01)
        if failures:
            raise failures[0]
    assert size // 3 < most <= size + 2 * SEGMENT


def test_a_member_larger_than_the_cache(opened: Opening, cloud: FakeCloud, cache: Path) -> None:
    """README, Limits: one member may be larger than the cache: it is read to its end and at random;
    disk stays under `--cache-size`."""
    size = 5 << 20
    stored, text = noise(8, 12_000_000), noise(9, 1 << 20).hex().encode() * 4
    bodies = {
        f"{finished(cloud, {'stored': stored}, 0)}/outputs/stored": stored,
        f"{finished(cloud, {'text': text})}/outputs/text": text,
    }
    rng = random.Random(10)
    for _ in range(2):
        with opened(cache_size=str(size)) as fs:
            for path, body in bodies.items():
                assert_same(fs.read(path), body)
                with fs.open(path) as file:
                    for _ in range(10):
                        at = rng.randrange(len(body))
                        assert_same(file.read_at(at, 5000), body[at : at + 5000])
                eventually(lambda: 0 < disk_use(cache) <= size, 2)


def test_a_cache_size_of_0_keeps_nothing(opened: Opening, cloud: FakeCloud, cache: Path) -> None:
    """`--cache-size`: 0 keeps none."""
    files = some_files(11)
    task = finished(cloud, files)
    for _ in range(2):
        with opened(cache_size="0") as fs:
            check(fs, task, files)
    assert not cache.exists()
