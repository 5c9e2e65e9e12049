"""The cache on disk: across unmounts, shared with other mounts, and damaged."""

import contextlib
import errno
import os
import random
import stat
import time
from pathlib import Path

import pytest

from tests.caches import (
    MountFactory,
    TreeFactory,
    archive_requests,
    cached_files,
    check_outputs,
    disk_use,
    make_files,
)
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, Mounted, assert_same, write
from tests.mounts import eventually
from tests.outputs import LONG_AGO, QUICK, Files, add_finished_task, noise, put_outputs


@pytest.mark.mount
def test_a_second_mount_asks_the_store_for_nothing(
    mounted: MountFactory, cloud: FakeCloud, cache: Path
) -> None:
    """R-13, R-2, Y-1: A later mount lists and reads without the store; the files are 0600 in 0700
    directories."""
    files = make_files(1)
    task = add_finished_task(cloud, files)
    old = os.umask(0)
    try:
        with mounted() as mount:
            check_outputs(Mounted(cloud, mount.path), task, files)
    finally:
        os.umask(old)
    assert archive_requests(cloud)
    for path in (cache, *cache.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.is_file() else 0o700), path
    cloud.clear_requests()
    with mounted() as mount:
        check_outputs(Mounted(cloud, mount.path), task, files)
        info = (mount.path / task / "output_files_info").read_text()
        assert info.count("\n") == 3 + len(files)
    assert archive_requests(cloud) == []


def test_listing_alone_is_kept_too(open_tree: TreeFactory, cloud: FakeCloud) -> None:
    """A-13, R-13: After the first `stat` of a member the index is on disk."""
    files = make_files(2)
    task = add_finished_task(cloud, files)
    with open_tree() as fs:
        assert fs.stat(f"{task}/outputs/small").st_size == len(files["small"])
        assert len([line for line in archive_requests(cloud) if line.startswith("store")]) == 1
    cloud.clear_requests()
    with open_tree() as fs:
        for name, body in files.items():
            assert fs.stat(f"{task}/outputs/{name}").st_size == len(body)
        assert archive_requests(cloud) == []
        check_outputs(fs, task, files)


def test_an_unfinished_task_s_index_is_not_kept(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path
) -> None:
    """R-13: Each mount looks again at an archive that may still grow, and never mixes it with an
    older one."""
    task = cloud.add_task(status="computation-started")
    early = {"early": noise(1, 300_000)}
    put_outputs(cloud, task, early)
    with open_tree() as fs:
        check_outputs(fs, task, early)
    assert cached_files(cache, "index") == []
    grown = {"early": noise(2, 300_000), "late": b"second\n"}
    put_outputs(cloud, task, grown)
    with open_tree() as fs:
        check_outputs(fs, task, grown)
    assert cached_files(cache, "index") == []


def test_a_task_that_ends_after_its_archive_was_seen(
    open_tree: TreeFactory, cloud: FakeCloud
) -> None:
    """R-13: The index from before a task's end is not kept."""
    task = cloud.add_task(status="computation-started")
    put_outputs(cloud, task, {"x": b"so far\n"})
    with open_tree(**QUICK) as fs:
        check_outputs(fs, task, {"x": b"so far\n"})
        put_outputs(cloud, task, {"x": b"all of it\n"})
        cloud.update_task(task, status="success", is_terminated=True, end_time=LONG_AGO)
        eventually(lambda: fs.stat(f"{task}/outputs/x").st_size == len(b"all of it\n"))
        check_outputs(fs, task, {"x": b"all of it\n"})
    with open_tree() as fs:
        check_outputs(fs, task, {"x": b"all of it\n"})


def check_replaced(fs: FileSystem, task: str, old: Files, new: Files) -> set[str]:
    """Read all files twice: first the old ones or ESTALE, at most once, then only the new ones.

    Return the kinds of results: `old`, `stale` or `new`.
    """
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
def test_an_archive_replaced_between_two_reads(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path, read_before: str
) -> None:
    """F-8, U-2: After a replacement between mounts, the next mount serves old bytes from its cache,
    or ESTALE once, then the new ones, and never both."""
    names = [f"f{number}" for number in range(4)]
    old = {name: noise(f"old {name}", 400_000) for name in names}
    new = {name: noise(f"new {name}", 400_000) for name in names} | {"more": b"more\n"}
    task = add_finished_task(cloud, old, 0)
    with open_tree(**QUICK) as fs:
        assert sorted(fs.names(f"{task}/outputs")) == names
        if read_before == "all":
            check_outputs(fs, task, old)
        elif read_before == "a part":
            assert_same(fs.read(f"{task}/outputs/f0"), old["f0"])
            with fs.open(f"{task}/outputs/f2") as file:
                assert_same(file.read_at(300_000, 1000), old["f2"][300_000:301_000])
    put_outputs(cloud, task, new, 0)
    with open_tree(**QUICK) as fs:
        seen = check_replaced(fs, task, old, new)
        assert "new" in seen or read_before == "all"
        write(fs, ".taskfs/refresh")
        check_outputs(fs, task, new)
    with open_tree() as fs:
        check_outputs(fs, task, new)


