"""What the nodes of one mount work with."""

from concurrent.futures import Executor
from typing import NamedTuple

from taskfs.tree.handles import HandleTable
from taskfs.model import TaskAPI
from taskfs.tasks.task_cache import Records
from taskfs.tasks.archives import Shelf
from taskfs.support.stats import Stats
from taskfs.tree.text_pins import Pins
from taskfs.tree.view_nodes import Views
from taskfs.support.interruptible_wait import Waiter


class Parts(NamedTuple):
    """The parts of one mount, and how it was asked to behave."""

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
    offline: bool
    began_ns: int
    mountpoint: str = ""
