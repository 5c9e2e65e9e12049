"""The errors of taskfs, one type for each kind of failure; each type knows its errno.

Every error that leaves the core is one of these. Foreign exceptions are converted where they enter,
because a `requests` error is an `OSError` without an errno, which the kernel cannot be sent.
Signals that never leave their module, such as `retry.Transient`, are defined there.
"""

import errno
import sys
from typing import ClassVar


class TaskFSError(Exception):
    """A failure of taskfs; the kernel is sent `errno`.

    `is_logged` is set once the log has the cause, so that it is logged once.
    """

    errno: ClassVar[int] = errno.EIO
    is_logged = False


# --- The task API, the store and the network between.


class NotFound(TaskFSError):
    """The API or the store reports that there is no such task or object."""

    errno = errno.ENOENT


class AccessDenied(TaskFSError):
    """The key is missing, wrong or lacks the permission."""

    errno = errno.EACCES


class ProxyRefused(AccessDenied):
    """A proxy refuses the request; the text names the fix."""


class Unavailable(TaskFSError):
    """There is no usable response in time, after retries."""

    errno = errno.ETIMEDOUT


class Closed(Unavailable, RuntimeError):
    """The file system is being closed. It is a RuntimeError too, because executors raise that."""


class Unreachable(Unavailable):
    """No response is possible, so the request is not repeated; the text names the fix."""


class NotCached(Unavailable):
    """The data is not cached, and offline mode sends no request for it."""


class ArchiveLate(Unavailable):
    """The task succeeded, but its archive did not appear in time."""


class BadResponse(TaskFSError):
    """A response, or the answer of a machine, violates the protocol; or a server error persists."""

    errno = errno.EIO


class AlreadyTerminated(TaskFSError):
    """The task has ended, so it cannot be killed; the errno is that of kill(2)."""

    errno = errno.ESRCH


class StaleObject(TaskFSError):
    """The remote object was replaced since it was opened."""

    errno = errno.ESTALE


# --- Archives.


class CorruptData(TaskFSError):
    """A checksum or a size does not match, or the archive is damaged."""

    errno = errno.EIO


class CacheChanged(CorruptData):
    """A file of the disk cache was damaged while in use; its content must be fetched again."""


class Unsupported(TaskFSError):
    """The archive or the store uses a feature that taskfs does not support."""

    errno = errno.EOPNOTSUPP


class UnsupportedStore(Unsupported):
    """The store's response cannot be used: it says nothing of the archive."""


# --- Calls on the tree.


class NotADirectory(TaskFSError):
    """The path continues below a file."""

    errno = errno.ENOTDIR


class IsADirectory(TaskFSError):
    """The path names a directory, and the call needs a file."""

    errno = errno.EISDIR


class BadHandle(TaskFSError):
    """The file handle is not open, or not open for this operation."""

    errno = errno.EBADF


class TooLarge(TaskFSError):
    """A part of a running task's file that its machine cannot send."""

    errno = errno.EFBIG


class ReadOnly(TaskFSError):
    """The tree does not accept this change."""

    errno = errno.EROFS


class NoAttribute(TaskFSError):
    """There is no such extended attribute."""

    # macOS and FreeBSD call it ENOATTR, which Python does not name.
    errno = {"darwin": 93, "freebsd": 87}.get(sys.platform.rstrip("0123456789"), errno.ENODATA)


class AttributeExists(TaskFSError):
    """The extended attribute exists, and setxattr(2) has the flag XATTR_CREATE."""

    errno = errno.EEXIST


class InvalidValue(TaskFSError):
    """The API cannot store this value."""

    errno = errno.EINVAL


class Interrupted(TaskFSError):
    """A signal interrupted the waiting caller."""

    errno = errno.EINTR


# --- Commands.


class ConfigError(TaskFSError):
    """A setting cannot be used; the text names the setting and the fix."""

    errno = errno.EINVAL


class MountError(TaskFSError):
    """The file system cannot be mounted or unmounted; the text names the fix."""

    errno = errno.EIO


class ProtocolRefused(MountError):
    """The kernel speaks a version of the FUSE protocol that the engine does not."""


class NoSpace(TaskFSError):
    """The disk lacks the space for a download."""

    errno = errno.ENOSPC


class TargetRefused(TaskFSError):
    """The target's file system cannot hold this file; other files may be possible."""


class WaitTimeout(TaskFSError):
    """The time limit of `taskfs wait` has passed."""

    errno = errno.ETIMEDOUT
