"""The mounted tree: what a task, its archives, the views and `.taskfs/` look like.

It decides what the file system is and knows no FUSE. `Tree.resolve` turns a path into a `Node`;
nothing goes out for a name that cannot exist.
"""

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

from cachetools import TTLCache

from taskfs import __version__
from taskfs.errors import AlreadyTerminated, NotFound, ReadOnly
from taskfs.handles import CommandHandle, Handle, HandleTable, TextHandle
from taskfs.members import FolderNode, MembersNode, RawArchiveNode
from taskfs.metadata import MetadataAttributes
from taskfs.model import TaskAPI
from taskfs.nodes import (
    DIRECTORY_MODE,
    FILE_MODE,
    LINK_MODE,
    Attrs,
    Directory,
    Entry,
    Link,
    Node,
    blocks_of,
    inode,
)
from taskfs.records import Known, Records
from taskfs.shelf import Shelf, Which
from taskfs.stats import Stats
from taskfs.texts import Pins, Text
from taskfs.views import VIEWS, ViewNode, Views
from taskfs.virtual import TEXT_FILES, TaskView, TextFile
from taskfs.waiting import Waiter

_TEXTS: Final = {file.name: file for file in TEXT_FILES}
_FOLDERS: Final = {"outputs": Which.OUTPUT, "inputs": Which.INPUT}
_RAW: Final = {"output.zip": Which.OUTPUT, "input.zip": Which.INPUT}
KILL: Final = "kill"
LATEST: Final = ".latest"
SERVICE: Final = ".taskfs"
MAX_FOLDERS: Final = 256
FOLDER_TTL_S: Final = 1.0  # the kernel keeps a name for as long


@dataclass(frozen=True, slots=True)
class Parts:
    """What the nodes work with."""

    api: TaskAPI
    records: Records
    shelf: Shelf
    pins: Pins
    views: Views
    pool: Executor
    waiter: Waiter
    stats: Stats
    handles: HandleTable
    read_only: bool
    began_ns: int
    mountpoint: str = ""


class Tree:
    """The whole tree. Safe for concurrent use: its parts are, and nodes are never changed."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._root = RootNode(parts)
        self._lock = threading.Lock()  # guards _folders
        # Folders of archives that were walked just now: a walk asks for one name after another.
        self._folders: TTLCache[str, tuple[int, FolderNode]] = TTLCache(MAX_FOLDERS, FOLDER_TTL_S)

    def resolve(self, path: str) -> Node:
        """Return the node at *path*, which starts with a slash.

        Raises:
            NotFound: there is nothing.
            NotADirectory: the path goes on beneath a file.
        """
        parent, _, last = path.rpartition("/")
        epoch = self.parts.shelf.epoch
        with self._lock:
            known = self._folders.get(parent)
        if known is not None and known[0] == epoch:
            return known[1].lookup(last)
        node: Node = self._root
        for name in parent.split("/"):
            if name:
                node = node.lookup(name)
        if isinstance(node, FolderNode):
            with self._lock:
                self._folders[parent] = (epoch, node)
        return node.lookup(last) if last else node

    @property
    def handles(self) -> HandleTable:
        """The open files."""
        return self.parts.handles


class RootNode(Directory):
    """The mountpoint: a directory per task, the views, and `.taskfs/`, which is never listed."""

    def __init__(self, parts: Parts) -> None:
        super().__init__("")
        self._parts = parts

    def attrs(self) -> Attrs:
        newest_ns = self._parts.records.newest_ns() or self._parts.began_ns
        return Attrs(DIRECTORY_MODE, inode(""), mtime_ns=newest_ns, ctime_ns=newest_ns)

    def lookup(self, name: str) -> Node:
        if name.startswith("."):
            if name == SERVICE:
                return ServiceNode(self._parts)
            if name in VIEWS:
                return ViewNode(name, self._parts.views, self._parts.began_ns)
            if name == LATEST:
                return self._latest()
            raise NotFound(f"there is no {name}")
        return TaskNode(name, self._parts, self._parts.records.find(name))

    def _latest(self) -> Link:
        tasks = self._parts.records.listing()
        if not tasks:
            raise NotFound("there are no tasks")
        return Link(LATEST, tasks[0].id, tasks[0].create_ns or 0)

    def children(self) -> Iterable[Entry]:
        tasks = self._parts.records.listing()
        entries = [self.entry(task.id, DIRECTORY_MODE) for task in tasks]
        entries += [self.entry(name, DIRECTORY_MODE) for name in VIEWS]
        if tasks:
            entries.append(self.entry(LATEST, LINK_MODE))
        return entries


class TaskNode(MetadataAttributes, Directory):
    """A task's directory."""

    def __init__(self, task_id: str, parts: Parts, known: Known) -> None:
        Directory.__init__(self, task_id)
        MetadataAttributes.__init__(self, task_id, parts)
        self._parts = parts
        self._known = known

    def attrs(self) -> Attrs:
        task = self._known.task
        return Attrs(
            DIRECTORY_MODE,
            inode(self.path),
            mtime_ns=task.last_change_ns,
            ctime_ns=task.create_ns or task.last_change_ns,
        )

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if (file := _TEXTS.get(name)) is not None:
            return TextNode(path, file, self._known, self._parts)
        if name == KILL:
            return KillNode(path, self._known, self._parts)
        task, shelf = self._known.task, self._parts.shelf
        if (which := _FOLDERS.get(name)) is not None:
            return MembersNode(path, task, which, shelf)
        if (which := _RAW.get(name)) is not None:
            archive = shelf.await_archive(task, which)
            if archive is not None:
                return RawArchiveNode(path, task, which, shelf, archive)
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        files = [self.entry(name, FILE_MODE) for name in (*_TEXTS, KILL)]
        return [*files, *(self.entry(name, DIRECTORY_MODE) for name in _FOLDERS)]


