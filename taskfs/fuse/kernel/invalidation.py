"""`Invalidator`: has the kernel drop the attributes and listings that it keeps of an archive.

It has a thread of its own, because a message may wait in the kernel for the lock of a directory,
which a request in flight may hold. Names are not dropped for the same reason. They need not be: the
kernel asks for the dropped attributes of a name before it uses them, and gets ENOENT for a name
that is gone; a new name is not known to it. Only the name of a file that is a directory now is
dropped, because it needs another inode.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterable

from taskfs.errors import NotFound
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.node_table import NodeTable
from taskfs.fuse.kernel.protocol import (
    HEADER_OUT,
    INVAL_ENTRY_OUT,
    INVAL_INODE_OUT,
    NOTIFY_INVAL_ENTRY,
    NOTIFY_INVAL_INODE,
)

log = logging.getLogger(__name__)

ATTRIBUTES_ONLY = -1  # the offset of a message that leaves the pages


class Invalidator:
    """Sends the messages of one session, in a thread of its own. Safe for concurrent use.

    Messages that wait are sent together, because finding the nodes takes one pass over all.

    *becomes_directory* returns whether the path of a file is that of a directory now, without a
    request to the network.
    """

    def __init__(
        self, channel: Channel, nodes: NodeTable, becomes_directory: Callable[[str], bool]
    ) -> None:
        self._channel = channel
        self._nodes = nodes
        self._becomes_directory = becomes_directory
        self._work: queue.SimpleQueue[tuple[str, Callable[[], None]]] = queue.SimpleQueue()
        # Started now, because the system may have no thread left when an archive changes.
        threading.Thread(target=self._run, name="taskfs-invalidate", daemon=True).start()

    def invalidate(self, path: str, done: Callable[[], None] = lambda: None) -> None:
        """Have the kernel drop the attributes and listings beneath *path*, then call *done*."""
        self._work.put((path, done))

    def _run(self) -> None:
        while True:
            waiting = [self._work.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    waiting.append(self._work.get(block=False))
            try:
                self._drop(_calls_by_path(waiting))
            except Exception:
                log.exception("the kernel may keep old attributes")

    def _drop(self, done: dict[str, list[Callable[[], None]]]) -> None:
        """Have the kernel drop what it keeps beneath the paths; call what waits for each."""
        found = self._nodes.beneath(list(done))
        # Begin with the archives of few names: the messages of a large one take seconds.
        each = sorted(zip(found, done.items(), strict=True), key=lambda job: len(job[0]))
        for nodeids, (path, calls) in each:
            try:
                self._drop_attributes(nodeids)
                for call in calls:
                    call()
            except Exception:
                log.exception("the kernel may keep old attributes beneath %s", path)
        for nodeids, (path, _) in each:
            try:
                self._drop_names(nodeids)
            except Exception:
                log.exception("the kernel may keep old names beneath %s", path)

    def _drop_attributes(self, nodeids: Iterable[int]) -> None:
        for nodeid in nodeids:
            # The pages of a directory are its names.
            offset = 0 if self._nodes.is_directory(nodeid) else ATTRIBUTES_ONLY
            self._send(NOTIFY_INVAL_INODE, INVAL_INODE_OUT.pack(nodeid, offset, 0))

    def _drop_names(self, nodeids: Iterable[int]) -> None:
        """Drop the names of files that are directories now."""
        for nodeid in nodeids:
            if self._nodes.is_directory(nodeid):
                continue
            with contextlib.suppress(NotFound):  # the kernel has forgotten it meanwhile
                if self._becomes_directory(self._nodes.path(nodeid)):
                    parent, name = self._nodes.name(nodeid)
                    head = INVAL_ENTRY_OUT.pack(parent, len(name), 0)
                    self._send(NOTIFY_INVAL_ENTRY, head + name + b"\0")

    def _send(self, code: int, body: bytes) -> None:
        length = HEADER_OUT.size + len(body)
        self._channel.send((HEADER_OUT.pack(length, code, 0), body))


def _calls_by_path(
    waiting: Iterable[tuple[str, Callable[[], None]]],
) -> dict[str, list[Callable[[], None]]]:
    """Return the calls of each path. Those of a path beneath another one belong to that one,
    because a node is found for one path only."""
    calls: dict[str, list[Callable[[], None]]] = {}
    stripped = ((path.strip("/"), call) for path, call in waiting)
    for path, call in sorted(stripped, key=lambda each: len(each[0])):
        names = path.split("/")
        above = ("/".join(names[:count]) for count in range(1, len(names)))
        calls.setdefault(next((top for top in above if top in calls), path), []).append(call)
    return calls
