"""Builders of good and damaged archives, and the remote object that they are read from.

`zipfile` writes what is right only, and not all of that: here every field of every record can be
set, so that an archive can lie. Offsets, sizes and checksums that nobody sets are right.
"""

import bz2
import contextlib
import lzma
import random
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeVar

from taskfs.archive.archive import Archive, open_archive
from taskfs.archive.decoder_limits import CheckpointBudget
from taskfs.archive.end_record import find_end
from taskfs.archive.engine import Engine
from taskfs.archive.index import ArchiveIndex, read_index
from taskfs.archive.member import Member
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.model import Fetched, ObjectVersion
from taskfs.support.buffers import Buffer
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats

T = TypeVar("T")

ROOT: Final = "artifacts/"
STORED: Final = 0
DEFLATED: Final = 8
BZIP2: Final = 12
LZMA: Final = 14
NARROW_MAX: Final = 0xFFFFFFFF
# 2024-02-29 12:34:56, as DOS has it and in seconds since 1970.
DOS_DATE: Final = (2024 - 1980) << 9 | 2 << 5 | 29
DOS_TIME: Final = 12 << 11 | 34 << 5 | 56 // 2
DOS_SECONDS: Final = 1_709_210_096


def cheap_bytes(size: int, seed: int = 1) -> bytes:
    """Return *size* bytes that differ everywhere, deflate to about 60 % and cost little time."""
    words = random.Random(seed).randbytes(512 << 10).hex().encode()
    pieces = []
    made, number = 0, 0
    while made < size:
        cut = number * 7919 % len(words)
        pieces.append(b"<%d:%d>" % (seed, number) + words[cut:] + words[:cut])
        made += len(pieces[-1])
        number += 1
    return b"".join(pieces)[:size]