class TextNode(Node):
    """A text file of a task, rendered when it is told or opened."""

    def __init__(self, path: str, file: TextFile, known: Known, parts: Parts) -> None:
        super().__init__(path)
        self._file = file
        self._known = known
        self._parts = parts

    def attrs(self) -> Attrs:
        text = self._parts.pins.tell(self.path, self._render)
        task = self._known.task
        return Attrs(
            FILE_MODE,
            inode(self.path),
            size=len(text.body),
            mtime_ns=text.mtime_ns,
            ctime_ns=text.mtime_ns or task.create_ns or 0,
            blocks=blocks_of(len(text.body)),
        )

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
        return TextHandle(self._parts.pins.serve(self.path, self._render).body)

    def _render(self) -> Text:
        task_id, shelf = self._known.task.id, self._parts.shelf
        records = self._parts.records
        # Asked for again: this node may have been resolved for what a pin answers.
        known = records.record(task_id) if self._file.needs_record else records.find(task_id)
        view = TaskView(known, lambda: shelf.get(known.task, Which.OUTPUT))
        text = Text(
            self._file.render(view).encode("utf-8", "surrogateescape"), self._file.mtime_ns(view)
        )
        if not known.task.is_terminated:
            text.as_of_s = known.as_of_s
        return text


class KillNode(Node):
    """The file that kills: it reads as empty, and the first byte written sends the request."""

    def __init__(self, path: str, known: Known, parts: Parts) -> None:
        super().__init__(path)
        self._known = known
        self._parts = parts

    def attrs(self) -> Attrs:
        created_ns = self._known.task.create_ns or 0
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=created_ns, ctime_ns=created_ns)

    def open(self, *, writing: bool) -> Handle:
        self._check_writable(writing)
        return CommandHandle(self._kill)

    def change(self) -> None:
        self._check_writable(True)

    def _check_writable(self, writing: bool) -> None:
        if writing and self._parts.read_only:
            raise ReadOnly("the mount is read-only")

    def _kill(self) -> None:
        """Send the kill request and return once the API accepted it."""
        parts, task_id = self._parts, self._known.task.id
        task = parts.records.find(task_id).task
        if task.is_terminated:
            raise AlreadyTerminated(f"task {task_id} is {task.status}")
        try:
            parts.records.note_status(parts.waiter.result(parts.pool.submit(self._send)))
        except (AlreadyTerminated, NotFound):
            parts.records.forget()
            raise
        finally:
            parts.pins.release(f"{task_id}/")

    def _send(self) -> Any:
        return self._parts.api.kill_task(self._known.task.id)


class ServiceNode(Directory):
    """`.taskfs/`: what the daemon tells of itself, and how to make it forget."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(SERVICE)
        self._parts = parts

    def attrs(self) -> Attrs:
        began_ns = self._parts.began_ns
        return Attrs(DIRECTORY_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def lookup(self, name: str) -> Node:
        path = self.child_path(name)
        if name == "refresh":
            return RefreshNode(path, self._parts)
        if name in self._texts():
            return ServiceTextNode(path, self._parts, self._texts()[name])
        raise NotFound(f"there is no {path}")

    def children(self) -> Iterable[Entry]:
        return [self.entry(name, FILE_MODE) for name in (*self._texts(), "refresh")]

    def _texts(self) -> dict[str, Callable[[], str]]:
        return {"stats.json": self._stats, "version": lambda: f"{__version__}\n"}

    def _stats(self) -> str:
        parts = self._parts
        told = {
            "version": __version__,
            "pid": os.getpid(),
            "mountpoint": parts.mountpoint,
            "uptime_seconds": (time.time_ns() - parts.began_ns) // 10**9,
            "open_handles": len(parts.handles),
            "memory_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "memory_bytes": _resident_bytes(),
            **parts.stats.snapshot(),
        }
        return json.dumps(told, indent=2) + "\n"


def _resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


class ServiceTextNode(Node):
    """A text about the daemon."""

    def __init__(self, path: str, parts: Parts, render: Callable[[], str]) -> None:
        super().__init__(path)
        self._parts = parts
        self._text = render

    def attrs(self) -> Attrs:
        text = self._parts.pins.tell(self.path, self._render)
        size = len(text.body)
        return Attrs(
            FILE_MODE,
            inode(self.path),
            size=size,
            mtime_ns=text.mtime_ns,
            ctime_ns=text.mtime_ns,
            blocks=blocks_of(size),
        )

    def open(self, *, writing: bool) -> Handle:
        if writing:
            raise ReadOnly(f"{self.path} cannot be written")
        return TextHandle(self._parts.pins.serve(self.path, self._render).body)

    def _render(self) -> Text:
        return Text(self._text().encode(), time.time_ns())


class RefreshNode(Node):
    """The file that makes the mount forget what it keeps of the remote side."""

    def __init__(self, path: str, parts: Parts) -> None:
        super().__init__(path)
        self._parts = parts

    def attrs(self) -> Attrs:
        began_ns = self._parts.began_ns
        return Attrs(FILE_MODE, inode(self.path), mtime_ns=began_ns, ctime_ns=began_ns)

    def open(self, *, writing: bool) -> Handle:
        return CommandHandle(self._forget)

    def change(self) -> None:
        pass

    def _forget(self) -> None:
        self._parts.records.forget()
        self._parts.shelf.forget()
        self._parts.pins.release("")
