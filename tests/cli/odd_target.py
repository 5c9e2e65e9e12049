"""A file system that lacks something, as FAT, eCryptfs and network shares do: a pass-through mount.

usage: odd_target.py SOURCE MOUNTPOINT LACK...

LACK: colons, colons_by_fuse (EPERM, as fusefat), long_names, ascii_only, times or case.

It stays in the foreground until it is unmounted.
"""

import errno
import os
import sys
from typing import Any

from fuse import FUSE, FuseOSError, Operations

MAX_NAME = 143  # eCryptfs


class OddTarget(Operations):  # type: ignore[misc]  # fusepy is untyped
    """A pass-through of SOURCE that refuses the given operations."""

    def __init__(self, source: str, lacks: set[str]) -> None:
        self._source = source
        self._lacks = lacks

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        for name in (path, *(arg for arg in args[:1] if op == "rename")):
            self._check(os.path.basename(name))
        if op == "rename":
            args = (self._find(args[0]),)
        return super().__call__(op, self._find(path), *args)

    def _find(self, path: str) -> str:
        """Return the path in the source; names that differ only in case may be the same."""
        folder, name = os.path.split(self._source + path)
        if "case" in self._lacks and name:
            name = next((n for n in os.listdir(folder) if n.lower() == name.lower()), name)
        return os.path.join(folder, name)

    def _check(self, name: str) -> None:
        raw = name.encode("utf-8", "surrogateescape")
        if "colons" in self._lacks and ":" in name:
            raise FuseOSError(errno.EINVAL)
        if "colons_by_fuse" in self._lacks and ":" in name:
            raise FuseOSError(errno.EPERM)
        if "long_names" in self._lacks and len(raw) > MAX_NAME:
            raise FuseOSError(errno.ENAMETOOLONG)
        if "ascii_only" in self._lacks and not name.isascii():
            raise FuseOSError(errno.EILSEQ)

    def getattr(self, path: str, fh: Any = None) -> dict[str, Any]:
        found = os.lstat(path)
        names = ("st_mode", "st_size", "st_uid", "st_gid", "st_nlink", "st_mtime", "st_atime")
        return {name: getattr(found, name) for name in names}

    def readdir(self, path: str, fh: Any) -> list[str]:
        return [".", "..", *os.listdir(path)]

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags & os.O_ACCMODE)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: Any = None) -> None:
        os.truncate(path, length)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def utimens(self, path: str, times: Any = None) -> None:
        if "times" in self._lacks:
            raise FuseOSError(errno.EPERM)
        os.utime(path, times)


if __name__ == "__main__":
    source, mountpoint, *lacks = sys.argv[1:]
    FUSE(OddTarget(source, set(lacks)), mountpoint, foreground=True, nothreads=True)
