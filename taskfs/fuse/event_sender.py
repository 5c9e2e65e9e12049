"""`EventSender`: has the kernel send inotify events, by calls of a helper process on the mount."""

import errno
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.helper_process import Helper, start_helper
from taskfs.tree.tree_events import TreeEvent

log = logging.getLogger(__name__)

# Seconds that one call of the helper may take; afterwards it is killed, and the event is lost.
CALL_TIMEOUT_S: Final = 10.0
# Seconds without events after that: the mount is dead or overloaded, and helpers must not pile up.
PAUSE_S: Final = 30.0
# Seconds beyond half of the attr timeout until a call that an older name prevented is made again.
# So the second time is after the attr timeout, with a margin for the kernel's rounding.
RETRY_MARGIN_S: Final = 0.2
# Seconds for which an event waits for requests that hold the lock of its directory. They may wait
# for a silent store: slow listings end in less, and without a limit the events would pile up.
QUIET_TIMEOUT_S: Final = 20.0
# The kernel still has the name from before: it asks again after the attr timeout.
_AGAIN: Final = frozenset({errno.EEXIST, errno.EBUSY})
# Errors of a mount that has ended or is about to end.
_GONE: Final = frozenset({errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT})


class _Retry(NamedTuple):
    """After how many seconds an event is sent again, and for how many after its first try."""

    after_s: float
    for_s: float


class _Pending(NamedTuple):
    """An event with the times of its first and its next try."""

    event: TreeEvent
    first_s: float
    next_s: float


class EventSender:
    """Sends events for the mount on *mountpoint* with *device*.

    One thread sends. It waits for the helper with a timeout only, and it is none of those that
    answer requests, so no answer ever waits for an event. An event that must be sent again delays
    no other, except of the same path.
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
        self._when_name_is_cached = _Retry(attr_timeout_s / 2 + RETRY_MARGIN_S, 2 * attr_timeout_s)
        self._when_locked = _Retry(0.0, QUIET_TIMEOUT_S)
        self._pending: list[_Pending] = []
        self._stopped = stopped
        # Read now, because an upgrade may remove the file under a running daemon.
        self._program = Path(__file__).with_name("event_helper.py").read_text(encoding="utf-8")
        self._helper: Helper | None = None
        self._paused_until_s = float("-inf")
        self._is_refusal_logged = False

    def send(self, events: Sequence[TreeEvent]) -> None:
        """Send earlier events that are due again, and then *events* in their order.

        An earlier event that one of *events* undoes is not sent, and neither is that one.
        """
        now_s = time.monotonic()
        pending = [*self._pending]
        earlier = {each.event.path: each for each in pending if each.event.kind.changes_directory}
        for event in events:
            if event.path in earlier and event.undoes(earlier[event.path].event):
                pending.remove(earlier.pop(event.path))
            else:
                pending.append(_Pending(event, now_s, now_s))
        self.clear()
        if now_s < self._paused_until_s:
            if pending:
                log.debug("%d events are not sent: the helper did not answer", len(pending))
            return
        waiting: set[str] = set()
        for event, first_s, next_s in pending:
            if next_s <= now_s and event.path not in waiting:
                retry = self._send(event)
                if retry is None:
                    continue
                if now_s - first_s > retry.for_s:
                    log.debug("%s %s: no event was sent", event.kind.value, event.path)
                    continue
                next_s = now_s + retry.after_s
            waiting.add(event.path)
            self._pending.append(_Pending(event, first_s, next_s))

    def clear(self) -> None:
        """Send no earlier event again."""
        self._pending = []

    def close(self) -> None:
        """End the helper; do not wait for it, because its call may wait for the mount."""
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _send(self, event: TreeEvent) -> _Retry | None:
        """Make the call of one event; return when it must be repeated, None if it need not be."""
        if self._stopped.is_set() or time.monotonic() < self._paused_until_s:
            return None
        if event.kind.changes_directory and not self._operations.is_quiet(event.parent):
            return self._when_locked
        try:
            number = self._call(event)
        except OSError as exc:  # it could not be started, has ended or does not answer
            log.warning("%s %s: no event was sent: %s", event.kind.value, event.path, exc)
            self.close()
            self._paused_until_s = time.monotonic() + PAUSE_S
            return None
        if number in _AGAIN:
            return self._when_name_is_cached
        if number and number not in _GONE and not self._is_refusal_logged:
            self._is_refusal_logged = True
            log.warning("the kernel refuses events here: %s", os.strerror(number))
        return None

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
