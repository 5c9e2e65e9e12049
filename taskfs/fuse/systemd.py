"""Notify systemd of a service's state: sd_notify(3) over a datagram socket."""

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_VARIABLE: Final = "NOTIFY_SOCKET"


class ServiceManager:
    """The service manager that started this process, if it listens for the service's state.

    The variable that names its socket is removed from the environment, because a child of this
    process must not report for it. A notification that cannot be delivered is dropped: the mount
    works without it.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop(_VARIABLE, "")

    def notify(self, *lines: str) -> bool:
        """Send assignments such as `READY=1` in one message; return whether it was delivered."""
        address = self._address
        if address[:1] not in ("/", "@"):
            return False
        if address[0] == "@":  # an abstract socket, unix(7)
            address = "\0" + address[1:]
        with (
            contextlib.suppress(OSError, AttributeError),  # no SOCK_CLOEXEC, and no systemd, on BSD
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.connect(address)
            channel.sendall("\n".join(lines).encode("utf-8", "backslashreplace"))
            return True
        return False