def deflate(body: bytes, level: int = 6) -> bytes:
    """Return *body* as raw DEFLATE; level 0 gives stored blocks."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -15)
    return packer.compress(body) + packer.flush()


def lzma_alone(
    body: bytes, *, end_marker: bool = True, dictionary: int = 1 << 20, preset: int = 6
) -> bytes:
    """Return *body* as method 14 has it (APPNOTE 5.8.8).

    Without an end marker it must pack to less than 64 KiB: a chunk of LZMA2 is such a stream.
    """
    head = struct.pack("<BBHBL", 9, 4, 5, (2 * 5 + 0) * 9 + 3, dictionary)
    if end_marker:
        chain: list[dict[str, int]] = [
            {"id": lzma.FILTER_LZMA1, "preset": preset, "lc": 3, "lp": 0, "pb": 2}
        ]
        chain[0]["dict_size"] = dictionary
        return head + lzma.compress(body, lzma.FORMAT_RAW, filters=chain)
    chain = [{"id": lzma.FILTER_LZMA2, "lc": 3, "lp": 0, "pb": 2, "dict_size": dictionary}]
    packed = lzma.compress(body, lzma.FORMAT_RAW, filters=chain)
    assert packed[0] >= 0xE0, "the body does not pack at all"
    unpacked = (packed[0] & 0x1F) << 16 | packed[1] << 8 | packed[2]
    length = (packed[3] << 8 | packed[4]) + 1
    assert unpacked + 1 == len(body), "the body is too long for one chunk"
    return head + packed[6 : 6 + length]


def pack(body: bytes, method: int, level: int = 6) -> bytes:
    """Return *body* compressed by *method*; as it is for a method that nobody here can write."""
    return _pack(body, method, level) if method in (DEFLATED, BZIP2, LZMA) else body


@lru_cache(maxsize=64)  # tests pack the same few bodies again and again
def _pack(body: bytes, method: int, level: int) -> bytes:
    if method == DEFLATED:
        return deflate(body, level)
    return bz2.compress(body, max(1, level)) if method == BZIP2 else lzma_alone(body)


def field(kind: int, value: bytes) -> bytes:
    """Return one extra field (APPNOTE 4.5.1)."""
    return struct.pack("<HH", kind, len(value)) + value


def timestamp_field(mtime_s: int, flags: int = 1) -> bytes:
    """Return an extended timestamp (0x5455) as the central directory has it."""
    return field(0x5455, struct.pack("<Bi", flags, mtime_s))


def ntfs_field(mtime_100ns: int) -> bytes:
    """Return NTFS times (0x000a): 100 ns since 1601, of modification, access and creation."""
    return field(0x000A, bytes(4) + field(1, struct.pack("<3Q", mtime_100ns, 1, 2)))


def unicode_field(name: str | bytes, raw_name: bytes, *, crc: int | None = None) -> bytes:
    """Return a UTF-8 name (0x7075) made for *raw_name*."""
    text = name.encode() if isinstance(name, str) else name
    made_for = zlib.crc32(raw_name) if crc is None else crc
    return field(0x7075, struct.pack("<BL", 1, made_for) + text)


@dataclass(frozen=True)
class Entry:
    """One member. What is None is made right; what is set is written, right or not."""

    name: bytes
    body: bytes = b""
    method: int = DEFLATED
    level: int = 6
    flags: int = 0
    packed: bytes | None = None  # the bytes between the headers, instead of packing `body`
    crc: int | None = None
    size: int | None = None  # as the directory has it, like the next two
    compressed_size: int | None = None
    offset: int | None = None
    date: int = DOS_DATE
    time: int = DOS_TIME
    extra: bytes = b""
    comment: bytes = b""
    zip64: bool = False  # all three places in a ZIP64 field
    is_streamed: bool = False  # zeros in the local header, the sizes behind the bytes
    local_name: bytes | None = None
    local_extra: bytes = b""
    local_magic: bytes = b"PK\x03\x04"
    is_listed: bool = True
    host: int = 3  # the system that made it (APPNOTE 4.4.2): Unix


def file(name: str, body: bytes = b"", **fields: Any) -> Entry:
    """Return the entry of a file beneath the root."""
    return Entry((ROOT + name).encode(), body, **fields)


def folder(name: str, **fields: Any) -> Entry:
    """Return the entry of a directory beneath the root, the root itself for an empty name."""
    return Entry((ROOT + name + "/" * bool(name)).encode(), method=STORED, **fields)


def build(
    entries: Sequence[Entry],
    *,
    prepended: bytes = b"",
    shifted: bool = False,
    gap: bytes = b"",
    comment: bytes = b"",
    trailing: bytes = b"",
    zip64: bool = False,
    zip64_extensible: bytes = b"",
    end: dict[str, int] | None = None,
    end64: dict[str, int] | None = None,
    locator: dict[str, int] | None = None,
) -> bytes:
    """Return an archive.

    *shifted* offsets count from the archive's own begin instead of from the prepended bytes';
    *gap* stands before the directory. *end*, *end64* and *locator* replace fields by name.
    """
    out = bytearray(prepended)
    base = len(prepended) if shifted else 0
    directory = bytearray()
    for entry in entries:
        packed = entry.packed
        if packed is None:
            packed = pack(entry.body, entry.method, entry.level)
        crc = zlib.crc32(entry.body) if entry.crc is None else entry.crc
        true_sizes = (len(entry.body), len(packed))
        offset = len(out) - base if entry.offset is None else entry.offset
        out += _local_header(entry, crc, *true_sizes)
        out += packed
        if entry.is_streamed:
            wide = "<4sLQQ" if entry.zip64 else "<4sLLL"
            out += struct.pack(wide, b"PK\x07\x08", crc, true_sizes[1], true_sizes[0])
        if entry.is_listed:
            size = true_sizes[0] if entry.size is None else entry.size
            compressed = true_sizes[1] if entry.compressed_size is None else entry.compressed_size
            directory += _central_header(entry, crc, size, compressed, offset)
    out += gap
    start = len(out) - base
    out += directory
    listed = sum(entry.is_listed for entry in entries)
    if zip64:
        out += _zip64_end(
            len(out) - base, listed, len(directory), start, zip64_extensible, end64, locator
        )
    places = {"disk": 0, "first_disk": 0, "here": listed, "entries": listed}
    places |= {"size": len(directory), "offset": start, "comment": len(comment)}
    if zip64:
        places |= {"here": 0xFFFF, "entries": 0xFFFF, "size": NARROW_MAX, "offset": NARROW_MAX}
    places |= end or {}
    out += struct.pack("<4s4H2LH", b"PK\x05\x06", *places.values()) + comment
    return bytes(out + trailing)


def _local_header(entry: Entry, crc: int, size: int, compressed: int) -> bytes:
    name = entry.name if entry.local_name is None else entry.local_name
    extra = entry.local_extra
    flags = entry.flags
    if entry.is_streamed:
        flags |= 0x0008
        crc = size = compressed = 0
    elif entry.zip64:
        extra += field(1, struct.pack("<QQ", size, compressed))
        size = compressed = NARROW_MAX
    return (
        struct.pack(
            "<4s5H3L2H",
            entry.local_magic,
            20,
            flags,
            entry.method,
            entry.time,
            entry.date,
            crc,
            compressed,
            size,
            len(name),
            len(extra),
        )
        + name
        + extra
    )


def _central_header(entry: Entry, crc: int, size: int, compressed: int, offset: int) -> bytes:
    extra = entry.extra
    if entry.zip64:
        extra = field(1, struct.pack("<QQQ", size, compressed, offset)) + extra
        size = compressed = offset = NARROW_MAX
    return (
        struct.pack(
            "<4s6H3L5H2L",
            b"PK\x01\x02",
            entry.host << 8 | 0x14,
            45 if entry.zip64 else 20,
            entry.flags | (0x0008 if entry.is_streamed else 0),
            entry.method,
            entry.time,
            entry.date,
            crc,
            compressed,
            size,
            len(entry.name),
            len(extra),
            len(entry.comment),
            0,
            0,
            0o100644 << 16,
            offset,
        )
        + entry.name
        + extra
        + entry.comment
    )


def _zip64_end(
    at: int,
    listed: int,
    size: int,
    start: int,
    extensible: bytes,
    end64: dict[str, int] | None,
    locator: dict[str, int] | None,
) -> bytes:
    record = {"record": 44 + len(extensible), "made_by": 45, "needed": 45, "disk": 0}
    record |= {"first_disk": 0, "here": listed, "entries": listed, "size": size, "offset": start}
    record |= end64 or {}
    place = {"disk": 0, "at": at, "disks": 1} | (locator or {})
    return (
        struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", *record.values())
        + extensible
        + struct.pack("<4sLQL", b"PK\x06\x07", *place.values())
    )


def flipped(body: bytes, at: int, mask: int = 0x01) -> bytes:
    """Return *body* with bits of one byte turned over."""
    out = bytearray(body)
    out[at] ^= mask
    return bytes(out)


def plain_name(name: str) -> str:
    """Return *name* as unzip and 7-Zip understand it: `.` and empty components do not count."""
    kept = [component for component in name.split("/") if component not in ("", ".")]
    is_folder = name.endswith(("/", "/.")) and kept
    return "/" * name.startswith("/") + "/".join(kept) + "/" * bool(is_folder)


def index_of(body: bytes, root: str = ROOT, tail_length: int | None = None) -> ArchiveIndex:
    """Return the index of an archive, as `open_archive` reads it, but from memory."""
    tail_start = 0 if tail_length is None else max(0, len(body) - tail_length)
    end = find_end(body[tail_start:], tail_start)
    return read_index(body[end.start : end.stop], end, root)


class FakeObject:
    """A remote object in memory. `requests` are the ranges asked for, the tail's left out.

    *on_range* sees every answer before it is given, and may change it, wait or raise.
    """

    def __init__(
        self, body: bytes, on_range: Callable[[int, int, bytes], bytes] | None = None
    ) -> None:
        self.body = body
        self.version = ObjectVersion(len(body), '"one"')
        self.requests: list[tuple[int, int]] = []
        self.on_range = on_range

    @property
    def fetched(self) -> int:
        """How many bytes went out, the tail's left out."""
        return sum(stop - start for start, stop in self.requests)

    def fetch_tail(self, length: int) -> Fetched:
        """Return the last bytes; see `RemoteObject`."""
        start = max(0, len(self.body) - length)
        return Fetched(start, self.body[start:], self.version)

    def fetch_range(self, start: int, stop: int, version: ObjectVersion) -> bytes:
        """Return the bytes [start, stop); see `RemoteObject`."""
        assert 0 <= start < stop <= len(self.body), (start, stop, len(self.body))
        assert version == self.version
        self.requests.append((start, stop))
        answer = self.body[start:stop]
        return answer if self.on_range is None else self.on_range(start, stop, answer)


