"""`taskfs.download` on archives in memory: no sockets, no commands."""

import errno
import fcntl
import os
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from taskfs.archive.archive import Archive
from taskfs.archive.member import Member
from taskfs.download.destination import Destination
from taskfs.download.fetch import download_all
from taskfs.download.items import ArchiveDownload
from taskfs.download.plan import check_space, plan_archive, plan_members
from taskfs.download.run import DownloadItem
from taskfs.download.selection import select_members
from taskfs.errors import CorruptData, NoSpace, NotFound, Unavailable, Unsupported
from taskfs.model import ObjectVersion
from tests.descriptors import open_below
from tests.mounts import eventually

MEGABYTE = 1 << 20
MTIME_NS = 1_700_000_000_123_456_700


class MemoryReader:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def read_at(self, offset: int, size: int) -> bytes:
        return self._content[offset : offset + size]

    def close(self) -> None:
        pass


class MemoryArchive:
    """An archive with given members. `wrong` holds the contents or errors of their first opens."""

    def __init__(self, files: dict[str, bytes], raw: bytes = b"PK") -> None:
        self.files = files
        self.members = [member(path, content) for path, content in files.items()]
        self.index = SimpleNamespace(members=self.members)
        self.raw = raw
        self.size = len(raw)
        self.version = ObjectVersion(len(raw), "etag")
        self.opened: list[str] = []
        self.raw_reads: list[int] = []
        self.wrong: dict[str, list[bytes | Exception]] = {}

    def open_member(self, member: Member) -> MemoryReader:
        self.opened.append(member.path)
        wrong = self.wrong.get(member.path)
        content = wrong.pop(0) if wrong else self.files[member.path]
        if isinstance(content, Exception):
            raise content
        return MemoryReader(content)

    def read_raw(self, offset: int, size: int) -> bytes:
        self.raw_reads.append(offset)
        return self.raw[offset : offset + size]

    def open_raw(self) -> Any:
        return SimpleNamespace(read_at=self.read_raw, close=lambda: None)


def member(path: str, content: bytes) -> Member:
    crc = zlib.crc32(content)
    return Member(path, len(content), len(content), crc, 0, 0, 0, MTIME_NS, path.encode())


def plan(archive: MemoryArchive, target: Path, *names: str) -> list[DownloadItem]:
    return plan_members(cast(Archive, archive), target, names)


def plan_raw(archive: MemoryArchive, target: Path) -> list[DownloadItem]:
    return plan_archive(cast(Archive, archive), target, "output.zip")


FILES = {"a.txt": b"a" * 10, "d/b.txt": b"b" * 20, "d/e/c.txt": b"", "[x].txt": b"x"}


class TestSelect:
    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            ((), list(FILES)),
            (("d",), ["d/b.txt", "d/e/c.txt"]),
            (("d/e/",), ["d/e/c.txt"]),
            (("[x].txt",), ["[x].txt"]),  # an exact name goes before a glob
            (("?.txt",), ["a.txt"]),
            (("*/e/",), ["d/e/c.txt"]),
            (("d/b.txt", "a.txt", "a.txt"), ["a.txt", "d/b.txt"]),  # archive order
        ],
    )
    def test_names(self, names: tuple[str, ...], expected: list[str]) -> None:
        members = MemoryArchive(FILES).members
        assert [members[each].path for each in select_members(members, names)] == expected

    def test_the_error_lists_the_missing_names(self) -> None:
        with pytest.raises(NotFound, match=r"not in the archive: nope, \*\.vtk$"):
            select_members(MemoryArchive(FILES).members, ["nope", "a.txt", "*.vtk"])


