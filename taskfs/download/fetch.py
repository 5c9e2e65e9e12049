"""Fetching files: each appears whole, checked and with its time, or not at all.

Several at a time; nothing is written outside of the target directories, whatever lies in them.
"""

import contextlib
import errno
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Protocol

from taskfs.archive.archive import Archive
from taskfs.archive.index import Member
from taskfs.download.destination import (
    NO_TIMES,
    CannotHold,
    Target,
    file_name,
    lock,
    naming,
    refuse_another_case,
)
from taskfs.errors import CorruptData, Interrupted, Unsupported
from taskfs.model import format_count
from taskfs.support.buffers import Buffer
from taskfs.support.checksum import crc32

CHUNK: Final = 1 << 20
FILES_AT_ONCE: Final = 2  # more only wait for the interpreter: the readers fetch ahead
# These concern one file: the others are fetched all the same.
OF_ONE_FILE: Final = (CorruptData, Unsupported, CannotHold)

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Failure:
    """One file that was not fetched, and why."""

    path: str
    error: Exception


class DownloadItem(Protocol):
    """One file to be fetched."""

    @property
    def path(self) -> Path:
        """Where it will be."""
        ...

    @property
    def size(self) -> int:
        """How many bytes are still to be fetched, as the progress counts them."""
        ...

    def run(self, session: "DownloadRun") -> None:
        """Fetch it; it appears whole, checked and with its time, or not at all."""
        ...


@dataclass(frozen=True, slots=True)
class MemberDownload:
    """One member of an archive, to become a file."""

    archive: Archive
    member: Member
    target: Target
    has_twin: bool = False  # the name of another member differs only in case

    @property
    def path(self) -> Path:
        return self.target.path / self.member.path

    @property
    def size(self) -> int:
        return self.member.size

    def run(self, session: "DownloadRun") -> None:
        parent, _, name = self.member.path.rpartition("/")
        with self.target.folder(parent, create=True) as folder:
            part, fd = session.create_part(folder)
            try:
                with os.fdopen(fd, "wb", buffering=0) as stream:
                    self._fill(stream, session)
                session.finish_part(folder, part, file_name(name), has_twin=self.has_twin)
            except BaseException:
                session.discard_part(folder, part)
                raise

    def _fill(self, stream: FileIO, session: "DownloadRun") -> None:
        try:
            self._copy(stream, session)
        except CorruptData:
            # The archive may be sound and the network not: what was cached of it is dropped now.
            session.count(-stream.tell())
            stream.seek(0)
            stream.truncate()
            self._copy(stream, session)
        session.set_time(stream, self.member.mtime_ns)

    def _copy(self, stream: FileIO, session: "DownloadRun") -> None:
        reader = self.archive.open_member(self.member)
        crc = 0
        try:
            for chunk in chunks(reader.read_at, 0, self.member.size):
                session.write(stream, chunk)
                crc = crc32(chunk, crc)
        finally:
            reader.close()
        if crc != self.member.crc32:
            raise CorruptData("the checksum does not match: the archive is damaged")


@dataclass(frozen=True, slots=True)
class ArchiveDownload:
    """An archive as it is. What an interrupted download has got stays beside, for the next run."""

    archive: Archive
    target: Path
    name: str

    @property
    def path(self) -> Path:
        return self.target / self.name

    @property
    def size(self) -> int:
        try:
            return max(0, self.archive.size - self.part.stat().st_size)
        except OSError:  # no part, or none that can be read
            return self.archive.size

    @property
    def part(self) -> Path:
        """The file that grows; its name tells the version, so that two are never mixed."""
        version = self.archive.version
        digest = zlib.crc32(f"{version.size} {version.etag}".encode())
        return self.target / f".{self.name}.{digest:08x}.part"

    def is_there(self) -> bool:
        """Whether the file is this archive: its size and its last bytes, the directory, say so."""
        start = max(0, self.archive.size - CHUNK)
        try:
            with open(self.path, "rb") as stream:
                if os.fstat(stream.fileno()).st_size != self.archive.size:
                    return False
                stream.seek(start)
                tail = stream.read()
        except FileNotFoundError:
            return False
        return tail == self.archive.read_raw(start, self.archive.size - start)

    def run(self, session: "DownloadRun") -> None:
        self.target.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.part, flags, 0o666), "wb", buffering=0) as stream:
            lock(stream)
            there = min(stream.seek(0, os.SEEK_END), self.archive.size)
            stream.seek(there)
            stream.truncate()
            reader = self.archive.open_raw()
            try:
                for chunk in chunks(reader.read_at, there, self.archive.size):
                    session.write(stream, chunk)
            finally:
                reader.close()
        os.replace(self.part, self.path)
        for other_version in self.target.glob(f".{self.name}.????????.part"):
            other_version.unlink(missing_ok=True)


def chunks(read_at: Callable[[int, int], Buffer], start: int, stop: int) -> Iterator[Buffer]:
    """Yield the bytes [start, stop) in pieces; CorruptData where the source ends before."""
    while start < stop:
        chunk = read_at(start, min(CHUNK, stop - start))
        if not chunk:
            raise CorruptData(
                f"{stop - start} bytes are missing at its end: the archive is damaged"
            )
        yield chunk
        start += len(chunk)