class DaemonPool(Executor):
    """A pool whose threads end with the process: what hangs fails its test, not the whole run.

    Threads end once there is no more to do, so a test needs to close nothing.
    """

    def __init__(self, threads: int) -> None:
        self._most = threads
        self._work: deque[Callable[[], None]] = deque()
        self._running = 0
        self._changed = threading.Condition()
        self.submitted = 0

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Have *fn* called by one of the threads."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as exc:
                future.set_exception(exc)

        with self._changed:
            self._work.append(call)
            self.submitted += 1
            needs_thread = self._running < self._most
            self._running += needs_thread
        if needs_thread:
            threading.Thread(target=self._run, daemon=True).start()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._work:
                    self._running -= 1
                    self._changed.notify_all()
                    return
                call = self._work.popleft()
            call()

    def is_quiet(self, timeout_s: float = 5.0) -> bool:
        """Whether all that was submitted ended, waiting for it so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout_s)


@dataclass(frozen=True)
class Bench:
    """An engine of its own and the way to stop it."""

    engine: Engine
    store: DaemonPool
    decoding: DaemonPool

    def settle(self) -> None:
        """Wait until nothing is under way: then requests can be counted."""
        assert self.decoding.is_quiet(), "a decoder never ends"
        assert self.store.is_quiet(), "a fetch never ends"

    def open(self, remote: FakeObject, expected_members: int | None = None) -> Archive:
        """Return the archive that *remote* holds; raise why its files cannot be shown."""
        archive = open_archive(remote, ROOT, self.engine, expected_members)
        assert archive.index is not None
        return archive


@contextlib.contextmanager
def bench(
    *,
    block_bytes: int = 32 << 20,
    span_bytes: int = 24 << 20,
    window_bytes: int = 16 << 20,
    checkpoints: int = 384,
    interrupted: Callable[[], bool] = lambda: False,
    limit_s: float = 20.0,
) -> Iterator[Bench]:
    """Yield an engine; whoever still runs in it afterwards is told that it was interrupted.

    So is, after *limit_s*, whoever still reads: what hangs fails its test.
    """
    over = threading.Event()
    deadline_s = time.monotonic() + limit_s
    store, decoding = DaemonPool(16), DaemonPool(2)
    engine = Engine(
        pool=store,
        decoding=decoding,
        waiter=Waiter(lambda: over.is_set() or time.monotonic() > deadline_s or interrupted()),
        stats=Stats(),
        blocks=ExtentCache(block_bytes),
        spans=ExtentCache(span_bytes),
        budget=ReadAheadBudget(window_bytes),
        checkpoints=CheckpointBudget(checkpoints),
    )
    try:
        yield Bench(engine, store, decoding)
    finally:
        over.set()


def member(archive: Archive, path: str) -> Member:
    """Return the member at *path*."""
    found = archive.index.lookup(path)
    assert isinstance(found, Member), path
    return found


def read_all(archive: Archive, path: str, chunk: int = 128 << 10) -> bytes:
    """Return the whole member, read forward through one handle."""
    reader = archive.open_member(member(archive, path))
    pieces: list[Buffer] = []
    try:
        at = 0
        while piece := reader.read_at(at, chunk):
            pieces.append(piece)
            at += len(piece)
    finally:
        reader.close()
    return b"".join(pieces)


def run_threads(
    calls: Sequence[Callable[[], None]], timeout_s: float = 30.0, *, name: str = "reader"
) -> None:
    """Run *calls* at once; raise what the first of them raised, fail if one does not end."""
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=guarded, args=(call,), daemon=True, name=f"{name}-{number}")
        for number, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a thread does not end"