class TestFiles:
    def test_files_are_complete_and_have_their_times(self, tmp_path: Path) -> None:
        archive = MemoryArchive(FILES)
        counted: list[int] = []

        assert download_all(plan(archive, tmp_path), counted.append) == []

        for path, content in FILES.items():
            assert (tmp_path / path).read_bytes() == content
            assert (tmp_path / path).stat().st_mtime_ns == MTIME_NS
        assert sum(counted) == sum(map(len, FILES.values()))
        assert plan(archive, tmp_path) == []

    @pytest.mark.parametrize("change", ["size", "time", "gone", "link"])
    def test_a_changed_file_is_downloaded_again(self, tmp_path: Path, change: str) -> None:
        archive = MemoryArchive(FILES)
        download_all(plan(archive, tmp_path))
        path = tmp_path / "d/b.txt"
        path.unlink()
        if change == "size":
            path.write_bytes(b"b")
            os.utime(path, ns=(MTIME_NS, MTIME_NS))
        elif change == "time":
            path.write_bytes(FILES["d/b.txt"])
        elif change == "link":
            path.symlink_to(tmp_path / "a.txt")

        items = plan(archive, tmp_path)
        download_all(items)

        assert [item.path for item in items] == [path]
        assert path.read_bytes() == FILES["d/b.txt"]
        assert (tmp_path / "a.txt").read_bytes() == FILES["a.txt"]

    def test_a_file_system_that_rounds_times(self, tmp_path: Path) -> None:
        archive = MemoryArchive({"a": b"a"})
        download_all(plan(archive, tmp_path))
        rounded = MTIME_NS // (2 * 10**9) * 2 * 10**9  # FAT
        os.utime(tmp_path / "a", ns=(rounded, rounded))
        assert plan(archive, tmp_path) == []

    def test_wrong_bytes_are_read_again_once(self, tmp_path: Path) -> None:
        archive = MemoryArchive(FILES)
        archive.wrong["a.txt"] = [b"A" * 10]
        counted: list[int] = []

        assert download_all(plan(archive, tmp_path, "a.txt"), counted.append) == []

        assert (tmp_path / "a.txt").read_bytes() == b"a" * 10
        assert sum(counted) == 10

    @pytest.mark.parametrize(
        "wrong", [b"A" * 10, b"a" * 9, CorruptData("damaged"), Unsupported("encrypted")]
    )
    def test_one_damaged_file_does_not_stop_the_others(
        self, tmp_path: Path, wrong: bytes | Exception
    ) -> None:
        archive = MemoryArchive(FILES)
        archive.wrong["a.txt"] = [wrong, wrong]

        failures = download_all(plan(archive, tmp_path))

        assert [failure.path for failure in failures] == [str(tmp_path / "a.txt")]
        assert (tmp_path / "d/b.txt").exists()
        assert not (tmp_path / "a.txt").exists()
        assert not list(tmp_path.rglob(".*"))

    def test_an_unavailable_store_ends_the_run(self, tmp_path: Path) -> None:
        archive = MemoryArchive({f"{number}": b"x" for number in range(100)})
        archive.wrong["5"] = [Unavailable("no answer")]

        with pytest.raises(Unavailable):
            download_all(plan(archive, tmp_path))

        assert len(archive.opened) < 100
        assert not list(tmp_path.rglob(".*"))

    def test_an_error_of_the_disk_names_the_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").mkdir()
        with pytest.raises(IsADirectoryError) as caught:
            download_all(plan(MemoryArchive(FILES), tmp_path, "a.txt"))
        assert caught.value.filename == str(tmp_path / "a.txt")
        assert not list(tmp_path.rglob(".*"))

    def test_a_fatal_error_removes_the_file_of_a_blocked_reader(self, tmp_path: Path) -> None:
        archive = MemoryArchive({"a": b"a" * 10, "b": b"b"})
        reading, resumed = threading.Event(), threading.Event()

        class BlockedReader(MemoryReader):
            def read_at(self, offset: int, size: int) -> bytes:
                reading.set()
                assert resumed.wait(60)
                return super().read_at(offset, size)

        def open_member(member: Member) -> MemoryReader:
            if member.path == "a":
                return BlockedReader(b"a" * 10)
            assert reading.wait(60)
            assert list(tmp_path.glob(".*.part"))
            raise Unavailable("no answer")

        archive.open_member = open_member  # type: ignore[method-assign]
        errors: list[Exception] = []

        def download() -> None:
            try:
                download_all(plan(archive, tmp_path))
            except Unavailable as exc:
                errors.append(exc)

        thread = threading.Thread(target=download)
        thread.start()
        assert reading.wait(60)
        eventually(lambda: not list(tmp_path.iterdir()))

        resumed.set()
        thread.join(60)
        assert len(errors) == 1
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("parent", ["d", "d/e"])
    def test_no_link_is_followed(self, tmp_path: Path, parent: str) -> None:
        target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
        (target / parent).parent.mkdir(parents=True)
        elsewhere.mkdir()
        (target / parent).symlink_to(elsewhere)
        with pytest.raises(FileExistsError, match="link"):
            download_all(plan(MemoryArchive(FILES), target))
        assert not list(elsewhere.iterdir())

    def test_the_target_itself_may_be_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        download_all(plan(MemoryArchive(FILES), tmp_path / "link"))
        assert (tmp_path / "real" / "a.txt").exists()

    def test_a_target_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(NotADirectoryError):
            plan(MemoryArchive(FILES), tmp_path / "file")

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        archive = MemoryArchive(FILES)
        archive.wrong["a.txt"] = [b"", b""]
        download_all(plan(archive, tmp_path))
        assert not Destination(tmp_path).has(member("no/such/path", b""))
        assert open_below(tmp_path) == []


