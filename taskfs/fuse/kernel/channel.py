"""`Channel`: the requests and answers of one mount, over the descriptor of /dev/fuse."""

import errno
import os
import select
import time
from collections.abc import Sequence
from typing import Final

from taskfs.support.buffers import Buffer
from taskfs.support.cores import usable_cores

# Errors of a read without a request: fuse(4). The read is repeated.
_AGAIN: Final = frozenset({errno.EINTR, errno.ENOENT})
# The mount has ended: unmounted, or its connection aborted (/sys/fs/fuse/connections/*/abort).
_GONE: Final = frozenset({errno.ENODEV, errno.ECONNABORTED})
# Seconds for which a reader tries again without a pause before it sleeps. A program that sends one
# request after another sends the next one within this time, and to wake a thread on an idle CPU of
# a virtual machine takes longer than most answers.
SPIN_S: Final = 50e-6
# If no request comes within SPIN_S, readers sleep in this many waits: that one, and at once in the
# next ones.
SLEEPS: Final = 16


class Channel:
    """One mount's requests and answers, on the open descriptor *device*.

    Safe for concurrent use: the kernel hands each request to one reader, and a message is written
    by one call. One thread at a time should call `receive`, because it spins before it sleeps.
    """

    def __init__(self, device: int) -> None:
        self._device = device
        os.set_blocking(device, False)
        self._poll = select.poll()
        self._poll.register(device, select.POLLIN)
        # For how many more requests readers sleep at once; below 0, for all: with one core, the
        # program cannot send a request while this thread looks for it.
        self._sleeps = 0 if usable_cores() > 1 else -1

    def receive(self, buffer: bytearray) -> int:
        """Wait for a request, put it into *buffer* and return its length; 0 once the mount is gone.

        Raises:
            OSError: the device cannot be read.
        """
        sleep_at_s = 0.0
        while True:
            try:
                return os.readv(self._device, [buffer])
            except BlockingIOError:
                if self._sleeps:
                    self._sleeps -= 1
                    self._poll.poll()
                elif not sleep_at_s:
                    sleep_at_s = time.monotonic() + SPIN_S
                elif time.monotonic() > sleep_at_s:
                    self._sleeps = SLEEPS
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
        """End the mount's connection if it is still there; requests in flight fail.

        The descriptor then refers to /dev/null. Its number stays taken, because a thread that still
        answers a request must not write into another file.
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._device, inheritable=False)
        os.close(null)