class DownloadRun:
    """One run of downloads: its progress, the files that are not whole yet, and the way to stop it.

    Safe for concurrent use: the lock guards `_parts`, `_stopped` and the calls of the progress.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._parts: set[tuple[int, str]] = set()
        self._stopped = False
        self._numbers = 0
        self.untimed = 0  # files whose times could not be set, and why
        self.untimed_reason = ""

    def write(self, stream: FileIO, chunk: Buffer) -> None:
        """Write all of *chunk*; Interrupted once the session was stopped."""
        if self._stopped:
            raise Interrupted("the download was stopped")
        view = memoryview(chunk)
        try:
            while view:
                view = view[stream.write(view) :]
        except OSError as exc:
            if exc.errno != errno.EFBIG:
                raise
            raise CannotHold("the file system there cannot hold a file of this size") from None
        self.count(len(chunk))

    def set_time(self, stream: FileIO, mtime_ns: int) -> None:
        """Set the file's time; where the file system cannot, the file stays without."""
        try:
            os.utime(stream.fileno(), ns=(mtime_ns, mtime_ns))
        except OSError as exc:
            if exc.errno not in NO_TIMES:
                raise
            with self._lock:
                self.untimed += 1
                self.untimed_reason = exc.strerror or ""

    def count(self, size: int) -> None:
        """Tell the progress that *size* bytes are there."""
        with self._lock:
            self._progress(size)

    def create_part(self, folder: int) -> tuple[str, int]:
        """Return the name and descriptor of a new file in *folder*, which `stop` removes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._lock:
            if self._stopped:
                raise Interrupted("the download was stopped")
            self._numbers += 1
            name = f".taskfs-{os.getpid()}-{self._numbers}-{os.urandom(4).hex()}.part"
            fd = os.open(name, flags, 0o666, dir_fd=folder)
            self._parts.add((folder, name))
        return name, fd

    def finish_part(self, folder: int, part: str, name: bytes, *, has_twin: bool = False) -> None:
        """Give the part, which is whole, its *name*; what had the name before is replaced."""
        with self._lock if has_twin else contextlib.nullcontext():  # twins one after the other
            if has_twin:
                refuse_another_case(folder, name)
            with naming():
                os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        with self._lock:
            self._parts.discard((folder, part))

    def discard_part(self, folder: int, part: str) -> None:
        """Remove the part; *folder* is still open."""
        with self._lock:
            self._parts.discard((folder, part))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part, dir_fd=folder)

    def stop(self) -> None:
        """End the downloads and remove what is not whole, without waiting for the network."""
        with self._lock:
            self._stopped = True
            for folder, name in self._parts:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)


def run(
    fetches: Sequence[DownloadItem],
    progress: Progress = lambda size: None,
    warn: Callable[[str], None] = lambda text: None,
) -> list[Failure]:
    """Fetch all files, several at a time; return those that failed, for others than all's reasons.

    *progress* is called with the number of bytes that were written, from several threads but one
    at a time. The first failure that concerns more than its own file (no answer, no access, the
    disk) ends the run and is raised, as is an interrupt; unfinished files are removed then.
    *warn* is called with what is not as it should be, though all bytes are there.
    """
    session = DownloadRun(progress)
    queue = _Queue(fetches)
    threads = [
        # Daemons: after an interrupt nobody waits for what they still read.
        threading.Thread(
            target=queue.work, args=(session,), name=f"taskfs-download-{n}", daemon=True
        )
        for n in range(min(FILES_AT_ONCE, len(fetches)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        session.stop()
        raise
    if queue.fatal is not None:
        raise queue.fatal
    if session.untimed:
        count = format_count(session.untimed, "file")
        warn(
            f"the time of {count} could not be set ({session.untimed_reason}): "
            "the next download fetches them again"
        )
    return queue.failures


class _Queue:
    """The files that nobody fetches yet, and what went wrong; the lock guards all of it."""

    def __init__(self, fetches: Iterable[DownloadItem]) -> None:
        self._waiting = iter(fetches)
        self._lock = threading.Lock()
        self.failures: list[Failure] = []
        self.fatal: Exception | None = None

    def _next(self) -> DownloadItem | None:
        with self._lock:
            return None if self.fatal else next(self._waiting, None)

    def work(self, session: DownloadRun) -> None:
        """Fetch file after file until there is none, or a failure ends the run."""
        while (fetch := self._next()) is not None:
            try:
                fetch.run(session)
            except OF_ONE_FILE as exc:
                with self._lock:
                    self.failures.append(Failure(str(fetch.path), exc))
            except OSError as exc:  # which often tells no name, or the one of the part
                self._give_up(OSError(exc.errno, exc.strerror, str(fetch.path)), session)
            except Exception as exc:
                self._give_up(exc, session)

    def _give_up(self, error: Exception, session: DownloadRun) -> None:
        with self._lock:
            self.fatal = self.fatal or error
        session.stop()
