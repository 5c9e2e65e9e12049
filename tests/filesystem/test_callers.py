"""Behaviour that fsspec's callers and its own caches need."""

import asyncio
import errno
import os
import pickle
import time
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import fsspec
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from taskfs.tree.archive_handles import KERNEL_RETRY_S
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same

# The file that keeps the blocks is fsspec's, which leaves it to the garbage collection.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

NOISE: Final = os.urandom(1_500_000)
BIG: Final = os.urandom(12 << 20)  # more than is read ahead
GENERIC: Final[dict[str, Any]] = {
    "asynchronous": False,
    "batch_size": 16,
    "loop": None,
    "use_listings_cache": True,
    "listings_expiry_time": 5,
    "max_paths": 100,
    "skip_instance_cache": True,
}


@pytest.fixture
def task(by_environment: FakeCloud) -> str:
    return by_environment.add_task(outputs={"noise.bin": NOISE, "empty": b"", "a/b.csv": b"1,2\n"})


@pytest.mark.parametrize("option", list(GENERIC))
def test_options_of_every_file_system(task: str, option: str) -> None:
    """P-19: Options that fsspec's callers give to every file system are accepted."""
    fs = fsspec.filesystem("taskfs", **{option: GENERIC[option]})
    assert fs.cat_file(f"{task}/outputs/a/b.csv") == b"1,2\n"
    copy = pickle.loads(pickle.dumps(fs))
    assert copy.cat_file(f"{task}/outputs/a/b.csv") == b"1,2\n"


def test_an_event_loop_is_not_pickled(task: str) -> None:
    """P-12, P-19: An event loop is not pickled."""
    loop = asyncio.new_event_loop()
    try:
        fs = fsspec.filesystem("taskfs", asynchronous=True, loop=loop, timeout="9s")
        copy = pickle.loads(pickle.dumps(fs))
    finally:
        loop.close()
    assert copy.storage_options == {"asynchronous": True, "timeout": "9s"}
    assert copy.cat_file(f"{task}/outputs/a/b.csv") == b"1,2\n"


def test_an_unknown_option_names_the_known_ones() -> None:
    """P-10: An unknown option is an error that names the nearest and the known ones."""
    with pytest.raises(
        ValueError, match=r"'tiemout': did you mean timeout.* the options are .*cach"
    ):
        fsspec.filesystem("taskfs", tiemout=1)
    with pytest.raises(
        ValueError, match=r"'anon': the options are api_key, api_key_file, .*timeout"
    ):
        fsspec.filesystem("taskfs", anon=True)


