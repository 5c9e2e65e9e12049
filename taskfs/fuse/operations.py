"""`TaskOperations`: answers requests by path from the tree, and turns errors into errno.

The tree decides what a task looks like; an engine reads the kernel's requests.
"""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from taskfs.errors import NoAttribute, ReadOnly, TaskFSError
from taskfs.fuse.attributes import AttributePolicy, FileAttributes
from taskfs.support.buffers import Buffer
from taskfs.support.redaction import redact
from taskfs.support.stats import Stats
from taskfs.tree.handles import PushableHandle
from taskfs.tree.lifetime import Lifetime
from taskfs.tree.nodes import AttributedEntries, Attrs, Entry
from taskfs.tree.page_cache import Invalidate, PageCacheMode
from taskfs.tree.tree import Tree

log = logging.getLogger(__name__)

XATTR_PREFIX: Final = "user.taskfs."
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2
WRITING: Final = os.O_WRONLY | os.O_RDWR
# Blocks of 4096 bytes: 4 PiB, more than any account holds, so that no program sees a full disk.
_BLOCKS: Final = 1 << 40


class StatFs(NamedTuple):
    """The figures of statfs(2), in blocks of `unit` bytes. They are constant: the true ones would
    need the network."""

    blocks: int = _BLOCKS
    free: int = _BLOCKS // 2
    files: int = 1 << 32
    free_files: int = 1 << 31
    unit: int = 4096
    name_max: int = 255


class OpenResult(NamedTuple):
    """An open file's number, how the kernel may cache its pages, and the file if an engine may push
    bytes there before they are read."""

    fh: int
    mode: PageCacheMode
    pushable: PushableHandle | None = None


class DirectoryListing(NamedTuple):
    """The entries of a directory.

    The rest is for an engine that sends attributes with a listing: `attributed` yields the entries
    from a position on with those attributes that cost no request, and `lifetime` returns for how
    long the kernel may keep them.
    """

    entries: Sequence[Entry]
    attributed: Callable[[int], Iterator[tuple[Entry, FileAttributes | None]]]
    lifetime: Callable[[], Lifetime]


# Programs cause these errors in normal use, so they are logged at the debug level.
_QUIET: Final = frozenset(
    {errno.ENOENT, NoAttribute.errno, errno.EROFS, errno.EINTR, errno.ENOTDIR}
)


