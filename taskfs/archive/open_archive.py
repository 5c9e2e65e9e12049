"""`open_archive`: fetches the central directory of an archive, or reads it from the disk cache."""

import contextlib
import traceback
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from functools import partial
from typing import Final, NamedTuple

from taskfs.archive.archive import Archive
from taskfs.archive.disk_checkpoints import ArchiveCheckpoints
from taskfs.archive.end_record import MIN_TAIL, EndRecord, find_end
from taskfs.archive.index import ArchiveIndex, open_index
from taskfs.archive.index_builder import build_index
from taskfs.archive.index_layout import KIND
from taskfs.archive.resources import ArchiveResources
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import DiskCache, cache_key
from taskfs.cache.eviction import INDEXES
from taskfs.cache.sealed_file import SealedWriter
from taskfs.errors import CacheChanged, CorruptData, TaskFSError, Unsupported, UnsupportedStore
from taskfs.model import Fetched, ObjectVersion, RemoteObject
from taskfs.support.buffers import Buffer

# Bytes of the directory per member, a low estimate: a second request costs less than bytes of
# members that are not needed.
ENTRY_GUESS: Final = 80
# The most bytes to fetch from the end of an archive before its directory's size is known. Of a
# directory that is probably longer by more than a piece, only MIN_TAIL bytes are fetched, because
# they are in memory until all pieces before them are parsed.
MAX_TAIL: Final = 4 << 20
# Bytes of a long directory that one request fetches; one is in flight while a piece is parsed. It
# bounds the memory that a directory takes: parsing takes longer than a fetch.
PIECE: Final = 4 << 20
LONG_DIRECTORY: Final = PIECE  # bytes of a directory above which only one is parsed at a time
# The lengths of an index, and of the scratch files of its build, in lengths of its directory: high
# estimates. A member takes 48 bytes of scratch, and at least 55 of the directory.
INDEX_RATIO: Final = 1.6
SCRATCH_RATIO: Final = 0.9


def _always() -> bool:
    return True


class _Loaded(NamedTuple):
    """The index of one version of an archive, or the reason why there is none."""

    version: ObjectVersion
    directory_start: int
    outcome: ArchiveIndex | TaskFSError
    tail: Fetched | None = None  # the bytes that were fetched with it; None from the disk


def tail_length(expected_members: int | None) -> int:
    """Return how many last bytes to fetch first, so that one or two requests mostly suffice."""
    length = MIN_TAIL + (expected_members or 0) * ENTRY_GUESS
    return min(length, MAX_TAIL) if length <= MAX_TAIL + PIECE else MIN_TAIL


def open_archive(
    remote: RemoteObject,
    root: str,
    resources: ArchiveResources,
    expected_members: int | None = None,
    *,
    name: str = "",
    identity: object = None,
    is_wanted: Callable[[], bool] = _always,
) -> Archive:
    """Return the archive with its index.

    The requests are one suffix range and, for a directory that is longer, one range for each
    `PIECE` of it.

    An archive whose files cannot be shown, because it is damaged, too large or not a ZIP archive,
    has an `index_error` in place of an index: its own bytes can be read.

    *name* is the object's path in the store: under it and the version, the disk keeps blocks. With
    an *identity*, the part of the record that identifies the version, the disk keeps the index
    too: then no request is sent the next time.

    The indexes of long directories are built one after another, because each takes memory. One that
    waits for its turn asks *is_wanted* whether it is still needed.

    Raises:
        NotWanted: *is_wanted* has returned False.
        NotFound: there is no such object.
        UnsupportedStore: the store ignores byte ranges.
    """
    disk = resources.disk
    key = cache_key(resources.namespace, name, identity) if name and identity is not None else ""
    loaded = _load_from_disk(disk, key, root)
    if loaded is not None:
        return _build(loaded, remote, root, resources, name, key)
    with disk.lock_index(key) if disk is not None and key else contextlib.nullcontext():
        # Another process may have written it while this one waited for the lock.
        loaded = _load_from_disk(disk, key, root)
        if loaded is None:
            loaded = _fetch(remote, root, resources, name, key, expected_members, is_wanted)
    return _build(loaded, remote, root, resources, name, key)


