"""One version of a remote ZIP archive: its index, its raw bytes and random reads of its members."""

import threading
from collections import Counter, OrderedDict
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final

import msgspec

from taskfs.archive.decode_cursor import SPAN
from taskfs.archive.decoder_limits import CheckpointBudget, IdleDecoderCache
from taskfs.archive.decoders import DECODERS, LZMA, METHOD_NAMES, STORED
from taskfs.archive.end_record import MIN_TAIL, EndRecord, find_end
from taskfs.archive.index import ArchiveIndex, Member, read_index
from taskfs.archive.member_reader import (
    EXTRA_GUESS,
    LOCAL,
    LOCAL_MAGIC,
    CompressedReader,
    CompressedStream,
    MemberIntegrity,
    MemberReader,
    SmallReader,
    StoredReader,
)
from taskfs.archive.seekable_decoder import SeekableDecoder
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.memory_cache import BLOCK, ExtentCache, next_owner
from taskfs.cache.readahead import (
    HeaderPrefetcher,
    ReadAheadBudget,
    ReadAheadReader,
    SequentialMembers,
)
from taskfs.errors import CorruptData, Unsupported
from taskfs.model import ObjectVersion, RemoteObject
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats

# Less than most entries take: a second request costs less than fetching members in vain.
ENTRY_GUESS: Final = 80
MAX_TAIL: Final = 8 << 20
MAX_CHECKS: Final = 1024  # members that may be read in parts; those unused longest go
WALK_WINDOW: Final = 12 << 20  # bytes that all walks together fetch ahead
SAMPLE: Final = 16  # of so many small members in turn one is left to be asked for
DECODE_WINDOW: Final = 8 << 20  # bytes that all members together are decoded ahead


_Index = tuple[ObjectVersion, EndRecord, bytes]  # what is kept of an archive on disk


@dataclass(frozen=True, slots=True)
class Engine:
    """What all archives of a mount share: pools, caches and the bounds on memory."""

    pool: Executor  # goes out to the store
    decoding: Executor  # decodes ahead
    waiter: Waiter
    stats: Stats
    blocks: ExtentCache
    spans: ExtentCache
    windows: ReadAheadBudget
    room: CheckpointBudget
    idle: IdleDecoderCache = field(default_factory=IdleDecoderCache)
    walk_windows: ReadAheadBudget = field(default_factory=lambda: ReadAheadBudget(WALK_WINDOW))
    decode_windows: ReadAheadBudget = field(default_factory=lambda: ReadAheadBudget(DECODE_WINDOW))
    disk: DiskCache | None = None
    namespace: str = ""  # whose objects these are: part of their names on disk


def tail_length(expected_members: int | None) -> int:
    """Return how many last bytes to ask for first, so that one request mostly brings the index."""
    guess = (expected_members or 0) * ENTRY_GUESS
    return min(MAX_TAIL, MIN_TAIL + guess)


def open_archive(
    remote: RemoteObject,
    root: str,
    engine: Engine,
    expected_members: int | None = None,
    *,
    name: str = "",
    identity: object = None,
) -> "Archive":
    """Return the archive with its index: one suffix range, a second one for a long directory.

    *name* is where the store keeps it: blocks are kept on disk under it and the version. With an
    *identity*, what the record says of a finished archive, the index is too: then nothing goes out.

    Raises:
        NotFound: there is no such object (yet).
        CorruptData, Unsupported: it is not an archive that can be read.
    """
    key = cache_key(engine.namespace, name, identity) if name and identity is not None else ""
    kept = _recall_index(key, engine)
    if kept is not None or not key or engine.disk is None:
        return _open_archive(remote, root, engine, expected_members, name, key, kept)
    with engine.disk.lock_index(key):
        kept = _recall_index(key, engine)  # what another process has just fetched
        return _open_archive(remote, root, engine, expected_members, name, key, kept)


