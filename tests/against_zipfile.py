"""taskfs beside Python's `zipfile` on any bytes: where it reads, we read the same or refuse.

What hypothesis makes up in the tests and what `scripts/fuzz` finds goes through `compare`.
"""

import io
import os
import random
import zipfile
import zlib
from collections import Counter
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.archive.end_record import EOCD_MAGIC, find_end
from taskfs.archive.index import Folder, Member
from taskfs.errors import CorruptData, Unsupported
from tests.zips import FakeObject, bench, read_all

LARGEST: Final = 64 << 20  # a member that says it is larger is read at its ends alone
MAX_TIME_NS: Final = 1 << 63


def compare(body: bytes) -> Counter[str]:
    """Return how many archives and members were read, and how many refused, by whom.

    Raises:
        AssertionError: bytes, sizes or names that differ, or that no file can have.
        Exception: whatever is none of the two refusals is a bug.
    """
    seen: Counter[str] = Counter()
    with bench() as on:
        try:
            archive = on.open(FakeObject(body))
        except (CorruptData, Unsupported):
            seen["archives refused"] += 1
            return seen
        seen["archives"] += 1
        check_tree(archive.index.root)
        reference = _open_reference(body)
        for member in archive.index.members:
            ours = _read(archive, member)
            if ours is None:
                seen["members refused"] += 1
                continue
            seen["members"] += 1
            assert len(ours) == min(member.size, LARGEST)
            assert len(ours) < member.size or zlib.crc32(ours) == member.crc32
            theirs = _read_reference(reference, member)
            if theirs is not None:
                seen["members read by both"] += 1
                assert ours == theirs[:LARGEST], member
    return seen


def check_tree(root: Folder) -> None:
    """Fail where a name, a size or a time could not be shown by a kernel."""
    todo = [root]
    while todo:
        for name, child in todo.pop().children.items():
            raw = os.fsencode(name) if _is_encodable(name) else name.encode("utf-8", "replace")
            assert 0 < len(raw) <= 255 and name not in (".", ".."), name
            assert "/" not in name and "\0" not in name, name
            assert child.mtime_ns is None or -MAX_TIME_NS <= child.mtime_ns < MAX_TIME_NS
            if isinstance(child, Folder):
                todo.append(child)
            else:
                assert 0 <= child.size < 1 << 63 and 0 <= child.compressed_size < 1 << 63


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True


def _read(archive: Archive, member: Member) -> bytes | None:
    """Return the member as one reader gives it, after another has looked here and there."""
    rng = random.Random(member.crc32)
    pieces = []
    try:
        reader = archive.open_member(member)
        try:
            for _ in range(3):
                at, size = rng.randrange(min(member.size, LARGEST) + 1), rng.choice([1, 500, 4096])
                pieces.append((at, reader.read_at(at, size)))
        finally:
            reader.close()
        whole = read_all(archive, member.path) if member.size <= LARGEST else None
    except (CorruptData, Unsupported):
        return None
    if whole is None:
        return None
    for at, piece in pieces:
        assert piece == whole[at : at + len(piece)], (member, at)
        assert piece or at >= len(whole), (member, at)
    return whole


def _open_reference(body: bytes) -> zipfile.ZipFile | None:
    if body.count(EOCD_MAGIC, find_end(body, 0).stop) > 1:
        return None  # it takes the last end record, also where that is a quote in the comment
    try:
        return zipfile.ZipFile(io.BytesIO(body))
    except Exception:  # it raises more than BadZipFile
        return None


def _read_reference(archive: zipfile.ZipFile | None, member: Member) -> bytes | None:
    """Return what zipfile reads of the same entry of the directory, None where it refuses."""
    if archive is None:
        return None
    info = archive.infolist()[member.number]
    found = (info.header_offset, info.file_size, info.compress_size, info.CRC, info.compress_type)
    ours = (member.header_offset, member.size, member.compressed_size, member.crc32, member.method)
    assert found == ours, (found, ours)
    try:
        content = archive.read(info)
    except Exception:  # zlib.error, EOFError, NotImplementedError, …
        return None
    # It ends short, and says nothing, where the data do.
    return content if len(content) == info.file_size else None
