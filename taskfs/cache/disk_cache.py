"""Blocks and archive indexes on disk: shared by mounts, checked before use, never in the way.

Blocks lie in the files of `segments`, so a crash, a full disk, a second writer, a damaged byte or a
file under another's name makes a miss and nothing worse. Two mounts that write the same block write
the same bytes. How much of the disk they may take, and which files go first, is in `eviction`.
"""

import contextlib
import hashlib
import logging
import os
import stat
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskfs.cache.eviction import CLAIMS, FULL, DiskSpace, open_private
from taskfs.cache.memory_cache import BLOCK
from taskfs.cache.range_locks import lock_range
from taskfs.cache.segment_file import SEGMENT_BLOCKS, Segment
from taskfs.support.buffers import Buffer, allocate

log = logging.getLogger(__name__)

FORMAT: Final = "v1"  # another layout takes another directory, so versions never misread each other
MAX_OPEN: Final = 64
TOUCH_S: Final = 60.0
PAUSE_S: Final = 60.0  # after a failed write nothing is written for so long
INDEX_MAGIC: Final = b"taskfs index 1\n"
INDEX: Final = "index"  # the kinds of small files that lie beside the blocks
RECORDS: Final = "records"


def cache_key(*parts: object) -> str:
    """Return a file name that stands for *parts*."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


class DiskCache:
    """The cache directory. Safe for concurrent use, by threads and by processes.

    The lock guards the table of open segments; reading and writing run outside of it. Nothing
    here raises: what fails is a miss, and is logged once.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._root = directory / FORMAT
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[Path, Segment] = OrderedDict()
        self._paused_until_s = float("-inf")
        self._complained = False
        self._space = DiskSpace(self._root, max_bytes, _forgetter(self._open, self._lock))
        self._usable = max_bytes > 0 and self._make_directories()
        self._look_at_reserve()

    def blocks_of(self, key: str) -> "DiskBlocks":
        """Return the cached blocks of one object version; *key* is a `cache_key`."""
        return DiskBlocks(self, self.blocks_directory(key), key)

    def blocks_directory(self, key: str) -> Path:
        """Return where the blocks of the object version *key* lie."""
        return self._root / "blocks" / key[:2]

    def get_index(self, key: str, kind: str = INDEX) -> tuple[bytes, bytes] | None:
        """Return the head and the body that `put_index` kept under *key*, None if there are none
        or they are damaged."""
        if not self._usable:
            return None
        path = self._root / kind / key
        try:
            with open(path, "rb", opener=open_private) as file:
                packed = file.read()
        except OSError:
            return None
        magic, sum_, rest = packed[:15], packed[15:19], packed[19:]
        if magic != INDEX_MAGIC or _index_sum(key, rest) != sum_:
            return None
        try:
            whole = zlib.decompress(rest)
        except zlib.error:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        length = int.from_bytes(whole[:4], "little")
        return whole[4 : 4 + length], whole[4 + length :]

    def put_index(self, key: str, head: bytes, body: bytes, kind: str = INDEX) -> None:
        """Keep *head* and *body* under *key*; they appear whole or not at all."""
        rest = zlib.compress(len(head).to_bytes(4, "little") + head + body, 1)
        packed = INDEX_MAGIC + _index_sum(key, rest) + rest
        path = self._root / kind / key
        temporary = path.with_name(f".{key}.{os.getpid()}.{threading.get_ident()}")

        def write() -> None:
            try:
                with open(temporary, "wb", opener=open_private) as file:
                    file.write(packed)
                os.replace(temporary, path)
            except OSError:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            self._space.note_written(len(packed))

        self._try_write(write, len(packed))

    def drop_index(self, key: str) -> None:
        """Forget what is kept under *key*."""
        with contextlib.suppress(OSError):
            os.unlink(self._root / INDEX / key)

    def drop_indexes(self) -> None:
        """Forget every index: all archives are looked at again."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self._root / INDEX):
                self.drop_index(name)

    def lock_range(
        self, key: str, first: int, last: int, is_there: Callable[[], bool]
    ) -> contextlib.AbstractContextManager[None]:
        """Have other processes wait that want the same; see `claims`."""
        if not self._usable:
            return contextlib.nullcontext()
        return lock_range(self._root / CLAIMS, key, first, last, is_there)

    def lock_index(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Have other processes wait that want the index kept under *key* as well."""
        path = self._root / INDEX / key
        return self.lock_range(key, 0, 0, path.exists)

    def _try_write(self, write: Callable[[], None], count: int) -> None:
        """Call *write*, which keeps *count* bytes, if the disk's reserve allows it.

        No caller needs the write: on OSError, log once and suspend writes for `PAUSE_S`.
        """
        if not self._usable or time.monotonic() < self._paused_until_s:
            return
        if not self._space.has_space(count):
            self._complain("it would leave less than 5 % of its disk free")
            return
        try:
            try:
                write()
            except FileNotFoundError:  # somebody removed the directory while it was in use
                self._usable = self._make_directories()
                if self._usable:
                    write()
            except OSError as exc:
                if exc.errno not in FULL:
                    raise
                self._space.shrink(count)
                write()
        except OSError as exc:
            self._paused_until_s = time.monotonic() + PAUSE_S
            self._complain(exc)

    def _complain(self, why: object) -> None:
        if not self._complained:
            self._complained = True
            log.warning("the cache cannot be written (%s): reads go on without it", why)

    def _look_at_reserve(self) -> None:
        """Evict what takes the disk's reserve, at most every few seconds."""
        if self._usable:
            self._space.look()

    def _make_directories(self) -> bool:
        try:
            for directory in (self._root.parent, self._root):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self._root)
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
                raise PermissionError(f"{self._root} is a link or belongs to somebody else")
            os.chmod(self._root, 0o700)
            for name in ("blocks", INDEX, RECORDS):
                (self._root / name).mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            log.warning("there is no cache on disk (%s): see --cache-dir", exc)
            return False
        return True

    def segment(self, path: Path, *, create: bool) -> Segment | None:
        """Return the open segment, None if there is no such file (and none is to be made)."""
        if not self._usable:
            return None
        with self._lock:
            segment = self._open.get(path)
            if segment is not None:
                self._open.move_to_end(path)
        if segment is not None:
            if not segment.is_removed:
                return segment
            with self._lock:
                if self._open.get(path) is segment:
                    del self._open[path]
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        try:
            descriptor = os.open(path, flags, 0o600)
        except FileNotFoundError:
            if not create:
                return None
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
        segment = Segment(path, descriptor)
        segment.read_table(0, SEGMENT_BLOCKS)
        with self._lock:
            segment = self._open.setdefault(path, segment)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)  # closed once the last reader lets go of it
        return segment

    def touch(self, segment: Segment) -> None:
        """Note that the segment is in use."""
        self._look_at_reserve()
        now = time.monotonic()
        if now - segment.touched_s > TOUCH_S:
            segment.touched_s = now
            with contextlib.suppress(OSError):
                os.utime(segment.descriptor)

    def write(self, path: Path, first: int, run: memoryview) -> None:
        """Keep *run*, whole blocks from the segment's block *first* on."""
        self._try_write(lambda: self._write(path, first, run), len(run))

    def _write(self, path: Path, first: int, run: memoryview) -> None:
        segment = self.segment(path, create=True)
        if segment is None:
            return
        try:
            segment.write(first, run)
        except OSError:
            if not segment.present(0, SEGMENT_BLOCKS):  # only a part that no reader will find
                with contextlib.suppress(OSError):
                    path.unlink()
            raise
        segment.touched_s = time.monotonic()
        self._space.note_written(len(run))