def _open_archive(
    remote: RemoteObject,
    root: str,
    engine: Engine,
    expected_members: int | None,
    name: str,
    key: str,
    kept: _Index | None,
) -> "Archive":
    if kept is not None:
        version, end, directory = kept
    else:
        tail = remote.fetch_tail(tail_length(expected_members))
        version, end = tail.version, find_end(tail.body, tail.start)
        directory = tail.body[max(0, end.start - tail.start) : max(0, end.stop - tail.start)]
        if end.start < tail.start:
            missing = remote.fetch_range(end.start, min(end.stop, tail.start), version)
            directory = bytes(missing) + directory
    index = read_index(directory, end, root)
    disk = None
    if engine.disk is not None and name and version.etag:
        disk = engine.disk.blocks_of(cache_key(engine.namespace, name, version))
    blocks = BlockReader(
        remote,
        version,
        cache=engine.blocks,
        pool=engine.pool,
        waiter=engine.waiter,
        stats=engine.stats,
        disk=disk,
    )
    if kept is None:
        blocks.prime(tail.start, tail.body)
        _keep_index(key, engine, version, end, directory)
    return Archive(index, blocks, end.start, engine, key)


def _recall_index(key: str, engine: Engine) -> _Index | None:
    kept = engine.disk.get_index(key) if key and engine.disk is not None else None
    if kept is None:
        return None
    try:
        version, end = msgspec.json.decode(kept[0], type=tuple[ObjectVersion, EndRecord])
    except msgspec.MsgspecError:
        return None
    return version, end, kept[1]


def _keep_index(
    key: str, engine: Engine, version: ObjectVersion, end: EndRecord, directory: bytes
) -> None:
    # Without an ETag nothing would tell an archive that was replaced while nobody looked.
    if key and engine.disk is not None and version.etag:
        engine.disk.put_index(key, msgspec.json.encode((version, end)), directory)


def _guessed_start(member: Member) -> int:
    """Return where the member's bytes begin at the latest, unless its extra fields are long."""
    return member.header_offset + LOCAL.size + len(member.raw_name) + EXTRA_GUESS


