"""The directory that a download fills, without ever leaving it."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskfs.archive.index import Member

FAT_STEP_NS: Final = 2 * 10**9


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
            for name in filter(None, path.split("/")):
                inner = self._enter(name, fd, flags, path, create)
                os.close(fd)
                fd = inner
            yield fd
        finally:
            os.close(fd)

    def _enter(self, name: str, fd: int, flags: int, path: str, create: bool) -> int:
        try:
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=fd)
        except FileNotFoundError:
            if not create:
                raise
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            text = f"in the way of a directory ({name!r} is a link or a file): move it"
            raise FileExistsError(errno.EEXIST, text, str(self.path / path)) from None
        with contextlib.suppress(FileExistsError):  # made by another thread meanwhile
            os.mkdir(name, dir_fd=fd)
        return self._enter(name, fd, flags, path, False)

    def has(self, member: Member) -> bool:
        """Whether the member is there already: a file of its size and time."""
        parent, _, name = member.path.rpartition("/")
        try:
            with self.folder(parent, create=False) as folder:
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, FileExistsError):
            return False
        is_file = stat.S_ISREG(found.st_mode) and found.st_size == member.size
        return is_file and _same_time(found.st_mtime_ns, member.mtime_ns)


def _same_time(found_ns: int, wanted_ns: int) -> bool:
    """Whether a file has the time that was set, as far as its file system can keep times."""
    was_rounded = found_ns % 10**9 == 0  # FAT keeps even seconds, others whole ones
    return found_ns == wanted_ns or (was_rounded and abs(found_ns - wanted_ns) < FAT_STEP_NS)
