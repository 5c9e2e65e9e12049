"""One version of a remote ZIP archive: its index, its raw bytes and random reads of its members."""

from typing import Final

import msgspec

from taskfs.archive.decoder_cache import DecoderCache
from taskfs.archive.decoders import DECODERS, METHOD_NAMES, STORED
from taskfs.archive.end_record import MIN_TAIL, EndRecord, find_end
from taskfs.archive.engine import Engine
from taskfs.archive.index import ArchiveIndex, read_or_refuse
from taskfs.archive.integrity import IntegrityTable
from taskfs.archive.local_header import LocalHeaders
from taskfs.archive.member import Member
from taskfs.archive.member_reader import (
    CompressedReader,
    MemberReader,
    ReaderContext,
    SmallReader,
    StoredReader,
)
from taskfs.archive.prefetch import SPAN, Prefetcher
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import INDEX, cache_key
from taskfs.cache.memory_cache import BLOCK, next_owner
from taskfs.cache.readahead import ReadAheadReader
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.model import ObjectVersion, RemoteObject
from taskfs.support.buffers import Buffer

# Bytes of the directory per member, a low estimate: a second request costs less than fetching
# members in vain.
ENTRY_GUESS: Final = 80
# Bytes that are fetched from the end of an archive at most, before its directory's size is known.
MAX_TAIL: Final = 8 << 20

_StoredIndex = tuple[ObjectVersion, EndRecord, bytes]  # as the disk cache keeps it


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

    One whose files cannot be shown, because it is damaged, too large or not a ZIP archive, has a
    `refusal` instead of an index: its own bytes can be read all the same.

    *name* is where the store keeps it: blocks are kept on disk under it and the version. With an
    *identity*, what the record says of a finished archive, the index is too: then nothing goes out.

    Raises:
        NotFound: there is no such object (yet).
        Unsupported: the store ignores byte ranges.
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
    kept: _StoredIndex | None,
) -> "Archive":
    index: ArchiveIndex | TaskFSError
    if kept is not None:
        version, end, directory = kept
        index = read_or_refuse(directory, end, root)
    else:
        tail = remote.fetch_tail(tail_length(expected_members))
        version = tail.version
        try:
            end = find_end(tail.body, tail.start)
        except (CorruptData, Unsupported) as exc:
            index, end = exc, EndRecord(version.size, version.size, 0)
        else:
            directory = tail.body[max(0, end.start - tail.start) : max(0, end.stop - tail.start)]
            if end.start < tail.start:
                missing = remote.fetch_range(end.start, min(end.stop, tail.start), version)
                directory = bytes(missing) + directory
            index = read_or_refuse(directory, end, root)
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
        if isinstance(index, ArchiveIndex):
            _keep_index(key, engine, version, end, directory)
    return Archive(index, blocks, end.start, engine, key, root)


def _recall_index(key: str, engine: Engine) -> _StoredIndex | None:
    kept = engine.disk.read_blob(INDEX, key) if key and engine.disk is not None else None
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
        engine.disk.write_blob(INDEX, key, msgspec.json.encode((version, end)), directory)


class Archive:
    """One version of an archive. Safe for concurrent use: its collaborators are."""

    def __init__(
        self,
        index: ArchiveIndex | TaskFSError,
        blocks: BlockReader,
        directory_start: int,
        engine: Engine,
        index_key: str = "",
        root: str = "",
    ) -> None:
        self.refusal = None if isinstance(index, ArchiveIndex) else index
        index = self._index = index if isinstance(index, ArchiveIndex) else ArchiveIndex((), {})
        self.version = blocks.version
        self.size = blocks.size
        self.engine = engine
        self._blocks = blocks
        self._index_key = index_key
        headers = LocalHeaders(blocks, directory_start, root)
        decoders = DecoderCache(blocks, engine)
        self.prefetch = Prefetcher(
            blocks, headers, engine.walk_budget, index.members, decoders.bytes_open_beside
        )
        self._context = ReaderContext(
            blocks=blocks,
            headers=headers,
            integrity=IntegrityTable(),
            decoders=decoders,
            prefetch=self.prefetch,
            budget=engine.budget,
            spans=engine.spans,
            owner=next_owner(),
        )

    @property
    def index(self) -> ArchiveIndex:
        """The files beneath the root.

        Raises:
            CorruptData, Unsupported: they cannot be shown, for the reason in `refusal`.
        """
        if self.refusal is not None:
            raise _copy_of(self.refusal)
        return self._index

    @property
    def member_count(self) -> int:
        """How many files the index holds, 0 if they cannot be shown."""
        return len(self._index.members)

    def open_member(self, member: Member) -> MemberReader:
        """Return a reader of the member; no request is sent before its first read.

        Raises:
            Unsupported: the member is encrypted, or its method cannot be decoded.
        """
        if member.is_encrypted:
            raise Unsupported(f"{member.path}: the member is encrypted")
        if member.method != STORED and member.method not in DECODERS:
            name = METHOD_NAMES.get(member.method, "unknown")
            raise Unsupported(f"{member.path}: compression method {member.method} ({name})")
        if member.method == STORED:
            return StoredReader(self._context, member)
        if member.size <= SPAN and member.compressed_size <= BLOCK:
            return SmallReader(self._context, member)
        return CompressedReader(self._context, member)

    def open_raw(self) -> ReadAheadReader:
        """Return a reader of the archive's own bytes."""
        return ReadAheadReader(self._blocks, self.engine.budget, 0, self.size)

    def read_raw(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the archive itself."""
        return self._blocks.read_at(offset, size)

    def forget_index(self) -> None:
        """Drop the index on disk: the store no longer has this version."""
        if self._index_key and self.engine.disk is not None:
            self.engine.disk.drop_index(self._index_key)


def _copy_of(refusal: TaskFSError) -> TaskFSError:
    """Return an error to raise: one that several threads raise would collect their tracebacks."""
    error = type(refusal)(str(refusal))
    error.is_logged = refusal.is_logged
    return error
