"""What the nodes of one mount work with."""

from concurrent.futures import Executor
from typing import NamedTuple

from taskfs.model import TaskAPI
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tasks.task_cache import TaskCache
from taskfs.tree.handles import HandleTable
from taskfs.tree.text_pins import Pins
from taskfs.tree.view_nodes import Views


class TreeContext(NamedTuple):
    """The parts of one mount, and how it was asked to behave."""

    api: TaskAPI
    task_cache: TaskCache
    archives: ArchiveRegistry
    pins: Pins
    views: Views
    pool: Executor
    waiter: Waiter
    stats: Stats
    handles: HandleTable
    read_only: bool
    offline: bool
    began_ns: int
    mountpoint: str = ""