class Archive:
    """One version of an archive. Safe for concurrent use: a lock guards the tables of inflaters."""

    def __init__(
        self,
        index: ArchiveIndex,
        blocks: BlockReader,
        directory_start: int,
        engine: Engine,
        index_key: str = "",
    ) -> None:
        self.index = index
        self.version = blocks.version
        self.size = blocks.size
        self.blocks = blocks
        self.engine = engine
        self.number = next_owner()  # of its small members among the spans
        self.walk = SequentialMembers(blocks, engine.walk_windows)
        self.heads = HeaderPrefetcher(
            blocks, lambda: (member.header_offset for member in index.members)
        )
        self._directory_start = directory_start
        self._index_key = index_key
        self._lock = threading.Lock()
        self._inflaters: dict[Member, SeekableDecoder] = {}
        self._readers: Counter[SeekableDecoder] = Counter()
        self._checks: OrderedDict[int, MemberIntegrity] = OrderedDict()
        # By number: which members went out before anybody asked.
        self._told = bytearray(max((m.number for m in index.members), default=-1) + 1)

    def open_member(self, member: Member) -> "MemberReader":
        """Return a reader of the member; nothing goes out before its first read.

        Raises:
            Unsupported: the member is encrypted, or its method cannot be read here.
        """
        if member.is_encrypted:
            raise Unsupported(f"{member.path}: the member is encrypted")
        if member.method != STORED and member.method not in DECODERS:
            name = METHOD_NAMES.get(member.method, "unknown")
            raise Unsupported(f"{member.path}: compression method {member.method} ({name})")
        if member.method == STORED:
            return StoredReader(self, member)
        if member.size <= SPAN and member.compressed_size <= BLOCK:
            return SmallReader(self, member)
        return CompressedReader(self, member)

    def open_raw(self) -> ReadAheadReader:
        """Return a reader of the archive's own bytes."""
        return ReadAheadReader(self.blocks, self.engine.windows, 0, self.size)

    def read_raw(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the archive itself."""
        return self.blocks.read_at(offset, size)

    def locate(self, member: Member, wanted: int = 0) -> int:
        """Return where the member's bytes begin, from its local header.

        Raises:
            CorruptData: the header is not there, names another member, or the bytes would lie
                outside of where members can be.
        """
        at = member.header_offset
        if at + LOCAL.size > self._directory_start:
            raise CorruptData(f"{member.path}: the member lies outside the archive")
        # Header and first bytes lie side by side: one request brings both.
        first = BLOCK if member.compressed_size <= BLOCK else wanted
        stop = _guessed_start(member) + min(first, member.compressed_size)
        self.blocks.prefetch(at, min(stop, self._directory_start))
        head = self.blocks.read_at(at, LOCAL.size + len(member.raw_name))
        fields = LOCAL.unpack_from(head)
        name_length, extra_length = fields[9], fields[10]
        if fields[0] != LOCAL_MAGIC:
            raise CorruptData(f"{member.path}: there is no local header at {at}")
        if name_length != len(member.raw_name) or head[LOCAL.size :] != member.raw_name:
            raise CorruptData(f"{member.path}: the local header names another member")
        start = at + LOCAL.size + int(name_length) + int(extra_length)
        if start + member.compressed_size > self._directory_start:
            raise CorruptData(f"{member.path}: the member overlaps the archive's directory")
        return start

    def check_of(self, member: Member) -> MemberIntegrity:
        """Return what all readers of the member share, also with those that are closed by now."""
        with self._lock:
            check = self._checks.get(member.number)
            if check is None:
                check = self._checks[member.number] = MemberIntegrity(member)
            self._checks.move_to_end(member.number)
            if len(self._checks) > MAX_CHECKS:
                self._checks.popitem(last=False)
            return check

    def forget_check(self, member: Member) -> None:
        """Let the readers to come start anew."""
        with self._lock:
            self._checks.pop(member.number, None)

    def take_inflater(self, member: Member, start: int) -> SeekableDecoder:
        """Return the decoder that all readers of the member share, until `give_back`."""
        with self._lock:
            inflater = self._inflaters.get(member)
            if inflater is None:
                inflater = self._inflaters[member] = SeekableDecoder(
                    DECODERS[member.method],
                    lambda fed: CompressedStream(self, start, start + member.compressed_size, fed),
                    size=member.size,
                    crc=member.crc32,
                    spans=self.engine.spans,
                    room=self.engine.room,
                    pool=self.engine.decoding,
                    waiter=self.engine.waiter,
                    windows=self.engine.decode_windows,
                    is_in_turn=self.walk.is_active,
                )
            self._readers[inflater] += 1
        self.engine.idle.take(inflater)
        return inflater

    def give_back(self, member: Member, inflater: SeekableDecoder) -> None:
        """Note that one reader less uses the decoder; a few stay for who comes back."""
        with self._lock:
            self._readers[inflater] -= 1
            if self._readers[inflater]:
                return
            del self._readers[inflater]
        if member.method == LZMA:  # it may hold a dictionary of 64 MiB
            self._forget(member, inflater)
            return
        self.engine.idle.keep(inflater, lambda: self._forget(member, inflater))

    def _forget(self, member: Member, inflater: SeekableDecoder) -> None:
        with self._lock:
            if inflater in self._readers:
                return  # somebody came back for it
            if self._inflaters.get(member) is inflater:
                del self._inflaters[member]
        inflater.close()

    def should_push_on_open(self, member: Member) -> bool:
        """Whether who opens the member will read all of it, which is at hand: told once.

        So it is where others were read to their ends just now. Some are left to be asked for: if
        they are not, nobody reads.
        """
        at, stop = member.header_offset, _guessed_start(member) + member.compressed_size
        if (
            not self.walk.is_active
            or member.number % SAMPLE == 0
            or self._told[member.number]
            or not self.blocks.is_cached(at, min(stop, self._directory_start))
        ):
            return False
        self._told[member.number] = True
        self.passed(member)
        return True

    def passed(self, member: Member) -> None:
        """The member was read to its end, or will have been in a moment."""
        with self._lock:
            others = sum(
                other.compressed_size
                for other, inflater in self._inflaters.items()
                if inflater in self._readers and other.number != member.number
            )
        at = member.header_offset
        self.walk.passed(at, at + member.compressed_size, others)

    def not_read(self, member: Member) -> None:
        """The member was opened and closed: a walk ends there, unless it was told before."""
        if not self._told[member.number]:
            self.walk.is_active = False

    def drop(self, member: Member, start: int | None) -> None:
        """Forget the member's cached bytes, which begin at *start* if known: they proved wrong."""
        if start is None:
            start = _guessed_start(member)
        self.blocks.drop(member.header_offset, start + member.compressed_size)
        self.engine.spans.drop(self.number, member.number, member.number)
        with self._lock:
            inflater = self._inflaters.pop(member, None)
        if inflater is not None:
            inflater.close()

    def forget_index(self) -> None:
        """The store no longer has this version: let its index on disk go."""
        if self._index_key and self.engine.disk is not None:
            self.engine.disk.drop_index(self._index_key)
