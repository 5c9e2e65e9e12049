"""The directory that a download fills, without ever leaving it."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Final

from taskfs.archive.index import Member
from taskfs.errors import TaskFSError

FAT_STEP_NS: Final = 2 * 10**9
# What file systems answer to a name that they cannot hold: FAT to `:` (EPERM from a FUSE one),
# eCryptfs to 144 bytes, those that take UTF-8 alone to other bytes.
BAD_NAME: Final = (errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ, errno.EPERM)
# flock(2) where the file system, or its server, has no locks.
NO_LOCKS: Final = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
# Times that cannot be set: by the owner alone, by nobody, or not in that range.
NO_TIMES: Final = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class CannotHold(TaskFSError):
    """One file that the target's file system cannot hold; others may be possible."""


@contextlib.contextmanager
def naming() -> Iterator[None]:
    """Within it, a refused name is CannotHold."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in BAD_NAME:
            raise
        raise CannotHold(f"the file system there cannot hold this name ({exc.strerror})") from None


def refuse_another_case(folder: int, name: bytes) -> None:
    """Raise CannotHold if *name* reaches a file whose name differs in case."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return
    if os.fsdecode(name) not in os.listdir(folder):
        raise CannotHold("the file system there takes this name for one that differs in case")


def lock(stream: FileIO) -> None:
    """Lock *stream* against other downloads, where the file system has locks.

    Raises:
        BlockingIOError: another download works on it.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        exc.strerror = "another download is at work on it"
        raise
    except OSError as exc:
        if exc.errno not in NO_LOCKS:
            raise


def file_name(name: str) -> bytes:
    """Return the name of a member as the mount shows it: UTF-8, whatever the locale's encoding."""
    return name.encode("utf-8", "surrogateescape")


class Target:
    """The directory that is filled. Directories beneath it are entered one by one, by descriptor
    and never through a link, so that nothing is written elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exists = False

    @contextlib.contextmanager
    def folder(self, path: str, *, create: bool) -> Iterator[int]:
        """Yield a descriptor of the directory at *path* beneath; made where *create* says so."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        if create and not self._exists:
            self.path.mkdir(parents=True, exist_ok=True)
            self._exists = True
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
            with naming():
                return os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            text = f"in the way of a directory ({os.fsdecode(name)!r} is a link or a file): move it"
            raise FileExistsError(errno.EEXIST, text, str(self.path / path)) from None
        with contextlib.suppress(FileExistsError), naming():  # made by another thread meanwhile
            os.mkdir(name, dir_fd=fd)
        return self._enter(name, fd, flags, path, False)

    def has(self, member: Member, *, has_twin: bool = False) -> bool:
        """Whether the member is there already: a file of its size and time.

        With *has_twin*, the name of another member differs only in case.
        """
        parent, _, name = member.path.rpartition("/")
        try:
            with self.folder(parent, create=False) as folder, naming():
                found = os.stat(file_name(name), dir_fd=folder, follow_symlinks=False)
                if has_twin:
                    refuse_another_case(folder, file_name(name))
        except (FileNotFoundError, FileExistsError, CannotHold):
            return False
        is_file = stat.S_ISREG(found.st_mode) and found.st_size == member.size
        return is_file and _same_time(found.st_mtime_ns, member.mtime_ns)


def _same_time(found_ns: int, wanted_ns: int) -> bool:
    """Whether a file has the time that was set, as far as its file system can keep times."""
    was_rounded = found_ns % 10**9 == 0  # FAT keeps even seconds, others whole ones
    return found_ns == wanted_ns or (was_rounded and abs(found_ns - wanted_ns) < FAT_STEP_NS)
