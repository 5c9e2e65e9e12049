"""`Channel`: /dev/fuse with a mount behind it, made and taken away by libfuse 2 as fusepy finds it.

libfuse knows how an ordinary user mounts (fusermount and its socket), which is all that is asked of
it: what the kernel then asks for is read here, without its loop and without a
ctypes callback for each request, which cost more than the answers.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Sequence
from typing import Any, Final

import fuse

from taskfs.errors import MountError
from taskfs.support.buffers import Buffer

# What a read of the device gives where there is no request after all: fuse(4).
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
# The mount has ended: unmounted, or its connection aborted (/sys/fs/fuse/connections/*/abort).
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})


class _Arguments(ctypes.Structure):
    """`struct fuse_args` (fuse_opt.h)."""

    _fields_ = (
        ("argc", ctypes.c_int),
        ("argv", ctypes.POINTER(ctypes.c_char_p)),
        ("allocated", ctypes.c_int),
    )


def _load() -> Any:
    library = ctypes.CDLL(fuse._libfuse._name)
    library.fuse_mount.argtypes = (ctypes.c_char_p, ctypes.POINTER(_Arguments))
    library.fuse_mount.restype = ctypes.c_void_p  # struct fuse_chan *
    library.fuse_chan_fd.argtypes = (ctypes.c_void_p,)
    library.fuse_unmount.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
    library.fuse_unmount.restype = None
    return library


class Channel:
    """One mount's requests and answers. Safe for concurrent use but for `close`.

    Raises:
        MountError: libfuse could not mount; it says why on standard error.
    """

    def __init__(self, mountpoint: str, **options: Any) -> None:
        self._library = _load()
        self._mountpoint = os.fsencode(mountpoint)
        joined = ",".join(fuse.FUSE._normalize_fuse_options(**options))
        words = (b"taskfs", b"-o", os.fsencode(joined))
        arguments = _Arguments(len(words), (ctypes.c_char_p * len(words))(*words), 0)
        self._channel = self._library.fuse_mount(self._mountpoint, ctypes.byref(arguments))
        self._library.fuse_opt_free_args(ctypes.byref(arguments))
        if not self._channel:
            raise MountError("libfuse could not mount: see its message, or taskfs doctor")
        self._device = int(self._library.fuse_chan_fd(self._channel))
        os.set_inheritable(self._device, False)

    def receive(self, room: bytearray) -> int:
        """Wait for a request, put it into *room*, return its length; 0 once the mount is gone."""
        while True:
            try:
                return os.readv(self._device, [room])
            except OSError as exc:
                if exc.errno in _GONE:
                    return 0
                if exc.errno not in _AGAIN:
                    raise

    def send(self, parts: Sequence[Buffer]) -> bool:
        """Write one message; return whether the kernel still wanted it."""
        try:
            os.writev(self._device, parts)
        except OSError as exc:
            if exc.errno == errno.ENOENT or exc.errno in _GONE:  # interrupted, or unmounted
                return False
            raise
        return True

    def close(self) -> None:
        """Unmount, if somebody has not yet, and let the device go."""
        channel, self._channel = self._channel, None
        if channel:
            with contextlib.suppress(OSError):
                self._library.fuse_unmount(self._mountpoint, channel)
