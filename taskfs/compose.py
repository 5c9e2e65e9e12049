"""Builds the objects of one mount or command from a `Config`; knows no FUSE."""

import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, NamedTuple

from taskfs.api import TaskClient
from taskfs.archive import Archive, Engine, open_archive
from taskfs.config import Config
from taskfs.diskcache import DiskCache
from taskfs.errors import NotFound
from taskfs.extents import BlockCache
from taskfs.handles import HandleTable
from taskfs.ledger import Ledger, open_ledger
from taskfs.model import Task
from taskfs.offline import FrozenCache, OfflineAPI
from taskfs.opening import Opening, open_client, scope_of
from taskfs.parts import Parts
from taskfs.pools import DaemonPool
from taskfs.readahead import Windows
from taskfs.records import Records
from taskfs.rooms import CheckpointRoom
from taskfs.scope import Asked
from taskfs.shelf import Shelf, Which
from taskfs.stats import Stats
from taskfs.texts import Pins
from taskfs.tree import Tree
from taskfs.views import Views
from taskfs.waiting import Waiter, never

BLOCK_MEMORY: Final = 44 << 20
SPAN_MEMORY: Final = 16 << 20
STORE_THREADS: Final = 8
API_THREADS: Final = 8


class Core(NamedTuple):
    """A tree and what it stands on."""

    tree: Tree
    client: TaskClient | OfflineAPI
    ledger: Ledger | None = None
    pools: tuple[Executor, ...] = ()

    def begin(self, asked: Asked | None = None) -> None:
        """Make the first listing, or await the one that was *asked* for: it tells whether the API
        answers and takes the key.

        Raises:
            AccessDenied, Unavailable, BadAnswer, NotFound: it does not.
        """
        self.tree.parts.records.begin(asked)

    def close(self) -> None:
        """Close the connections, have on disk what is to be kept, and let the threads end: whoever
        waits for an answer is not waited for."""
        self.client.close()
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)
        if self.ledger is not None:
            self.ledger.close()


def open_disk(config: Config) -> DiskCache:
    """Return the cache on disk; offline nothing of it is changed."""
    return (FrozenCache if config.offline else DiskCache)(config.cache_dir, config.cache_size)


def open_offline(config: Config, disk: DiskCache | None = None) -> OfflineAPI:
    """Return what is known of the account's tasks without asking anybody."""
    return OfflineAPI(disk or open_disk(config), config.cache_dir, config.api_url, config.api_key)


def open_engine(
    waiter: Waiter, stats: Stats, disk: DiskCache | None = None, namespace: str = ""
) -> Engine:
    """Return what all archives of one process share; *namespace* is theirs on *disk*."""
    return Engine(
        pool=DaemonPool(STORE_THREADS, "taskfs-store"),
        decoding=DaemonPool(2, "taskfs-decode"),
        waiter=waiter,
        stats=stats,
        blocks=BlockCache(BLOCK_MEMORY),
        spans=BlockCache(SPAN_MEMORY),
        windows=Windows(),
        room=CheckpointRoom(),
        disk=disk,
        namespace=namespace,
    )


def open_task_archive(client: TaskClient, task: Task, which: Which, engine: Engine) -> Archive:
    """Return one of the task's archives, for a command that needs no tree.

    Raises:
        NotFound: there is none (yet).
    """
    path = which.path(task)
    if path is None:
        raise NotFound(f"task {task.id} has no {which.value} archive")
    expected = task.output_files if which is Which.OUTPUT else None
    return open_archive(client.open_object(path, task.region), which.root, engine, expected)


def open_core(
    config: Config,
    *,
    opening: Opening | None = None,
    interrupted: Callable[[], bool] = never,
    mountpoint: str = "",
) -> Core:
    """Return the tree that *config* describes; nothing goes out, but for the *opening*'s client.

    *interrupted* is asked, by the thread that waits, whether its request was given up.
    """
    stats = opening.stats if opening else Stats()
    waiter = Waiter(interrupted)
    disk = None if config.demo else open_disk(config)
    client: TaskClient | OfflineAPI
    ledger: Ledger | None = None
    if config.offline:
        client = open_offline(config, disk)
    else:
        client = opening.client if opening else open_client(config, stats)
        ledger = open_ledger(disk, config.api_url, config.api_key) if disk else None
    engine = open_engine(waiter, stats, disk, config.api_url)
    pool = DaemonPool(API_THREADS, "taskfs-api")
    index_pool = DaemonPool(API_THREADS, "taskfs-index")
    attr_timeout_s = config.attr_timeout_s
    records = Records(
        client,
        pool,
        waiter,
        # The kernel keeps entries for as long again, so ours are that much younger.
        listing_ttl_s=max(0.0, config.dir_cache_time_s - attr_timeout_s),
        status_ttl_s=config.status_cache_time_s,
        scope=scope_of(config),
        ledger=ledger,
    )
    shelf = Shelf(
        client,
        engine,
        index_pool,
        waiter,
        timeout_s=config.timeout_s,
        attr_timeout_s=attr_timeout_s,
    )
    parts = Parts(
        api=client,
        records=records,
        shelf=shelf,
        pins=Pins(attr_timeout_s, config.status_cache_time_s),
        views=Views(records),
        pool=pool,
        waiter=waiter,
        stats=stats,
        handles=HandleTable(),
        read_only=config.read_only,
        offline=config.offline,
        began_ns=time.time_ns(),
        mountpoint=mountpoint,
        demo_environment=_environment(config) if config.demo else None,
    )
    pools = (pool, index_pool, engine.pool, engine.decoding)
    return Core(Tree(parts), client, ledger, pools)


def _environment(config: Config) -> dict[str, str]:
    """Return the variables with which commands talk to the API of *config*.

    The service's own client reads the first two. taskfs reads its own before those.
    """
    url, key = config.api_url, str(config.api_key)
    return {
        "INDUCTIVA_API_URL": url,
        "INDUCTIVA_API_KEY": key,
        "TASKFS_API_URL": url,
        "TASKFS_API_KEY": key,
    }
