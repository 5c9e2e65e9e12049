"""Archives with very many members: what is fetched, rendered and kept is counted."""

import tracemalloc
from pathlib import Path
from typing import Final

import pytest

from taskfs.archive import listing
from taskfs.archive.index import Members
from taskfs.cache.sealed_file import IN_MEMORY
from tests.caches import TreeFactory, archive_requests, cached_files
from tests.fake_api import FakeCloud
from tests.large_archives import add_large_task, body_of, name_of, write_archive

MEMBERS: Final = 30_000


@pytest.fixture
def task(cloud: FakeCloud, tmp_path: Path) -> str:
    return add_large_task(cloud, tmp_path / "large.zip", MEMBERS)


def test_ls_l_of_a_task_costs_the_directory_alone(
    open_tree: TreeFactory,
    cloud: FakeCloud,
    task: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-28, A-13: `ls -l ID` costs one signed URL, the end of the archive and its directory, and
    renders no line; a second one costs nothing."""
    rendered = 0

    def count(member: object) -> bytes:
        nonlocal rendered
        rendered += 1
        return b""

    monkeypatch.setattr(listing, "render_line", count)
    with open_tree() as fs:
        fs.names()
        directory = write_archive(tmp_path / "again.zip", MEMBERS)

        def ls() -> None:
            cloud.clear_requests()
            sizes = {name: fs.stat(f"{task}/{name}").st_size for name in fs.names(task)}
            assert sizes["output_files_info"] > MEMBERS * 30

        ls()
        ranges = [each for each in cloud.requests if each.path.endswith(f"{task}/output.zip")]
        assert len(ranges) <= 2
        assert directory <= sum(each.bytes_sent for each in ranges) < 1.2 * directory
        ls()
        assert not archive_requests(cloud)
        assert not rendered


def test_the_table_is_kept_by_no_stat(open_tree: TreeFactory, task: str, cache: Path) -> None:
    """R-28: The table of a large archive takes no memory: what a read returns is made for it."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
        size = fs.stat(f"{task}/output_files_info").st_size
        tracemalloc.start()
        try:
            for _ in range(10):
                fs.stat(f"{task}/output_files_info")
            with fs.open(f"{task}/output_files_info") as opened:
                assert name_of(MEMBERS - 1).encode() in opened.read_at(size - 100, 100)
            assert tracemalloc.get_traced_memory()[1] < size // 4
        finally:
            tracemalloc.stop()
    (index,) = cached_files(cache, "index")
    assert index.stat().st_size > IN_MEMORY


def test_a_listing_makes_no_member(
    open_tree: TreeFactory, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: A walk over names and attributes makes no object of a member."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
        monkeypatch.setattr(Members, "__getitem__", None)
        monkeypatch.setattr("taskfs.archive.index.parse_entry", None)
        monkeypatch.setattr("taskfs.archive.directory_parser.read_member", None)
        listed = fs.operations.readdir(f"/{task}/outputs/processor0/7")
        pairs = list(listed.attributed(0))
        assert [entry.name for entry, _ in pairs] == [f"field{n:03}" for n in range(100)]
        sizes = [attrs.size for _, attrs in pairs if attrs is not None]
        assert sizes == [len(body_of(number)) for number in range(700, 800)]


def test_a_batch_begins_anywhere(open_tree: TreeFactory, task: str) -> None:
    """R-11: A listing that goes on from any entry has the entries and attributes of the whole."""
    with open_tree() as fs:
        fs.names(f"{task}/outputs")
        top = f"/{task}/outputs/processor0"
        whole = list(fs.operations.readdir(top).attributed(0))
        assert len(whole) == MEMBERS // 100
        listing = fs.operations.readdir(top)
        for start in (0, 1, 255, 256, 257, 299, 300, 5, 290):
            assert list(listing.attributed(start)) == whole[start:]
        entry, attrs = whole[120]
        assert attrs == fs.operations.getattr(f"{top}/{entry.name}")
