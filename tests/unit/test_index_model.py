"""`taskfs.archive.index_builder` against a model that keeps all members in dicts.

The model has the rules of semantics.md for names, duplicates, order and times in their simplest
form. The archives are odd: equal names, files that are also folders, names that cannot be shown.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.archive import index, index_builder, member_columns, name_sorter
from taskfs.archive.central_directory import parse_entry
from taskfs.archive.directory_parser import read_rows
from taskfs.archive.end_record import EndRecord, find_end
from taskfs.archive.index import ArchiveIndex, Folder
from taskfs.archive.index_builder import read_index
from taskfs.archive.index_layout import NameHash
from taskfs.archive.member import Member
from taskfs.cache import spill_file
from taskfs.errors import Unsupported
from tests.zips import ROOT, STORED, Entry, build, file, timestamp_field

OLDEST: Final = -(1 << 63)


@dataclass
class ModelFolder:
    children: "dict[str, ModelFolder | Member]" = field(default_factory=dict)
    mtime_ns: int | None = None
    newest_ns: int = OLDEST

    def make(self, path: str) -> "ModelFolder":
        """Return the folder at *path*; a file in its way is replaced."""
        folder = self
        for name in path.split("/") if path else ():
            child = folder.children.get(name)
            if not isinstance(child, ModelFolder):
                folder.children[name] = child = ModelFolder()
            folder = child
        return folder

    def date(self) -> None:
        for child in self.children.values():
            if isinstance(child, ModelFolder):
                child.date()
                self.newest_ns = max(self.newest_ns, child.newest_ns)
            else:
                self.newest_ns = max(self.newest_ns, child.mtime_ns)
        if self.mtime_ns is None and self.newest_ns > OLDEST:
            self.mtime_ns = self.newest_ns
        self.newest_ns = max(self.newest_ns, OLDEST if self.mtime_ns is None else self.mtime_ns)


def model_of(directory: bytes, end: EndRecord) -> tuple[list[Member], ModelFolder]:
    members: dict[str, Member] = {}
    times: dict[str, int] = {}
    for row in read_rows([directory], end.leading_bytes, ROOT, is_from_windows=False):
        number, at, *_ = row
        member = parse_entry(directory, at, end.leading_bytes, ROOT, number, is_from_windows=False)
        assert row[2:] == (
            *(member.path, member.size, member.compressed_size, member.header_offset),
            *(member.mtime_ns, member.is_executable),
        )
        path = member.path
        names = path.removesuffix("/").split("/")
        is_valid = all(n not in ("", ".", "..") and len(n.encode()) <= 255 for n in names)
        if not path:
            times[""] = member.mtime_ns
        elif not is_valid or "\0" in path or max(member.size, member.compressed_size) >= 1 << 63:
            members.pop(path, None)
        elif path.endswith("/"):
            times[path[:-1]] = member.mtime_ns
        else:
            members.pop(path, None)  # of two equal names, the last one also gives the position
            members[path] = member
    root = ModelFolder()
    for path, time_ns in times.items():
        root.make(path).mtime_ns = time_ns
    for path, member in members.items():
        folder, _, name = path.rpartition("/")
        parent = root.make(folder)
        if not isinstance(parent.children.get(name), ModelFolder):
            parent.children[name] = member
    root.date()
    shown = [m for m in members.values() if _find(root, m.path) is m]
    return shown, root


def _find(root: ModelFolder, path: str) -> ModelFolder | Member | None:
    node: ModelFolder | Member | None = root
    for name in path.split("/"):
        node = node.children.get(name) if isinstance(node, ModelFolder) else None
    return node


def check_same(model: ModelFolder, found: Folder) -> None:
    assert model.mtime_ns == found.mtime_ns
    assert list(model.children) == list(found.children)
    assert len(found.children) == len(model.children)
    for name, child in found.children.items():
        expected = model.children[name]
        if isinstance(expected, ModelFolder):
            assert isinstance(child, Folder)
            check_same(expected, child)
        else:
            assert child == expected


NAMES = st.sampled_from(["a", "b", "c", "é", "a", "b", "", ".", "..", "n" * 300, "z\0"])
PATHS = st.tuples(st.lists(NAMES, min_size=1, max_size=4), st.sampled_from(["", "", "/"])).map(
    lambda made: "/".join(made[0]) + made[1]
)
ENTRIES = st.builds(
    lambda path, time, size: Entry(
        (ROOT + path).encode(),
        method=STORED,
        extra=b"" if time is None else timestamp_field(time),
        size=size,
        zip64=size is not None,
    ),
    PATHS,
    st.none() | st.integers(-100, 10**9),
    st.none() | st.none() | st.sampled_from([1 << 63, 7]),
)


class WeakHash(NameHash):
    """A hash with which most names collide."""

    def __init__(self, salt: bytes) -> None:
        super().__init__(salt)
        self._seeded = hashlib.blake2b(digest_size=1, key=salt)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(ENTRIES, max_size=15))
def test_columns_in_a_file_and_equal_hashes_change_nothing(entries: list[Entry]) -> None:
    """N-13, R-27: The index is that of the model where the columns are in files, as those of large
    archives, and where the hashes of different names are equal."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (index_builder, member_columns):
            patch.setattr(module, "GROUP", 2)
        patch.setattr(spill_file, "IN_MEMORY", 0)
        patch.setattr(name_sorter, "MAX_ROWS", 1)
        for module in (index_builder, index):
            patch.setattr(module, "NameHash", WeakHash)
        check_model(entries)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(ENTRIES, max_size=15))
def test_the_index_is_that_of_the_model(entries: list[Entry]) -> None:
    """N-11, N-12, N-13, N-25: The index shows the members and folders of the model, in its order
    and with its times."""
    check_model(entries)


def check_model(entries: list[Entry]) -> None:
    body = build(entries)
    end = find_end(body, 0)
    directory = body[end.start : end.stop]
    members, root = model_of(directory, end)
    made = read_index(directory, end, ROOT)
    assert list(made.members) == members
    check_same(root, made.root)
    assert all(made.lookup(member.path) == member for member in members)
    assert made.lookup("nothing") is None


def index_of_files(count: int) -> ArchiveIndex:
    body = build([file(f"{n % 7}/{n}") for n in range(count)])
    end = find_end(body, 0)
    return read_index(body[end.start : end.stop], end, ROOT)


def test_too_many_members_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-21: An archive with more members than the limit is refused."""
    monkeypatch.setattr(index_builder, "MAX_ENTRIES", 100)
    assert len(index_of_files(100).members) == 100
    with pytest.raises(Unsupported, match="more than 100 members"):
        index_of_files(101)


def test_the_members_are_a_sequence() -> None:
    """`members` is indexed, sliced and counted like a tuple."""
    made = index_of_files(50)
    every = list(made.members)
    assert made.members[-1] == every[-1] and made.members[3:7] == every[3:7]
    with pytest.raises(IndexError):
        made.members[50]
    assert made.lookup("\udcff") is None