def _fetch(
    remote: RemoteObject,
    root: str,
    resources: ArchiveResources,
    name: str,
    key: str,
    expected_members: int | None,
    is_wanted: Callable[[], bool],
) -> _Loaded:
    """Fetch the directory, and store its index."""
    last_drop_ns = resources.disk.last_drop_ns() if resources.disk is not None else 0
    tail = remote.fetch_tail(tail_length(expected_members))
    version = tail.version
    try:
        end = find_end(tail.body, tail.start)
    except (CorruptData, Unsupported) as exc:
        return _Loaded(version, version.size, _without_frames(exc), tail)
    is_long = end.stop - end.start > LONG_DIRECTORY
    with resources.long_builds.turn(is_wanted) if is_long else contextlib.nullcontext():
        return _build_index(remote, root, resources, name, key, end, tail, last_drop_ns)


def _build_index(
    remote: RemoteObject,
    root: str,
    resources: ArchiveResources,
    name: str,
    key: str,
    end: EndRecord,
    tail: Fetched,
    last_drop_ns: int,
) -> _Loaded:
    disk, version = resources.disk, tail.version
    # Without an ETag or a date, a later reader could not notice that the archive was replaced.
    if disk is not None and key and version.etag:
        length = end.stop - end.start
        scratch = int(SCRATCH_RATIO * length)
        writer = disk.create_sealed(INDEXES, key, int(INDEX_RATIO * length), scratch)
    else:
        writer = SealedWriter()
    try:
        with contextlib.closing(_directory_pieces(remote, end, tail, resources.pool)) as pieces:
            try:
                index = build_index(writer, pieces, version, end, root, name)
            except BaseException as exc:
                # Its traceback refers to the frames, and they to the columns of the members.
                traceback.clear_frames(exc.__traceback__)
                raise
    except (UnsupportedStore, CacheChanged):
        raise  # the archive may be in order
    except (CorruptData, Unsupported) as exc:
        return _Loaded(version, end.start, _without_frames(exc), tail)
    else:
        if disk is not None:
            disk.publish_sealed(writer, last_drop_ns)
        return _Loaded(version, end.start, index, tail)
    finally:
        writer.discard()


def _without_frames(exc: TaskFSError) -> TaskFSError:
    """Return the exception, which is kept with the archive, without references to frames."""
    exc.__cause__ = exc.__context__ = None
    return exc.with_traceback(None)


def _directory_pieces(
    remote: RemoteObject, end: EndRecord, tail: Fetched, pool: Executor
) -> Generator[Buffer, None, None]:
    """Yield the directory in pieces. While one is parsed, the next one is fetched."""
    stop = min(end.stop, tail.start)
    fetch = partial(remote.fetch_range, version=tail.version)
    starts = range(end.start, stop, PIECE)
    in_flight = [pool.submit(fetch, at, min(at + PIECE, stop)) for at in starts[:1]]
    for at in starts:
        fetched = [in_flight.pop().result()]
        if at + PIECE < stop:
            in_flight.append(pool.submit(fetch, at + PIECE, min(at + 2 * PIECE, stop)))
        yield fetched.pop()  # the caller has the only reference, and drops it early
    if end.stop > tail.start:
        part = slice(max(0, end.start - tail.start), end.stop - tail.start)
        yield memoryview(tail.body)[part]


def _build(
    loaded: _Loaded,
    remote: RemoteObject,
    root: str,
    resources: ArchiveResources,
    name: str,
    key: str,
) -> Archive:
    """Return the archive; cache what was fetched."""
    version = loaded.version
    disk_blocks = disk_checkpoints = None
    if resources.disk is not None and resources.keeps_blocks and name and version.etag:
        version_key = cache_key(resources.namespace, name, version)
        disk_blocks = resources.disk.blocks_of(version_key)
        disk_checkpoints = ArchiveCheckpoints(resources.disk, version_key, loaded.directory_start)
    blocks = BlockReader(
        remote,
        version,
        cache=resources.blocks,
        pool=resources.pool,
        waiter=resources.waiter,
        stats=resources.stats,
        disk=disk_blocks,
    )
    if loaded.tail is not None:
        blocks.put_fetched(loaded.tail.start, loaded.tail.body)
    return Archive(
        loaded.outcome,
        blocks,
        loaded.directory_start,
        resources,
        index_key=key,
        root=root,
        disk_checkpoints=disk_checkpoints,
    )


def _load_from_disk(disk: DiskCache | None, key: str, root: str) -> _Loaded | None:
    if disk is None or not key:
        return None
    content = disk.read_sealed(INDEXES, key, KIND)
    try:
        index = open_index(content, root) if content is not None else None
    except CacheChanged:
        disk.drop_index(key, is_damaged=True)
        return None
    if index is None:
        return None
    return _Loaded(index.head.version, index.head.end.start, index)