@pytest.mark.mount
def test_an_archive_replaced_between_two_mounts(mounted: MountFactory, cloud: FakeCloud) -> None:
    """F-8: The same holds with a kernel that keeps sizes and pages."""
    old = {f"f{number}": noise(f"old {number}", 400_000) for number in range(4)}
    new = {f"f{number}": noise(f"new {number}", 500_000) for number in range(4)}
    task = add_finished_task(cloud, old, 0)
    with mounted() as mount:
        assert_same((mount.path / task / "outputs/f0").read_bytes(), old["f0"])
    put_outputs(cloud, task, new, 0)
    with mounted(**QUICK) as mount:
        assert "new" in check_replaced(Mounted(cloud, mount.path), task, old, new)
        check_outputs(Mounted(cloud, mount.path), task, new)


def test_refresh_forgets_the_index(open_tree: TreeFactory, cloud: FakeCloud) -> None:
    """N-21: A refresh also forgets the index on disk."""
    task = add_finished_task(cloud, {"x": b"old\n"})
    with open_tree() as fs:
        check_outputs(fs, task, {"x": b"old\n"})
        put_outputs(cloud, task, {"x": b"new one\n"})
        write(fs, ".taskfs/refresh")
        assert fs.read(f"{task}/outputs/x") == b"new one\n"
    with open_tree() as fs:
        check_outputs(fs, task, {"x": b"new one\n"})


def test_refresh_forgets_the_index_that_an_earlier_mount_kept(
    open_tree: TreeFactory, cloud: FakeCloud
) -> None:
    """N-21: A refresh also forgets an index that this mount has not looked at yet."""
    task = add_finished_task(cloud, {"x": b"old\n"})
    with open_tree() as fs:
        check_outputs(fs, task, {"x": b"old\n"})
    put_outputs(cloud, task, {"x": b"new one\n"})
    with open_tree() as fs:
        write(fs, ".taskfs/refresh")
        check_outputs(fs, task, {"x": b"new one\n"})


def test_an_archive_removed_between_two_trees(open_tree: TreeFactory, cloud: FakeCloud) -> None:
    """F-12: A 404 drops the index of an archive that its owner removed."""
    task = add_finished_task(cloud, {"x": noise(3, 300_000), "y": noise(4, 300_000)}, 0)
    with open_tree() as fs:
        assert sorted(fs.names(f"{task}/outputs")) == ["x", "y"]
    cloud.remove_object(f"{task}/output.zip")
    with open_tree() as fs:
        with pytest.raises(FileNotFoundError):
            fs.read(f"{task}/outputs/x")
        assert fs.names(f"{task}/outputs") == []
    with open_tree() as fs:
        assert fs.names(f"{task}/outputs") == []


def test_a_byte_flipped_on_the_way_does_not_stay(open_tree: TreeFactory, cloud: FakeCloud) -> None:
    """I-3: A mismatch drops its blocks on disk too, and a later mount gets the right bytes."""
    files = {"x": noise(6, 500_000)}
    task = add_finished_task(cloud, files, 0)
    with open_tree() as fs:
        fault = cloud.faults.add("flip", side="store", times=None, at=200_000)
        with pytest.raises(OSError) as caught:
            fs.read(f"{task}/outputs/x")
        assert caught.value.errno == errno.EIO
        assert fault.hits
    cloud.faults.clear()
    with open_tree() as fs:
        check_outputs(fs, task, files)


def test_a_directory_damaged_on_the_way_does_not_stay(
    open_tree: TreeFactory, cloud: FakeCloud
) -> None:
    """I-3: A damaged directory is dropped, and a later mount asks the store again."""
    body = b"some text\n" * 3000
    task = add_finished_task(cloud, {"x": body})
    stored = cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    archive = bytes(stored.source.read(0, stored.source.size))
    at = archive.rindex(b"PK\x01\x02") + 16  # the CRC-32 of the member
    with open_tree() as fs:
        cloud.faults.add("flip", side="store", times=1, at=at)
        with contextlib.suppress(OSError):
            assert_same(fs.read(f"{task}/outputs/x"), body)
    with open_tree() as fs:
        check_outputs(fs, task, {"x": body})


def test_a_member_larger_than_the_cache(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path
) -> None:
    """R-14: A member larger than the cache is read to its end and at random, and the disk stays
    within `--cache-size`."""
    size = 5 << 20
    stored, text = noise(8, 12_000_000), noise(9, 1 << 20).hex().encode() * 4
    bodies = {
        f"{add_finished_task(cloud, {'stored': stored}, 0)}/outputs/stored": stored,
        f"{add_finished_task(cloud, {'text': text})}/outputs/text": text,
    }
    rng = random.Random(10)
    for _ in range(2):
        with open_tree(cache_size=str(size)) as fs:
            for path, body in bodies.items():
                assert_same(fs.read(path), body)
                with fs.open(path) as file:
                    for _ in range(10):
                        at = rng.randrange(len(body))
                        assert_same(file.read_at(at, 5000), body[at : at + 5000])
                eventually(lambda: 0 < disk_use(cache) <= size)


def test_a_cache_size_of_0_keeps_nothing(
    open_tree: TreeFactory, cloud: FakeCloud, cache: Path
) -> None:
    """C-14: `--cache-size 0` keeps nothing."""
    files = make_files(11)
    task = add_finished_task(cloud, files)
    for _ in range(2):
        with open_tree(cache_size="0") as fs:
            check_outputs(fs, task, files)
    assert not cache.exists()
