"""`Channel`: the requests and answers of one mount, over the descriptor of /dev/fuse."""

import errno
import os
from collections.abc import Sequence
from typing import Final

from taskfs.support.buffers import Buffer

# Errors of a read without a request: fuse(4). The read is repeated.
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
# The mount has ended: unmounted, or its connection aborted (/sys/fs/fuse/connections/*/abort).
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})


class Channel:
    """One mount's requests and answers, on the open descriptor *device*.

    Safe for concurrent use: the kernel hands each request to one reader, and a message is written
    by one call.
    """

    def __init__(self, device: int) -> None:
        self._device = device

    def receive(self, buffer: bytearray) -> int:
        """Wait for a request, put it into *buffer* and return its length; 0 once the mount is gone.

        Raises:
            OSError: the device cannot be read.
        """
        while True:
            try:
                return os.readv(self._device, [buffer])
            except OSError as exc:
                if exc.errno in _GONE:
                    return 0
                if exc.errno not in _AGAIN:
                    raise

    def send(self, parts: Sequence[Buffer]) -> bool:
        """Write one message; return False if the kernel no longer waits for it.

        Raises:
            OSError: the kernel refuses the message.
        """
        try:
            os.writev(self._device, parts)
        except OSError as exc:
            if exc.errno == errno.ENOENT or exc.errno in _GONE:  # interrupted, or unmounted
                return False
            raise
        return True

    def close(self) -> None:
        """End the mount's connection if it is still there; requests under way fail.

        The descriptor then refers to /dev/null. Its number stays taken, because a thread that still
        answers a request must not write into another file.
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._device, inheritable=False)
        os.close(null)
