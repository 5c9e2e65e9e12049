"""The attributes that a mount adds to those of the tree: owner, umask, links, block size."""

import mmap
import os
import stat
from typing import Final, NamedTuple

from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import Attrs

# Files have one name, and directories do not count their subdirectories: that would cost a listing
# for each stat. Programs such as find(1) do not rely on a directory's count of 1.
LINK_COUNT: Final = 1
# Bytes. st_blksize, the unit in which programs read; the kernel reads whole pages in any case.
BLOCK_SIZE: Final = mmap.PAGESIZE


class FileAttributes(NamedTuple):
    """All attributes that stat(2) shows: `Attrs` of the tree, with those of the mount."""

    mode: int
    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    blocks: int
    nlink: int
    uid: int
    gid: int
    block_size: int
    lifetime: Lifetime = Lifetime.TIMEOUT


class DepartedAttributes(FileAttributes):
    """Attributes of a name that the event helper is about to remove: the kernel must not find the
    inode that it has for this name."""


class AttributePolicy:
    """The attributes that all files of one mount share. Immutable.

    Files belong to *uid* and *gid*, by default those of the process. *umask* clears bits of their
    modes; links keep theirs, because no system checks the mode of a link. *file_mode* and
    *dir_mode* are permission bits in place of the tree's. A private file stays private.
    """

    def __init__(
        self,
        uid: int | None = None,
        gid: int | None = None,
        umask: int = 0,
        *,
        file_mode: int | None = None,
        dir_mode: int | None = None,
    ) -> None:
        uid = os.getuid() if uid is None else uid
        gid = os.getgid() if gid is None else gid
        self._umask = umask
        self._modes = {stat.S_IFREG: file_mode, stat.S_IFDIR: dir_mode}
        self._has_modes = file_mode is not None or dir_mode is not None
        self._shared = LINK_COUNT, uid, gid, BLOCK_SIZE

    def apply(self, attrs: Attrs) -> FileAttributes:
        """Return *attrs* with the mount's attributes."""
        mode = self._override(attrs.mode) if self._has_modes else attrs.mode
        if self._umask and not stat.S_ISLNK(mode):
            mode &= ~self._umask
        _, ino, size, mtime_ns, ctime_ns, blocks, lifetime = attrs
        times = mtime_ns, ctime_ns
        return FileAttributes(mode, ino, size, *times, blocks, *self._shared, lifetime)

    def _override(self, mode: int) -> int:
        """Return *mode* with the permission bits that the mount's options give."""
        kind, bits = stat.S_IFMT(mode), self._modes.get(stat.S_IFMT(mode))
        if bits is None:
            return mode
        is_private = not mode & (stat.S_IRWXG | stat.S_IRWXO)
        return kind | (bits & stat.S_IRWXU if is_private else bits)
