"""Local file headers (APPNOTE 4.3.7): where the bytes of a member begin."""

import struct
from typing import Final

from taskfs.archive.member import Member
from taskfs.archive.member_names import is_same_name
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer

LOCAL: Final = struct.Struct("<4s5H3L2H")
LOCAL_MAGIC: Final = b"PK\x03\x04"
# Bytes. Extra fields are longer in local headers than in the central directory; this much usually
# holds them.
EXTRA_GUESS: Final = 64


def guess_data_start(member: Member) -> int:
    """Return an estimate of the offset of the member's first data byte, without a read.

    It is an upper bound, unless the extra field of the local header is longer than EXTRA_GUESS.
    """
    return member.header_offset + LOCAL.size + len(member.raw_name) + EXTRA_GUESS


class LocalHeaders:
    """The local headers of one archive. Safe for concurrent use: nothing changes."""

    def __init__(self, blocks: BlockReader, directory_start: int, root: str) -> None:
        self._blocks = blocks
        self._directory_start = directory_start  # members end before it
        self._root = root  # precedes the paths of the members in the archive

    def stop_guess(self, member: Member) -> int:
        """Return an estimate of the end of the member's data, made like `guess_data_start`."""
        stop = guess_data_start(member) + member.compressed_size
        return min(stop, self._directory_start)

    def data_start(self, member: Member, data_bytes: int = 0) -> int:
        """Return the offset of the member's first data byte in the archive.

        The header is fetched together with the first *data_bytes* bytes of data; a member of up to
        one block always comes whole.

        Raises:
            CorruptData: the header is missing, names another member, or places the data outside
                the area of members.
            StaleObject, NotFound, Unavailable, …: as `BlockReader.read_at`.
        """
        at = self._header_offset(member)
        first = BLOCK if member.compressed_size <= BLOCK else data_bytes
        stop = guess_data_start(member) + min(first, member.compressed_size)
        self._blocks.prefetch(at, min(stop, self._directory_start))
        header = self._blocks.read_at(at, LOCAL.size + len(member.raw_name))
        return self._parse(member, header)

    def read_packed(self, member: Member) -> tuple[int, Buffer]:
        """Return the offset and the bytes of a short member's data, which are read with the header.

        Raises: as `data_start`.
        """
        at, stop = self._header_offset(member), self.stop_guess(member)
        whole = self._blocks.read_at(at, stop - at)
        start = self._parse(member, whole[: LOCAL.size + len(member.raw_name)])
        packed = whole[start - at : start - at + member.compressed_size]
        if len(packed) < member.compressed_size:  # the extra field is long
            packed = self._blocks.read_at(start, member.compressed_size)
        return start, packed

    def _header_offset(self, member: Member) -> int:
        """Return where the local header begins; raise CorruptData if there is no room for one."""
        if member.header_offset + LOCAL.size > self._directory_start:
            raise CorruptData(f"{member.path}: the member lies outside the archive")
        return member.header_offset

    def _parse(self, member: Member, header: Buffer) -> int:
        """Return the offset of the data from a local header with its name."""
        at = member.header_offset
        fields = LOCAL.unpack_from(header)
        name_length, extra_length = int(fields[9]), int(fields[10])
        if fields[0] != LOCAL_MAGIC:
            raise CorruptData(f"{member.path}: there is no local header at {at}")
        if name_length != len(member.raw_name) or header[LOCAL.size :] != member.raw_name:
            self._check_other_spelling(member, name_length)
        start = at + LOCAL.size + name_length + extra_length
        if start + member.compressed_size > self._directory_start:
            raise CorruptData(f"{member.path}: the member overlaps the central directory")
        return start

    def _check_other_spelling(self, member: Member, name_length: int) -> None:
        """Raise CorruptData unless the header spells the name of the directory in another way."""
        start = member.header_offset + LOCAL.size
        name = b""
        if start + name_length <= self._directory_start:
            name = bytes(self._blocks.read_at(start, name_length))
        if not is_same_name(name, member.raw_name, self._root + member.path):
            raise CorruptData(f"{member.path}: the local header names another member")

    def prefetch_at(self, member: Member, offset: int) -> None:
        """Fetch the stored byte *offset* of a member whose data start is only guessed yet.

        The header and the data then travel at the same time.
        """
        guess = guess_data_start(member) - EXTRA_GUESS + offset
        self._blocks.prefetch(guess, guess + EXTRA_GUESS)
