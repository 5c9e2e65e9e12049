"""Start the thread that sends inotify events.

A watch on the mount needs a lookup. So the modules that see watches and send events are imported
after the first request, because the imports would delay the start of a mount.
"""

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from taskfs.fuse.event_operations import EventOperations
from taskfs.fuse.mount_table import mount_id
from taskfs.tree.tree import Tree

if TYPE_CHECKING:
    from taskfs.fuse.events import EventThread

# Values of the setting `events`.
ON: Final = "on"
OFF: Final = "off"
# Seconds beyond the attr timeout for which the kernel may still have the names of a lookup.
SCAN_MARGIN_S: Final = 0.2
# Seconds from the first request to the imports, which would delay the program that sent it.
IMPORT_DELAY_S: Final = 1.0


def start_events(
    tree: Tree,
    operations: EventOperations,
    mountpoint: str,
    device: str,
    *,
    attr_timeout_s: float,
    mode: str,
) -> Callable[[], None]:
    """Start to send events for the mount on *mountpoint*, and return the function that ends it.

    Other systems than Linux have no inotify: nothing is started there.
    """
    if sys.platform != "linux":
        return lambda: None
    stopped = threading.Event()
    sees_watches = mode != ON

    def run() -> None:
        if sees_watches:
            operations.requested.wait()
            stopped.wait(IMPORT_DELAY_S)
        if not stopped.is_set():
            make_thread().run()

    def make_thread() -> "EventThread":
        from taskfs.fuse.event_sender import EventSender
        from taskfs.fuse.events import EventThread
        from taskfs.fuse.watchers import WatchScanner

        return EventThread(
            tree,
            operations,
            WatchScanner(device, lambda: mount_id(mountpoint)),
            EventSender(operations, mountpoint, device, attr_timeout_s, stopped),
            stopped,
            settle_s=attr_timeout_s + SCAN_MARGIN_S,
            sees_watches=sees_watches,
        )

    def stop() -> None:
        stopped.set()
        operations.requested.set()

    threading.Thread(target=run, name="taskfs-events", daemon=True).start()
    return stop
