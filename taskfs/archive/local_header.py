"""Local headers: where a member's bytes begin, and whether they are that member's."""

from taskfs.archive.index import Member
from taskfs.archive.member_names import is_same_name
from taskfs.archive.member_reader import EXTRA_GUESS, LOCAL, LOCAL_MAGIC
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.memory_cache import BLOCK
from taskfs.errors import CorruptData


def guessed_start(member: Member) -> int:
    """Return where the member's bytes begin at the latest, unless its extra fields are long."""
    return member.header_offset + LOCAL.size + len(member.raw_name) + EXTRA_GUESS


def find_start(
    blocks: BlockReader, member: Member, name: str, directory_start: int, wanted: int
) -> int:
    """Return where the bytes of the member begin, whose whole *name* the directory gives.

    *wanted* bytes of it are fetched along with the header.

    Raises:
        CorruptData: the header is not there, names another member, or the bytes would lie outside
            of where members can be.
    """
    at = member.header_offset
    if at + LOCAL.size > directory_start:
        raise CorruptData(f"{member.path}: the member lies outside the archive")
    # Header and first bytes lie side by side: one request brings both.
    first = BLOCK if member.compressed_size <= BLOCK else wanted
    stop = guessed_start(member) + min(first, member.compressed_size)
    blocks.prefetch(at, min(stop, directory_start))
    head = blocks.read_at(at, LOCAL.size + len(member.raw_name))
    fields = LOCAL.unpack_from(head)
    name_length, extra_length = int(fields[9]), int(fields[10])
    if fields[0] != LOCAL_MAGIC:
        raise CorruptData(f"{member.path}: there is no local header at {at}")
    start = at + LOCAL.size + name_length + extra_length
    if name_length != len(member.raw_name) or head[LOCAL.size :] != member.raw_name:
        local_name = b""
        if at + LOCAL.size + name_length <= directory_start:
            local_name = bytes(blocks.read_at(at + LOCAL.size, name_length))
        if not is_same_name(local_name, member.raw_name, name):
            raise CorruptData(f"{member.path}: the local header names another member")
    if start + member.compressed_size > directory_start:
        raise CorruptData(f"{member.path}: the member overlaps the archive's directory")
    return start
