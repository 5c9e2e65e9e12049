"""Start a helper: a small program in a process of its own that makes calls on a mount.

It is another process because a daemon that waits for its own mount cannot be killed: its descriptor
of /dev/fuse stays open while it waits, so the kernel does not end the wait.
"""

import contextlib
import socket
import subprocess
import sys
import threading
from typing import NamedTuple


class Helper(NamedTuple):
    """A running helper and the socket of its messages, which is its standard input."""

    process: "subprocess.Popen[bytes]"
    channel: socket.socket

    def end(self) -> None:
        """End the helper; do not wait for it, because its call may wait for the mount."""
        self.channel.close()
        self.process.kill()
        # Where the system has no thread left, the start of the next process waits for this one.
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self.process.wait, name="taskfs-reap", daemon=True).start()


def start_helper(program: str) -> Helper:
    """Start *program*, the text of a Python program that imports nothing of taskfs.

    Raises:
        OSError: it could not be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return Helper(process, ours)