class TaskOperations:
    """The operations on one mounted tree, with the attributes that *policy* adds.

    Safe for concurrent use, as the tree is: it holds no lock and changes nothing of its own.
    *stats* counts the operations.
    """

    def __init__(self, tree: Tree, policy: AttributePolicy, stats: Stats) -> None:
        self._tree = tree
        self._policy = policy
        self._stats = stats

    def __call__(self, op: str, path: str, *args: Any) -> Any:
        """Serve the request *op*, and turn every exception into an OSError with an errno.

        Raises:
            OSError: the request failed; the log has the reason, once.
        """
        self._stats.add("operations")
        is_debugging = log.isEnabledFor(logging.DEBUG)
        began_s = time.monotonic() if is_debugging else 0.0
        try:
            result = getattr(self, op)(path, *args)
            if is_debugging:
                taken_ms = 1000 * (time.monotonic() - began_s)
                log.debug("%s %s: %s in %.1f ms", op, _shown(path), _size(args, result), taken_ms)
            return result
        except TaskFSError as exc:
            is_quiet = exc.is_logged or exc.errno in _QUIET
            level = logging.DEBUG if is_quiet else logging.WARNING
            name = errno.errorcode.get(exc.errno, "?")
            log.log(level, "%s %s: %s: %s", op, _shown(path), name, redact(str(exc)))
            raise OSError(exc.errno, name) from exc
        except Exception as exc:
            log.exception("%s %s: unexpected error", op, _shown(path))
            raise OSError(errno.EIO, "unexpected error") from exc

    def keep_versions(self, invalidate: Invalidate) -> None:
        """Let the kernel keep what belongs to one version of an archive: see `PageCache`."""
        self._tree.context.page_cache.keep_versions(invalidate)

    def on_lookups_in_order(self, call: Callable[[str], bool]) -> None:
        """Have *call* called with the path of a directory whose names are looked up in order.

        It returns whether the next names will be read ahead, and must not wait.
        """
        self._tree.on_lookups_in_order = call

    def is_loaded_directory(self, path: str) -> bool:
        """Whether an archive that is loaded has a directory at *path*; do not wait."""
        return self._tree.is_loaded_directory(path)

    @property
    def changes(self) -> int:
        """A number that grows when a version of an archive is loaded or dropped."""
        return self._tree.context.page_cache.changes

    def getattr(self, path: str) -> FileAttributes:
        return self._policy.apply(self._tree.attrs(path))

    def opendir(self, path: str) -> object:
        """Return what identifies the names at *path*, as `Node.contents` does.

        Raises:
            NotFound: there is nothing at *path*.
        """
        return self._tree.resolve(path).contents()

    def readdir(self, path: str) -> DirectoryListing:
        node = self._tree.resolve(path)
        children = node.children()
        entries = children if isinstance(children, Sequence) else list(children)
        return self._listing(entries, node.lifetime, node.known_attrs)

    def next_entries(self, path: str) -> DirectoryListing:
        """Return the entries in a directory that a program will ask for next: see `Tree`."""
        return self._listing(*self._tree.next_entries(path))

    def _listing(
        self,
        entries: Sequence[Entry],
        lifetime: Callable[[], Lifetime],
        known_attrs: Callable[[str], Attrs | None] = lambda name: None,
    ) -> DirectoryListing:
        def attributed(start: int) -> Iterator[tuple[Entry, FileAttributes | None]]:
            pairs: Iterator[tuple[Entry, Attrs | None]]
            if isinstance(entries, AttributedEntries):
                pairs = entries.attributed(start)
            else:
                listed = map(entries.__getitem__, range(start, len(entries)))
                pairs = ((entry, known_attrs(entry.name)) for entry in listed)
            for entry, attrs in pairs:
                yield entry, None if attrs is None else self._policy.apply(attrs)

        return DirectoryListing(entries, attributed, lifetime)

    def readlink(self, path: str) -> str:
        return self._tree.resolve(path).target()

    def open(self, path: str, flags: int) -> OpenResult:
        handle = self._tree.resolve(path).open(writing=bool(flags & WRITING))
        # The kernel keeps no pages of a file with direct I/O.
        is_kept = handle.mode is not PageCacheMode.DIRECT
        pushable = handle if is_kept and isinstance(handle, PushableHandle) else None
        return OpenResult(self._tree.handles.add(handle), handle.mode, pushable)

    def read(self, path: str, size: int, offset: int, fh: int) -> Buffer:
        return self._tree.handles.get(fh).read_at(offset, size)

    def write(self, path: str, piece: bytes, offset: int, fh: int) -> int:
        return self._tree.handles.get(fh).write(piece)

    def release(self, path: str, fh: int) -> None:
        self._tree.handles.close(fh)

    def refuse(self, path: str, *args: Any) -> None:
        """Refuse to make, move or remove a name."""
        raise ReadOnly(f"nothing is made, moved or removed: {path}")

    # `fallocate` must not fail with ENOSYS: posix_fallocate(3) of glibc would then write a byte,
    # which is a kill.
    create = fallocate = link = mkdir = mknod = rename = rmdir = symlink = unlink = refuse

    def setattr(self, path: str, *args: Any) -> None:
        """Accept a new size, mode, owner or time where the node does, without any effect."""
        self._tree.resolve(path).change()

    chmod = chown = truncate = utimens = setattr

    def statfs(self, path: str) -> StatFs:
        return StatFs()

    def listxattr(self, path: str) -> list[str]:
        return self._tree.resolve(path).xattr_names()

    def getxattr(self, path: str, name: str) -> bytes:
        if not name.startswith(XATTR_PREFIX):
            raise NoAttribute(name)  # the kernel asks for security.* with each write
        return self._tree.resolve(path).xattr(name).encode("utf-8", "surrogateescape")

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._tree.resolve(path).set_xattr(
            name, value, create=bool(flags & XATTR_CREATE), replace=bool(flags & XATTR_REPLACE)
        )

    def removexattr(self, path: str, name: str) -> None:
        self._tree.resolve(path).remove_xattr(name)


def _size(args: Sequence[Any], result: Any) -> str:
    """Return an operation's numeric arguments and the size of its result, for the log."""
    numbers = [str(arg) for arg in args if isinstance(arg, int)]
    if isinstance(result, DirectoryListing):
        outcome = f"{len(result.entries)} names"
    elif isinstance(result, (bytes, bytearray, memoryview)):
        outcome = f"{len(result)} bytes"
    else:
        outcome = "ok"
    return f"({', '.join(numbers)}) {outcome}" if numbers else outcome


def _shown(path: str) -> str:
    return redact((path or "/").encode("utf-8", "backslashreplace").decode())
