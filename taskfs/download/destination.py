"""The target directory of a download, and the limits of its file system."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from taskfs.archive.member import Member
from taskfs.errors import TargetRefused

# FAT rounds times to two seconds; no file system in use is coarser.
FAT_STEP_NS: Final = 2 * 10**9
# Errors for a name that the file system cannot store: FAT refuses `:` (with EPERM over FUSE),
# eCryptfs more than 143 bytes, UTF-8-only file systems any other bytes.
BAD_NAME: Final = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EPERM)
# Errors of flock(2) on a file system, or a file server, without locks.
NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# Errors of utime(2): only the owner may set times, no times at all, or a time out of range.
NO_TIMES: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def rename_bad_name() -> Iterator[None]:
    """Turn the error for a name that the file system cannot store into TargetRefused."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in BAD_NAME:
            raise
        text = f"the file system there cannot store this name ({exc.strerror})"
        raise TargetRefused(text) from None


def refuse_another_case(folder: int, name: bytes) -> None:
    """Raise TargetRefused if *name* opens an existing file whose name differs in case."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return
    if os.fsdecode(name) not in os.listdir(folder):
        raise TargetRefused("the file system there has a file whose name differs in case")


def lock(stream: FileIO) -> None:
    """Lock *stream* against other downloads; do nothing if the file system has no locks.

    Raises:
        BlockingIOError: another download holds the lock.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        exc.strerror = "another download of this file is running"
        raise
    except OSError as exc:
        if exc.errno not in NO_LOCKS:
            raise


def file_name(name: str) -> bytes:
    """Return the file name of a member as on the mount: UTF-8, independent of the locale."""
    return name.encode("utf-8", "surrogateescape")


class Destination:
    """The target directory of a download.

    Directories beneath it are entered one by one, by descriptor and without following links, so
    that no file is written outside of it. Safe for concurrent use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_created = False

    @contextlib.contextmanager
    def folder(self, path: str, *, create: bool) -> Iterator[int]:
        """Yield a descriptor of the directory at *path* beneath, created first with *create*."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if create and not self._is_created:
            self.path.mkdir(parents=True, exist_ok=True)
            self._is_created = True
        fd = os.open(self.path, flags)
        try:
            for name in filter(None, file_name(path).split(b"/")):
                inner = self._enter(name, fd, flags, path, create)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _enter(self, name: bytes, fd: int, flags: int, path: str, create: bool) -> int:
        try:
            with rename_bad_name():
                return os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            text = f"a directory is needed, but {os.fsdecode(name)!r} is a link or a file: move it"
            raise FileExistsError(errno.EEXIST, text, str(self.path / path)) from None
        # Another thread may create the directory at the same time.
        with contextlib.suppress(FileExistsError), rename_bad_name():
            os.mkdir(name, dir_fd=fd)
        return self._enter(name, fd, flags, path, False)

    def has(self, member: Member, *, has_case_variant: bool = False) -> bool:
        """Whether the directory holds *member* already: a file of its size and time.

        With *has_case_variant*, the name of another member differs only in case.
        """
        parent, _, name = member.path.rpartition("/")
        try:
            with self.folder(parent, create=False) as folder, rename_bad_name():
                found = os.stat(file_name(name), dir_fd=folder, follow_symlinks=False)
                if has_case_variant:
                    refuse_another_case(folder, file_name(name))
        except (FileNotFoundError, FileExistsError, TargetRefused):
            return False
        is_file = stat.S_ISREG(found.st_mode) and found.st_size == member.size
        return is_file and _is_same_time(found.st_mtime_ns, member.mtime_ns)


def _is_same_time(found_ns: int, expected_ns: int) -> bool:
    """Whether the times are equal, up to the rounding of file systems that store whole seconds."""
    was_rounded = found_ns % 10**9 == 0
    return found_ns == expected_ns or (was_rounded and abs(found_ns - expected_ns) < FAT_STEP_NS)
