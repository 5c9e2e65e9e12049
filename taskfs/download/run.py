"""`DownloadRun`: the progress and the temporary files of one run of downloads."""

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Protocol

from taskfs.download.destination import NO_TIMES, refuse_another_case, rename_bad_name
from taskfs.errors import Interrupted, TargetRefused
from taskfs.support.buffers import Buffer

# Called with the number of bytes just written, or with a negative number to take some back.
ProgressCallback = Callable[[int], None]


class DownloadItem(Protocol):
    """One file to download."""

    @property
    def directory(self) -> Path:
        """The target directory that the user named."""
        ...

    @property
    def path(self) -> Path:
        """The path of the finished file."""
        ...

    @property
    def remaining_bytes(self) -> int:
        """The bytes still to be written, as the progress counts them."""
        ...

    def download(self, run: "DownloadRun") -> None:
        """Create the file. It appears complete and verified, or not at all."""
        ...


class DownloadRun:
    """The shared state of the downloads that run together.

    Safe for concurrent use: the lock guards the attributes and the calls of the progress. It is
    held across the creation and removal of temporary files, so that `stop` removes all of them, and
    across a renaming where another name differs only in case.
    """

    def __init__(self, progress: ProgressCallback) -> None:
        self._progress = progress
        self._lock = threading.Lock()
        self._temporary_files: set[tuple[int, str]] = set()  # (descriptor of the directory, name)
        self._created = 0
        self._is_stopped = False
        self.files_without_time = 0
        self.time_error = ""  # why the last of them has none

    def stop(self) -> None:
        """Make all downloads end and remove their temporary files, without waiting for them."""
        with self._lock:
            self._is_stopped = True
            for folder, name in self._temporary_files:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=folder)

    def count(self, size: int) -> None:
        """Report *size* bytes to the progress."""
        with self._lock:
            self._progress(size)

    def create_file(
        self, folder: int, name: bytes, fill: Callable[[FileIO], None], *, has_case_variant: bool
    ) -> None:
        """Create or replace the file *name* in *folder* with the content that *fill* writes.

        A temporary file takes the content and is renamed once it is complete. With
        *has_case_variant*, a file whose name differs only in case is not replaced.

        Raises:
            Interrupted: the run was stopped.
            TargetRefused: the file system cannot hold the name.
        """
        temporary, fd = self._create_temporary(folder)
        try:
            with os.fdopen(fd, "wb", buffering=0) as stream:
                fill(stream)
            self._publish(folder, temporary, name, has_case_variant=has_case_variant)
        except BaseException:
            self._discard(folder, temporary)
            raise

    def write(self, stream: FileIO, chunk: Buffer) -> None:
        """Write all of *chunk* and report it to the progress.

        Raises:
            Interrupted: the run was stopped.
            TargetRefused: the file is too large for the file system.
        """
        self._check_running()
        view = memoryview(chunk)
        try:
            while view:
                view = view[stream.write(view) :]
        except OSError as exc:
            if exc.errno != errno.EFBIG:
                raise
            raise TargetRefused("the file system there cannot hold a file of this size") from None
        self.count(len(chunk))

    def set_time(self, stream: FileIO, mtime_ns: int) -> None:
        """Set the file's modification time, or count the file if its file system cannot."""
        try:
            os.utime(stream.fileno(), ns=(mtime_ns, mtime_ns))
        except OSError as exc:
            if exc.errno not in NO_TIMES:
                raise
            with self._lock:
                self.files_without_time += 1
                self.time_error = exc.strerror or ""

    def _check_running(self) -> None:
        if self._is_stopped:
            raise Interrupted("the download was stopped")

    def _create_temporary(self, folder: int) -> tuple[str, int]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._lock:
            self._check_running()
            self._created += 1
            name = f".taskfs-{os.getpid()}-{self._created}-{os.urandom(4).hex()}.part"
            fd = os.open(name, flags, 0o666, dir_fd=folder)
            self._temporary_files.add((folder, name))
        return name, fd

    def _publish(self, folder: int, temporary: str, name: bytes, *, has_case_variant: bool) -> None:
        # Without the lock, two names that differ only in case could both pass the check.
        with self._lock if has_case_variant else contextlib.nullcontext():
            if has_case_variant:
                refuse_another_case(folder, name)
            with rename_bad_name():
                os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        with self._lock:
            self._temporary_files.discard((folder, temporary))

    def _discard(self, folder: int, temporary: str) -> None:
        with self._lock:
            self._temporary_files.discard((folder, temporary))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=folder)
