"""Telling systemd how a service stands: sd_notify(3) over a datagram socket."""

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"
_VARIABLE: Final = "NOTIFY_SOCKET"


class ServiceManager:
    """The service manager that started this process, if one waits to be told of its state.

    The variable that names its socket is taken out of the environment: what we start in turn must
    not speak for us. A message that cannot be delivered is lost: the work goes on all the same.
    """

    def __init__(self) -> None:
        self._address = os.environ.pop(_VARIABLE, "")

    def tell(self, *lines: str) -> bool:
        """Send assignments such as `READY=1` in one message; return whether it was delivered."""
        address = self._address
        if address[:1] not in ("/", "@"):
            return False
        if address[0] == "@":  # an abstract socket, unix(7)
            address = "\0" + address[1:]
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.connect(address)
            channel.sendall("\n".join(lines).encode("utf-8", "backslashreplace"))
            return True
        return False
