"""`open_archive`: fetches the central directory of an archive, or reads it from the disk cache."""

from typing import Final, NamedTuple

import msgspec

from taskfs.archive.archive import Archive
from taskfs.archive.end_record import MIN_TAIL, EndRecord, find_end
from taskfs.archive.engine import Engine
from taskfs.archive.index import ArchiveIndex, read_or_refuse
from taskfs.cache.block_reader import BlockReader
from taskfs.cache.disk_cache import INDEX, DiskCache, cache_key
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.model import Fetched, ObjectVersion, RemoteObject

# Bytes of the directory per member, a low estimate: a second request costs less than fetching
# members in vain.
ENTRY_GUESS: Final = 80
# Bytes that are fetched from the end of an archive at most, before its directory's size is known.
MAX_TAIL: Final = 8 << 20


class _Directory(NamedTuple):
    """The central directory of one version of an archive, or the reason why there is none."""

    version: ObjectVersion
    end: EndRecord
    content: bytes = b""
    refusal: TaskFSError | None = None
    tail: Fetched | None = None  # the bytes that were fetched with it; None from the disk


def tail_length(expected_members: int | None) -> int:
    """Return how many last bytes to fetch first, so that one request mostly suffices."""
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
) -> Archive:
    """Return the archive with its index: one suffix range, a second one for a long directory.

    An archive whose files cannot be shown, because it is damaged, too large or not a ZIP archive,
    has a `refusal` in place of an index: its own bytes can be read.

    *name* is the object's path in the store: under it and the version, the disk keeps blocks. With
    an *identity*, the part of the record that identifies the version, the disk keeps the index
    too: then no request is sent the next time.

    Raises:
        NotFound: there is no such object.
        Unsupported: the store ignores byte ranges.
    """
    disk = engine.disk
    key = cache_key(engine.namespace, name, identity) if name and identity is not None else ""
    if disk is None or not key:
        return _build(_fetch(remote, expected_members), remote, root, engine, name, key)
    directory = _read_stored(disk, key)
    if directory is None:
        with disk.lock_index(key):
            # Another process may have stored it while this one waited for the lock.
            directory = _read_stored(disk, key) or _fetch(remote, expected_members)
            return _build(directory, remote, root, engine, name, key)
    return _build(directory, remote, root, engine, name, key)


def _fetch(remote: RemoteObject, expected_members: int | None) -> _Directory:
    tail = remote.fetch_tail(tail_length(expected_members))
    version = tail.version
    try:
        end = find_end(tail.body, tail.start)
    except (CorruptData, Unsupported) as exc:
        return _Directory(version, EndRecord(version.size, version.size, 0), b"", exc, tail)
    content = tail.body[max(0, end.start - tail.start) : max(0, end.stop - tail.start)]
    if end.start < tail.start:
        missing = remote.fetch_range(end.start, min(end.stop, tail.start), version)
        content = bytes(missing) + content
    return _Directory(version, end, content, tail=tail)


def _build(
    directory: _Directory, remote: RemoteObject, root: str, engine: Engine, name: str, key: str
) -> Archive:
    """Return the archive; cache what was fetched."""
    version = directory.version
    index = directory.refusal or read_or_refuse(directory.content, directory.end, root)
    stored_blocks = None
    if engine.disk is not None and name and version.etag:
        stored_blocks = engine.disk.blocks_of(cache_key(engine.namespace, name, version))
    blocks = BlockReader(
        remote,
        version,
        cache=engine.blocks,
        pool=engine.pool,
        waiter=engine.waiter,
        stats=engine.stats,
        disk=stored_blocks,
    )
    if directory.tail is not None:
        blocks.prime(directory.tail.start, directory.tail.body)
        if engine.disk is not None and isinstance(index, ArchiveIndex):
            _store(engine.disk, key, directory)
    return Archive(index, blocks, directory.end.start, engine, key, root)


def _read_stored(disk: DiskCache, key: str) -> _Directory | None:
    stored = disk.read_blob(INDEX, key)
    if stored is None:
        return None
    head, content = stored
    try:
        version, end = msgspec.json.decode(head, type=tuple[ObjectVersion, EndRecord])
    except msgspec.MsgspecError:
        return None
    return _Directory(version, end, content)


def _store(disk: DiskCache, key: str, directory: _Directory) -> None:
    # Without an ETag, a later reader could not notice that the archive was replaced.
    if key and directory.version.etag:
        head = msgspec.json.encode((directory.version, directory.end))
        disk.write_blob(INDEX, key, head, directory.content)
