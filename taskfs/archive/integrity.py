"""Checks of a member's CRC-32 while its bytes are read in any order, through any handles."""

import enum
import threading
from bisect import bisect_left
from collections import OrderedDict
from typing import Final

from taskfs.archive.member import Member
from taskfs.errors import CorruptData
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32, crc32_combine

# Separate ranges of one member whose checksums are kept: a random reader is not checked, and its
# bookkeeping stays small.
MAX_RANGES: Final = 256
# Members whose state is kept, open or closed; the least recently opened are dropped. A handle that
# is open then keeps its state, and later handles start with another one.
MAX_MEMBERS: Final = 1024


class Coverage:
    """The ranges of [0, size) that were read, with the CRC-32 of each run of adjacent ranges.

    Not safe for concurrent use.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._crcs: list[int] = []

    def clear(self) -> None:
        """Forget all ranges."""
        self._starts, self._stops, self._crcs = [], [], []

    def add(self, start: int, piece: Buffer, crc: int | None = None) -> None:
        """Add the bytes *piece* at *start*; *crc* is their CRC-32 where the caller knows it.

        Bytes of ranges that were added before are ignored.
        """
        stop = start + len(piece)
        at = start
        while at < stop:
            position = bisect_left(self._starts, at + 1)  # the first range after `at`
            if position and self._stops[position - 1] > at:
                at = self._stops[position - 1]
                continue
            end = min(stop, self._starts[position]) if position < len(self._starts) else stop
            if crc is None or end - at < len(piece):
                crc = crc32(piece[at - start : end - start])
            self._insert(position, at, end, crc)
            at = end

    def _insert(self, position: int, start: int, stop: int, crc: int) -> None:
        joins_left = position > 0 and self._stops[position - 1] == start
        joins_right = position < len(self._starts) and self._starts[position] == stop
        if joins_left:
            self._crcs[position - 1] = crc32_combine(self._crcs[position - 1], crc, stop - start)
            self._stops[position - 1] = stop
            if joins_right:
                length = self._stops[position] - self._starts[position]
                joined = crc32_combine(self._crcs[position - 1], self._crcs[position], length)
                self._crcs[position - 1] = joined
                self._stops[position - 1] = self._stops[position]
                del self._starts[position], self._stops[position], self._crcs[position]
        elif joins_right:
            length = self._stops[position] - self._starts[position]
            self._crcs[position] = crc32_combine(crc, self._crcs[position], length)
            self._starts[position] = start
        elif len(self._starts) < MAX_RANGES:
            self._starts.insert(position, start)
            self._stops.insert(position, stop)
            self._crcs.insert(position, crc)

    @property
    def crc(self) -> int | None:
        """The CRC-32 of [0, size) once all of it was added, else None."""
        is_whole = self._starts == [0] and self._stops == [self._size]
        return self._crcs[0] if is_whole else None


class Verification(enum.Enum):
    """Whether the bytes of a member that were returned to callers are confirmed."""

    CLEAN = enum.auto()  # none, or all of them are confirmed by the member's CRC-32
    UNVERIFIED = enum.auto()  # some are not confirmed yet
    DAMAGED = enum.auto()  # wrong bytes were found while some were unverified


class MemberIntegrity:
    """The bytes of one member that were returned to callers, and whether its CRC-32 confirms them.

    All handles of a member share one object, because they share the kernel's pages: a program may
    get one half from a page that another handle filled, and the other half through its own handle.
    Each handle has an object of its own as well, because the shared one counts a range only once,
    whichever handle read it. Safe for concurrent use.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._lock = threading.Lock()
        self._coverage = Coverage(member.size)
        self.verification = Verification.CLEAN
        self.damage: CorruptData | None = None  # the failure of a DAMAGED member

    def add(self, offset: int, piece: Buffer, crc: int) -> None:
        """Note that *piece*, with CRC-32 *crc*, is about to be returned.

        Ranges of a confirmed member are forgotten, so that a second pass is checked too.

        Raises:
            CorruptData: the member is now complete and its CRC-32 is wrong.
        """
        with self._lock:
            if self.verification is Verification.CLEAN:
                self.verification = Verification.UNVERIFIED  # stays if the checksum is wrong
            self._coverage.add(offset, piece, crc)
            whole = self._coverage.crc
            if whole is None:
                return
            self._coverage.clear()
            if whole != self._member.crc32:
                raise wrong_crc(self._member, whole)
            if self.verification is Verification.UNVERIFIED:
                self.verification = Verification.CLEAN

    def forget_ranges(self) -> None:
        """Forget what was read: its cached bytes are dropped and read again."""
        with self._lock:
            self._coverage.clear()

    def fail(self, damage: CorruptData, *, unverified: bool) -> bool:
        """Note that wrong bytes were found; return whether the failure is final.

        It is final if any handle of the member has returned unverified bytes. *unverified*:
        the handle that found the wrong bytes has returned such bytes.
        """
        with self._lock:
            self._coverage.clear()
            if unverified or self.verification is not Verification.CLEAN:
                self.verification = Verification.DAMAGED
                self.damage = damage
            return self.verification is Verification.DAMAGED


class IntegrityTable:
    """The shared `MemberIntegrity` of each member of one archive. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._members: OrderedDict[int, MemberIntegrity] = OrderedDict()  # by member number

    def get(self, member: Member) -> MemberIntegrity:
        """Return the state that all handles of *member* share, closed ones included."""
        with self._lock:
            integrity = self._members.get(member.number)
            if integrity is None:
                integrity = self._members[member.number] = MemberIntegrity(member)
            self._members.move_to_end(member.number)
            if len(self._members) > MAX_MEMBERS:
                self._members.popitem(last=False)
            return integrity

    def forget(self, member: Member) -> None:
        """Let handles that are opened from now on start with a new state."""
        with self._lock:
            self._members.pop(member.number, None)


def wrong_crc(member: Member, crc: int) -> CorruptData:
    """Return the error for a member whose decoded bytes have the CRC-32 *crc*."""
    return CorruptData(f"{member.path}: CRC-32 {crc:08x}, not {member.crc32:08x}")