def _forgetter(segments: dict[Path, Segment], lock: threading.Lock) -> Callable[[Path], None]:
    """Return what forgets an open segment. It does not know the cache, because a cycle would keep
    the descriptors of a cache that is no longer used open."""

    def forget(path: Path) -> None:
        with lock:
            segments.pop(path, None)

    return forget


def _index_sum(key: str, rest: bytes) -> bytes:
    return zlib.crc32(rest, zlib.crc32(key.encode())).to_bytes(4, "little")


class DiskBlocks:
    """The blocks of one object version on disk. Safe for concurrent use."""

    def __init__(self, cache: DiskCache, directory: Path, key: str) -> None:
        self._cache = cache
        self._directory = directory
        self._key = key

    def _path(self, number: int) -> Path:
        return self._directory / f"{self._key}-{number:x}"

    def _parts(self, first: int, stop: int) -> Iterator[tuple[Path, int, int, int]]:
        """Yield where the blocks [first, stop) lie, file by file: its path, which of its blocks
        [place, end) they are, and the index of the first of them."""
        index = first
        while index < stop:
            number, place = divmod(index, SEGMENT_BLOCKS)
            end = min(SEGMENT_BLOCKS, place + stop - index)
            yield self._path(number), place, end, index
            index += end - place

    def present(self, first: int, stop: int) -> list[int]:
        """Return which of the blocks [first, stop) seem to be there; no bytes are looked at."""
        found: list[int] = []
        for path, place, end, index in self._parts(first, stop):
            with contextlib.suppress(OSError):
                segment = self._cache.segment(path, create=False)
                if segment is not None:
                    found += [index + there - place for there in segment.present(place, end)]
        return found

    def get(self, first: int, count: int = 1) -> Buffer | None:
        """Return up to *count* blocks from *first* on, as far as they are there and have the right
        checksum; None if the first has not."""
        room = allocate(count * BLOCK)
        good = 0
        for path, place, end, index in self._parts(first, first + count):
            at, length = (index - first) * BLOCK, (end - place) * BLOCK
            try:
                segment = self._cache.segment(path, create=False)
                if segment is None:
                    break
                read, is_wrong = segment.read(place, room[at : at + length])
            except OSError:
                break
            if is_wrong:
                wrong = index + read // BLOCK
                self.drop(wrong, wrong)
            if read:
                self._cache.touch(segment)
            good += read
            if read < length:
                break
        # A short part must not hold all of the room for as long as it is kept.
        return (room[:good] if good > len(room) // 2 else bytes(room[:good])) or None

    def put(self, first: int, run: Buffer) -> None:
        """Keep *run*, whole blocks from the block *first* on (the object's last may be short)."""
        view = memoryview(run)
        for path, place, end, index in self._parts(first, first + -(-len(run) // BLOCK)):
            at = (index - first) * BLOCK
            self._cache.write(path, place, view[at : at + (end - place) * BLOCK])

    def lock_range(self, first: int, last: int) -> contextlib.AbstractContextManager[None]:
        """Have other processes wait that want the blocks [first, last]; wait for those before."""
        return self._cache.lock_range(
            self._key, first, last, lambda: len(self.present(first, last + 1)) > last - first
        )

    def drop(self, first: int, last: int) -> None:
        """Forget the blocks [first, last]."""
        for path, place, end, _ in self._parts(first, last + 1):
            with contextlib.suppress(OSError):
                segment = self._cache.segment(path, create=False)
                if segment is not None:
                    segment.clear(place, end)
