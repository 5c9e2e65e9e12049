"""Compare taskfs with Python's `zipfile` on arbitrary bytes.

Every member that both read must have the same bytes; taskfs may refuse an archive or a member. The
inputs come from hypothesis in the tests and from atheris in `scripts/fuzz`.
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
from taskfs.archive.index import Folder
from taskfs.archive.member import Member
from taskfs.errors import CorruptData, Unsupported
from tests.archive_harness import FakeObject, make_harness, read_all

MAX_READ: Final = 64 << 20  # bytes; a member that claims to be larger is only read in parts
MAX_TIME_NS: Final = 1 << 63


def compare(body: bytes) -> Counter[str]:
    """Read all members of an archive; return how many were read and refused.

    Raises:
        AssertionError: bytes or sizes differ, or a name, size or time cannot belong to a file.
        Exception: a bug; the only expected errors are CorruptData and Unsupported.
    """
    counts: Counter[str] = Counter()
    with make_harness() as on:
        try:
            archive = on.open(FakeObject(body))
        except (CorruptData, Unsupported):
            counts["archives refused"] += 1
            return counts
        counts["archives"] += 1
        check_tree(archive.index.root)
        reference = _open_reference(body)
        for member in archive.index.members:
            ours = _read(archive, member)
            if ours is None:
                counts["members refused"] += 1
                continue
            counts["members"] += 1
            assert len(ours) == min(member.size, MAX_READ)
            assert len(ours) < member.size or zlib.crc32(ours) == member.crc32
            theirs = _read_reference(reference, member)
            if theirs is not None:
                counts["members read by both"] += 1
                assert ours == theirs[:MAX_READ], member
    return counts


def check_tree(root: Folder) -> None:
    """Fail if a kernel cannot show a name, a size or a time."""
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
    """Return a member read whole, after another reader has read it at random; None if refused."""
    rng = random.Random(member.crc32)
    pieces = []
    try:
        reader = archive.open_member(member)
        try:
            for _ in range(3):
                at, size = rng.randrange(min(member.size, MAX_READ) + 1), rng.choice([1, 500, 4096])
                pieces.append((at, reader.read_at(at, size)))
        finally:
            reader.close()
        whole = read_all(archive, member.path) if member.size <= MAX_READ else None
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
        return None  # zipfile takes the last end record, even one inside the archive comment
    try:
        return zipfile.ZipFile(io.BytesIO(body))
    except Exception:  # not only BadZipFile
        return None


def _read_reference(archive: zipfile.ZipFile | None, member: Member) -> bytes | None:
    """Return the content that zipfile reads for the same directory entry; None if it fails."""
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
    # zipfile returns truncated data without an error.
    return content if len(content) == info.file_size else None
