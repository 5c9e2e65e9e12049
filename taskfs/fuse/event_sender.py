"""`EventSender`: has the kernel send inotify events, by calls of a helper process on the mount."""

import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.helper_process import Helper, start_helper
from taskfs.tree.tree_events import TreeEvent

log = logging.getLogger(__name__)

# Seconds that one call of the helper may take; afterwards it is killed, and the event is lost.
CALL_TIMEOUT_S: Final = 10.0
# Seconds without events after that: the mount is dead or overloaded, and helpers must not pile up.
PAUSE_S: Final = 30.0
# Seconds until calls that the kernel's older names prevented are made again, and how often.
RETRY_MARGIN_S: Final = 0.2
MAX_TRIES: Final = 4
# Seconds to wait for requests that hold the lock of a directory.
QUIET_TIMEOUT_S: Final = 5.0
QUIET_POLL_S: Final = 0.05
# The kernel still has the name from before: it asks again after the attr timeout.
_AGAIN: Final = frozenset({errno.EEXIST, errno.EBUSY})
# Errors of a mount that has ended or is about to end.
_GONE: Final = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT})


class EventSender:
    """Sends events for the mount on *mountpoint* with *device*.

    One thread sends. It waits for the helper with a timeout only, and it is none of those that
    answer requests, so no answer ever waits for an event.
    """

    def __init__(
        self,
        operations: EventOperations,
        mountpoint: str,
        device: str,
        attr_timeout_s: float,
        stopped: threading.Event,
    ) -> None:
        self._operations = operations
        self._mountpoint = mountpoint
        self._device = device
        self._attr_timeout_s = attr_timeout_s
        self._stopped = stopped
        # Read now, because an upgrade may remove the file under a running daemon.
        self._program = Path(__file__).with_name("event_helper.py").read_text(encoding="utf-8")
        self._helper: Helper | None = None
        self._paused_until_s = float("-inf")
        self._is_refusal_logged = False

    def send(self, events: Sequence[TreeEvent]) -> None:
        """Send *events* in their order; those that must be repeated come after the others."""
        if time.monotonic() < self._paused_until_s:
            log.debug("%d events are not sent: the helper did not answer", len(events))
            return
        pending = list(events)
        for _ in range(MAX_TRIES):
            pending = [event for event in pending if not self._send(event)]
            if not pending or self._stopped.wait(self._attr_timeout_s / 2 + RETRY_MARGIN_S):
                break
        for event in pending:
            log.debug("%s %s: no event was sent", event.kind.value, event.path)

    def close(self) -> None:
        """End the helper; do not wait for it, because its call may wait for the mount."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _send(self, event: TreeEvent) -> bool:
        """Make the call of one event; return False if it must be repeated."""
        if self._stopped.is_set() or time.monotonic() < self._paused_until_s:
            return True
        if event.kind.changes_directory and not self._await_quiet(event.parent):
            return False
        try:
            number = self._call(event)
        except OSError as exc:  # it could not be started, has ended or does not answer
            log.warning("%s %s: no event was sent: %s", event.kind.value, event.path, exc)
            self.close()
            self._paused_until_s = time.monotonic() + PAUSE_S
            return True
        if number in _AGAIN:
            return False
        if number and number not in _GONE and not self._is_refusal_logged:
            self._is_refusal_logged = True
            log.warning("the kernel refuses events here: %s", os.strerror(number))
        return True

    def _await_quiet(self, directory: str) -> bool:
        deadline_s = time.monotonic() + QUIET_TIMEOUT_S
        while not self._operations.is_quiet(directory):
            if time.monotonic() > deadline_s or self._stopped.wait(QUIET_POLL_S):
                return False
        return True

    def _call(self, event: TreeEvent) -> int:
        """Return the errno of the helper's call; raise OSError if there is no answer."""
        helper = self._helper
        if helper is None:
            helper = self._helper = start_helper(self._program)
            helper.channel.settimeout(CALL_TIMEOUT_S)
        words = (self._device, event.kind.value, self._mountpoint, event.path, event.target)
        with self._operations.announced(event, helper.process.pid):
            helper.channel.send(b"\0".join(map(os.fsencode, words)))
            answer = helper.channel.recv(16)
        if not answer:
            raise OSError(errno.EPIPE, "the helper has ended")
        return int(answer)
