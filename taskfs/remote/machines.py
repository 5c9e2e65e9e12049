"""`Machines`: the machines of running tasks; the code of the data channel loads with the first."""

import threading
from typing import TYPE_CHECKING

from taskfs.errors import NotCached

if TYPE_CHECKING:
    from taskfs.remote.live_channel import LiveChannels
    from taskfs.remote.live_messages import LiveMachine
    from taskfs.remote.live_signalling import SignallingAPI


class Machines:
    """The machines of one account's tasks. Safe for concurrent use: the lock guards the creation.

    *signalling* sends requests to the task API; without it, as offline, no machine can be asked.
    *turn_server* replaces the server that the environment names.
    """

    def __init__(
        self,
        signalling: "SignallingAPI | None",
        *,
        idle_time_s: float,
        connect_timeout_s: float,
        turn_server: str | None = None,
    ) -> None:
        self._signalling = signalling
        self._idle_time_s = idle_time_s
        self._connect_timeout_s = connect_timeout_s
        self._turn_server = turn_server
        self._lock = threading.Lock()
        self._channels: LiveChannels | None = None

    def __call__(self, task_id: str) -> "LiveMachine":
        """Return the machine of a task; this sends no request.

        Raises:
            NotCached: offline.
        """
        if self._signalling is None:
            raise NotCached(f"the machine of task {task_id}: --offline sends no requests")
        with self._lock:
            if self._channels is None:
                from taskfs.remote.live_channel import LiveChannels

                self._channels = LiveChannels(
                    self._signalling,
                    idle_time_s=self._idle_time_s,
                    connect_timeout_s=self._connect_timeout_s,
                    turn_server=self._turn_server,
                )
            return self._channels.machine(task_id)

    @property
    def open_connections(self) -> int:
        """The number of connections that are open or being opened."""
        channels = self._channels
        return 0 if channels is None else channels.open_connections

    def close(self) -> None:
        """Close the connections; each connected machine is notified."""
        channels = self._channels
        if channels is not None:
            channels.close()