@pytest.mark.parametrize("cache", ["blockcache", "filecache", "simplecache"])
def test_caches_of_fsspec(task: str, tmp_path: Path, cache: str) -> None:
    """P-20: `blockcache::`, `filecache::` and `simplecache::` work."""
    for name, content in (("noise.bin", NOISE), ("empty", b""), ("a/b.csv", b"1,2\n")):
        url = f"{cache}::taskfs://{task}/outputs/{name}"
        for _ in range(2):
            with fsspec.open(url, **{cache: {"cache_storage": str(tmp_path / "c")}}) as file:
                assert file.read(3) == content[:3]
                file.seek(len(content) // 2)
                assert_same(file.read(), content[len(content) // 2 :])
                file.seek(0)
                assert_same(file.read(), content)


def block_cached(
    task: str, directory: Path, name: str = "noise.bin", timeout: str = "30s", **options: Any
) -> Any:
    """Return an open file behind `blockcache::`, with small blocks."""
    fs = fsspec.filesystem(
        "blockcache",
        target_protocol="taskfs",
        target_options={"cache_size": 0, "timeout": timeout, "dir_cache_time": "0s"},
        cache_storage=str(directory),
        skip_instance_cache=True,
        **options,
    )
    return fs.open(f"{task}/outputs/{name}", block_size=100_000)


def test_blockcache_fetches_a_block_once(
    task: str, tmp_path: Path, by_environment: FakeCloud
) -> None:
    """P-20: A block that `blockcache::` keeps is not fetched again, in the next process either."""
    with block_cached(task, tmp_path / "c") as file:
        file.seek(200_000)
        assert_same(file.read(1000), NOISE[200_000:201_000])
    TaskFileSystem.clear_instance_cache()
    with block_cached(task, tmp_path / "c") as file:
        assert file.cache.blocks == {2}
        by_environment.clear_requests()
        file.seek(250_000)
        assert_same(file.read(1000), NOISE[250_000:251_000])
        assert not any(r.side == "store" and r.bytes_sent > 50_000 for r in by_environment.requests)


def test_a_failed_read_leaves_no_zeros_in_blockcache(
    tmp_path: Path, by_environment: FakeCloud
) -> None:
    """P-20, X-9: A failed read leaves no block that counts as read."""
    task = by_environment.add_task(outputs={"big.bin": BIG})
    with block_cached(task, tmp_path / "c", name="big.bin", timeout="5s") as file:
        assert file.read(10) == BIG[:10]
        by_environment.faults.add("reset", side="store", times=None)
        file.seek(11_000_000)
        with pytest.raises(TimeoutError):
            file.read(100)
        by_environment.faults.clear()
        time.sleep(2 * KERNEL_RETRY_S)  # until then the same read gets the same answer
        file.seek(11_000_000)
        assert_same(file.read(100), BIG[11_000_000:11_000_100])


def test_blocks_of_two_versions_do_not_mix(tmp_path: Path, by_environment: FakeCloud) -> None:
    """P-21: Behind `blockcache::` a replaced archive is ESTALE."""
    task = by_environment.add_task(outputs={"big.bin": BIG})
    with block_cached(task, tmp_path / "c", name="big.bin") as file:
        assert file.read(10) == BIG[:10]
        other = by_environment.add_task(outputs={"big.bin": BIG[::-1] + b"longer"})
        stored = by_environment.get_object(f"{other}/output.zip")
        assert stored is not None
        by_environment.put_object(f"{task}/output.zip", stored.source)
        file.seek(11_000_000)
        with pytest.raises(OSError) as caught:
            file.read(100)
        assert caught.value.errno == errno.ESTALE
    with pytest.raises(OSError, match=r"another version: clear that cache"):
        block_cached(task, tmp_path / "c", name="big.bin")
    with block_cached(task, tmp_path / "new", name="big.bin") as file:
        assert_same(file.read(), BIG[::-1] + b"longer")


class TestSign:
    def test_an_archive(self, task: str, by_environment: FakeCloud) -> None:
        """P-22: `sign` gives a raw archive's signed URL, which needs no key."""
        fs = fsspec.filesystem("taskfs")
        stored = by_environment.get_object(f"{task}/output.zip")
        assert stored is not None
        url = fs.sign(f"taskfs://{task}/output.zip", expiration=60)
        with urlopen(url) as answer:
            assert_same(answer.read(), bytes(stored.source.read(0, stored.source.size)))

    @pytest.mark.parametrize("path", ["outputs/noise.bin", "status", "outputs", ""])
    def test_what_has_no_url(self, task: str, path: str) -> None:
        """P-22: A file in an archive has no URL, and the error names the archive."""
        with pytest.raises(NotImplementedError, match=r"sign\('<id>/output\.zip'\)"):
            fsspec.filesystem("taskfs").sign(f"{task}/{path}".rstrip("/"))

    def test_what_is_not_there(self, task: str) -> None:
        """P-9, P-22: `sign` of what does not exist is FileNotFoundError."""
        with pytest.raises(FileNotFoundError):
            fsspec.filesystem("taskfs").sign("nope/output.zip")
        with pytest.raises(FileNotFoundError):
            fsspec.filesystem("taskfs").sign(f"{task}/input.zip")
