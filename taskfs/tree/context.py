"""`TreeContext`: the objects that the nodes of one mount share."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Final, NamedTuple

from taskfs.model import LIVE_STATUSES, Task, TaskAPI
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tasks.live_tasks import LiveTasks
from taskfs.tasks.task_cache import TaskCache
from taskfs.tree.handle_table import HandleTable
from taskfs.tree.held_texts import HeldTexts
from taskfs.tree.open_live_files import OpenLiveFiles
from taskfs.tree.page_cache import PageCache
from taskfs.tree.view_nodes import Views

LIVE: Final = "live"  # the directory of the files of a running task


class TreeContext(NamedTuple):
    """The objects that the nodes of one mount share, and the options that they need."""

    api: TaskAPI
    task_cache: TaskCache
    archives: ArchiveRegistry
    page_cache: PageCache
    held_texts: HeldTexts
    views: Views
    api_pool: Executor
    waiter: Waiter
    stats: Stats
    handles: HandleTable
    live: LiveTasks | None  # None: `--live off`
    open_live_files: OpenLiveFiles
    read_only: bool
    offline: bool
    began_ns: int  # when the mount began, in ns since the epoch
    mountpoint: str = ""
    engine_name: Callable[[], str] = str  # of the mount engine that serves; empty without a mount
    # The variables with which commands reach the embedded cloud; None for any other API.
    demo_environment: Mapping[str, str] | None = None

    def lists_live(self, task: Task) -> bool:
        """Whether the task's directory lists `live/`."""
        return self.live is not None and task.status in LIVE_STATUSES
