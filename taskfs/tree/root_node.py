"""`RootNode`: the mountpoint, with the tasks, the views, `.taskfs/` and `tasks.csv`."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from taskfs.errors import NotFound
from taskfs.model import Task
from taskfs.tasks.task_table import FIELDS, to_csv
from taskfs.tree.context import TreeContext
from taskfs.tree.control_nodes import CONTROL_DIR, ControlNode
from taskfs.tree.date_view import BY_DATE, DateNames, DateViewNode
from taskfs.tree.held_texts import Text
from taskfs.tree.nodes import DIRECTORY_MODE, LINK_MODE, Attrs, Directory, Entry, Link, Node, inode
from taskfs.tree.task_entries import KnownAttrs, TaskEntries
from taskfs.tree.task_node import TaskNode, task_attrs
from taskfs.tree.text_node import TextNode
from taskfs.tree.view_nodes import VIEWS, ViewNode

LATEST: Final = ".latest"
TASKS_FILE: Final = "tasks.csv"  # found by name, and not listed among the tasks


class RootNode(Directory):
    """The mountpoint: a directory for each task, the views, `.taskfs/` and `tasks.csv`.

    The last two are not listed.
    """

    def __init__(self, context: TreeContext) -> None:
        super().__init__("")
        self._context = context
        self._date_names = DateNames(context.task_cache)
        self._known_attrs = KnownAttrs(self._finished_attrs)

    def attrs(self) -> Attrs:
        newest_ns = self._newest_ns() or self._context.began_ns
        return Attrs(DIRECTORY_MODE, inode(""), mtime_ns=newest_ns, ctime_ns=newest_ns)

    def _newest_ns(self) -> int:
        task_cache = self._context.task_cache
        return task_cache.database.newest_ns(task_cache.selection)

    def lookup(self, name: str) -> Node:
        if name.startswith("."):
            if name == CONTROL_DIR:
                return ControlNode(self._context)
            if name in VIEWS:
                return ViewNode(name, self._context.views, self._context.began_ns)
            if name == BY_DATE:
                return DateViewNode(self._date_names, self._context.began_ns)
            if name == LATEST:
                return self._latest()
            raise NotFound(f"there is no {name}")
        if name == TASKS_FILE:
            return TextNode(name, self._context.held_texts, self._render_tasks)
        return TaskNode(name, self._context, self._context.task_cache.get(name))

    def _render_tasks(self) -> Text:
        now_ns = time.time_ns()
        newest_ns = 0

        def dated(tasks: Iterable[Task]) -> Iterator[Task]:
            nonlocal newest_ns
            for task in tasks:
                changed_ns = task.last_change_ns if task.is_terminated else now_ns
                newest_ns = max(newest_ns, changed_ns)
                yield task

        body = to_csv(dated(self._context.task_cache.listing()), tuple(FIELDS), now_ns)
        return Text(body, newest_ns or self._context.began_ns)

    def _latest(self) -> Link:
        ids = self._context.task_cache.ids()
        if not ids:
            raise NotFound("there are no tasks")
        return Link(LATEST, ids[0], self._newest_ns())

    def known_attrs(self, name: str) -> Attrs | None:
        return self._known_attrs.get(name)

    def _finished_attrs(self, ids: Sequence[str]) -> Mapping[str, Attrs]:
        times = self._context.task_cache.database.finished_times(ids)
        return {task_id: task_attrs(task_id, *times[task_id]) for task_id in times}

    def children(self) -> Iterable[Entry]:
        ids = self._context.task_cache.ids()
        others = [self.entry(name, DIRECTORY_MODE) for name in (*VIEWS, BY_DATE)]
        if ids:
            others.append(self.entry(LATEST, LINK_MODE))
        return self._known_attrs.begin(TaskEntries(ids, self._entries, others))

    def _entries(self, ids: Sequence[str]) -> list[Entry]:
        return [self.entry(task_id, DIRECTORY_MODE) for task_id in ids]
