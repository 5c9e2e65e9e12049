"""`Archive`: one version of a remote ZIP archive: index, raw bytes, random reads of members."""

import contextlib
from typing import Final

from taskfs.archive.bounds import SPAN
from taskfs.archive.decoder_cache import DecoderCache
from taskfs.archive.decoders import DECODERS, METHOD_NAMES, STORED
from taskfs.archive.disk_checkpoints import ArchiveCheckpoints
from taskfs.archive.end_record import EndRecord
from taskfs.archive.index import ArchiveIndex
from taskfs.archive.index_builder import read_index
from taskfs.archive.integrity import IntegrityTable
from taskfs.archive.local_header import LocalHeaders
from taskfs.archive.member import Member
from taskfs.archive.member_part import PartRead
from taskfs.archive.member_reader import (
    CompressedReader,
    MemberReader,
    ReaderContext,
    SmallReader,
    StoredReader,
)
from taskfs.archive.prefetch import Prefetcher
from taskfs.archive.resources import ArchiveResources
from taskfs.cache.block import BLOCK
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.eviction import INDEXES
from taskfs.cache.memory_cache import next_owner
from taskfs.cache.readahead import ReadAheadReader
from taskfs.errors import CacheChanged, TaskFSError, Unsupported
from taskfs.support.buffers import Buffer

# Bytes of memory that an archive takes beside its index, however many members it has: its readers'
# state, the task's record and the names that refer to it. Measured with archives of two files.
ARCHIVE_BYTES: Final = 16 << 10
NO_END: Final = EndRecord(0, 0, 0)  # of an archive without a directory


class Archive:
    """One version of an archive. Safe for concurrent use: its collaborators are.

    `index_error` is the reason why its files cannot be shown, or None.
    """

    def __init__(
        self,
        index: ArchiveIndex | TaskFSError,
        blocks: BlockReader,
        directory_start: int,
        resources: ArchiveResources,
        *,
        index_key: str,
        root: str,
        disk_checkpoints: ArchiveCheckpoints | None,
    ) -> None:
        self.index_error = None if isinstance(index, ArchiveIndex) else index
        self._index = index if isinstance(index, ArchiveIndex) else read_index(b"", NO_END, root)
        self.version = blocks.version
        self.size = blocks.size
        self.resources = resources
        self._blocks = blocks
        self._index_key = index_key
        self._directory_start = directory_start
        self._headers = headers = LocalHeaders(blocks, directory_start, root)
        decoders = DecoderCache(blocks, resources, disk_checkpoints)
        self.prefetch = Prefetcher(
            blocks,
            headers,
            resources.sequential_files_budget,
            self._index,
            decoders.other_open_bytes,
        )
        self._context = ReaderContext(
            blocks=blocks,
            headers=headers,
            integrity=IntegrityTable(),
            decoders=decoders,
            prefetch=self.prefetch,
            read_ahead_budget=resources.read_ahead_budget,
            spans=resources.spans,
            owner=next_owner(),
        )

    @property
    def index(self) -> ArchiveIndex:
        """The files beneath the root.

        Raises:
            CorruptData, Unsupported: they cannot be shown.
        """
        if self.index_error is not None:
            raise _copy_of(self.index_error)
        return self._index

    @property
    def is_index_lost(self) -> bool:
        """Whether the index on disk was found damaged: it must be loaded again."""
        return self._index.is_lost

    @property
    def memory_bytes(self) -> int:
        """The memory that the archive takes, without its blocks, in bytes."""
        return self._index.memory_bytes + self.prefetch.memory_bytes + ARCHIVE_BYTES

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

    def prefetch_part(self, path: str, read: PartRead, max_bytes: int) -> bool:
        """Start to fetch the part of the file *path* that a program *read* in another archive.

        Return whether a request was needed. Nothing is fetched if there is no such file.
        """
        with contextlib.suppress(CacheChanged):  # no reader needs it, so none fails
            member = self._index.lookup(path)
            if isinstance(member, Member):
                started = False
                for each in read.of(member).ranges():
                    stop = min(each.stop, each.start + max_bytes, self._directory_start)
                    max_bytes -= max(0, stop - each.start)
                    started |= self._blocks.prefetch(each.start, stop)
                return started
        return False

    def open_raw(self) -> ReadAheadReader:
        """Return a reader of the archive's own bytes."""
        return ReadAheadReader(self._blocks, self.resources.read_ahead_budget, 0, self.size)

    def read_raw(self, offset: int, size: int) -> Buffer:
        """Return the bytes [offset, offset + size) of the archive itself, fewer only at its end.

        Raises: as `RemoteObject.fetch_range`.
        """
        return self._blocks.read_at(offset, size)

    def extent_of(self, member: Member) -> range:
        """Return the offsets of the archive that the member takes, from its header to a bound of
        the end of its data."""
        return range(member.header_offset, self._headers.stop_guess(member))

    def disk_files(self, part: range) -> list[str]:
        """Return the files of the disk cache for the bytes *part* and for the index."""
        names = self._blocks.disk_files(part.start, part.stop)
        return [f"{INDEXES}/{self._index_key}", *names] if self._index_key else names

    def is_on_disk(self, part: range) -> bool:
        """Whether the disk has all bytes of *part*."""
        return self._blocks.is_on_disk(part.start, part.stop)

    def forget_index(self) -> None:
        """Remove the index from the disk: the store no longer has this version, or it is lost."""
        if self._index_key and self.resources.disk is not None:
            self.resources.disk.drop_index(self._index_key, is_damaged=self.is_index_lost)


def _copy_of(error: TaskFSError) -> TaskFSError:
    """Return a new error to raise; a shared one would collect the tracebacks of all threads."""
    copy = type(error)(str(error))
    copy.is_logged = error.is_logged
    return copy