class TestArchive:
    RAW = os.urandom(3 * MEGABYTE + 5)

    def test_the_file_is_the_archive(self, tmp_path: Path) -> None:
        archive = MemoryArchive({}, self.RAW)
        download_all(plan_raw(archive, tmp_path))
        assert (tmp_path / "output.zip").read_bytes() == self.RAW
        assert os.listdir(tmp_path) == ["output.zip"]
        assert plan_raw(archive, tmp_path) == []

    def test_another_file_of_the_same_size_is_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "output.zip").write_bytes(bytes(len(self.RAW)))
        download_all(plan_raw(MemoryArchive({}, self.RAW), tmp_path))
        assert (tmp_path / "output.zip").read_bytes() == self.RAW

    def test_an_interrupted_download_is_continued(self, tmp_path: Path) -> None:
        archive = MemoryArchive({}, self.RAW)
        (item,) = plan_raw(archive, tmp_path)
        assert isinstance(item, ArchiveDownload)
        item.partial_path.write_bytes(self.RAW[:MEGABYTE])
        counted: list[int] = []
        assert item.remaining_bytes == len(self.RAW) - MEGABYTE

        download_all([item], counted.append)

        assert min(archive.raw_reads) == MEGABYTE
        assert sum(counted) == len(self.RAW) - MEGABYTE
        assert (tmp_path / "output.zip").read_bytes() == self.RAW

    def test_another_version_is_not_continued(self, tmp_path: Path) -> None:
        old, new = MemoryArchive({}, self.RAW), MemoryArchive({}, self.RAW[::-1])
        new.version = ObjectVersion(new.size, "another")
        (item,) = plan_raw(old, tmp_path)
        assert isinstance(item, ArchiveDownload)
        item.partial_path.write_bytes(self.RAW[:MEGABYTE])

        download_all(plan_raw(new, tmp_path))

        assert (tmp_path / "output.zip").read_bytes() == self.RAW[::-1]
        assert os.listdir(tmp_path) == ["output.zip"]

    def test_a_second_download_at_the_same_time_fails(self, tmp_path: Path) -> None:
        (item,) = plan_raw(MemoryArchive({}, self.RAW), tmp_path)
        assert isinstance(item, ArchiveDownload)
        with open(item.partial_path, "wb") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            with pytest.raises(OSError, match="another download of this file is running"):
                download_all([item])


def test_a_full_disk_is_reported_before_the_first_write(tmp_path: Path) -> None:
    archive = MemoryArchive({"huge": b""})
    archive.members[0] = Member("huge", 1 << 60, 1, 0, 0, 0, 0, 0, b"huge")
    items = plan(archive, tmp_path / "a" / "b")
    with pytest.raises(NoSpace, match=r"PB are needed in .*make room"):
        check_space(items)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """C-38: `download --archive` works where flock(2) is refused."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    archive = MemoryArchive({}, TestArchive.RAW)
    assert download_all(plan_raw(archive, tmp_path)) == []
    assert (tmp_path / "output.zip").read_bytes() == TestArchive.RAW


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL])
def test_a_file_system_without_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """C-38: Where times cannot be set there is one warning, and the files are there."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "utime", refuse)
    warnings: list[str] = []
    assert download_all(plan(MemoryArchive(FILES), tmp_path), warn=warnings.append) == []
    assert (tmp_path / "a.txt").read_bytes() == FILES["a.txt"]
    assert len(warnings) == 1 and warnings[0].startswith("the time of 4 files could not be set")
