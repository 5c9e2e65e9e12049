"""What the nodes of one mount work with."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import NamedTuple

from taskfs.handles import HandleTable
from taskfs.model import TaskAPI
from taskfs.records import Records
from taskfs.shelf import Shelf
from taskfs.stats import Stats
from taskfs.texts import Pins
from taskfs.views import Views
from taskfs.waiting import Waiter


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
    # The variables with which commands reach the embedded cloud; None for any other API.
    demo_environment: Mapping[str, str] | None = None
