"""Builds the objects of one mount or command from a `Config`; independent of FUSE."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

from taskfs.archive.bounds import DECODE_AHEAD_BYTES, SEQUENTIAL_FILES_BYTES, STRETCH
from taskfs.archive.decoder_limits import TOTAL_CHECKPOINTS, CheckpointBudget, IdleDecoderCache
from taskfs.archive.long_builds import LongBuilds
from taskfs.archive.resources import ArchiveResources
from taskfs.cache.disk_cache import FORMAT, DiskCache
from taskfs.cache.frozen_cache import FrozenCache
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.older_formats import start_removal
from taskfs.cache.readahead import TOTAL_WINDOW, ReadAheadBudget
from taskfs.config import Config
from taskfs.errors import NotFound
from taskfs.first_listing import FirstListing, FirstRecords, filter_of, open_client
from taskfs.model import RemoteObject, Task, TaskPage
from taskfs.remote.api_client import TaskClient
from taskfs.remote.machines import Machines
from taskfs.support.cores import usable_cores
from taskfs.support.interruptible_wait import Waiter, never
from taskfs.support.loopback import is_loopback
from taskfs.support.private_memory import SHRINK, PrivateMemory, UnlimitedMemory
from taskfs.support.stats import Stats
from taskfs.support.thread_pool import DaemonPool
from taskfs.tasks.accounts import open_tasks
from taskfs.tasks.archive_kind import ArchiveKind
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tasks.live_tasks import LiveTasks
from taskfs.tasks.member_walk import MemberWalk
from taskfs.tasks.offline import OfflineAPI
from taskfs.tasks.task_cache import TaskCache
from taskfs.tasks.task_database import TaskDatabase
from taskfs.tasks.task_filter import PendingPages
from taskfs.tasks.task_groups import TaskGroups
from taskfs.tasks.task_walk import TaskWalk, Walked
from taskfs.tree.context import TreeContext
from taskfs.tree.handle_table import HandleTable
from taskfs.tree.held_texts import HeldTexts
from taskfs.tree.open_live_files import OpenLiveFiles
from taskfs.tree.page_cache import PageCache
from taskfs.tree.tree import Tree
from taskfs.tree.view_nodes import Views

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive

# The variable that names the TURN server for connections to machines.
TURN_SERVER: Final = "INDUCTIVA_TURN_SERVER_URL"
# The machines of an API on this machine, such as the demo's, need no server: this one refuses.
NO_TURN_SERVER: Final = "127.0.0.1:9"
# Bytes of fetched blocks and of decoded spans in memory, for all archives together. The blocks are
# those of all windows of read-ahead, and some that were read. The spans have more where several
# workers decode: see `open_resources`.
BLOCK_MEMORY: Final = 32 << 20
SPAN_MEMORY: Final = 16 << 20
# Bytes of private memory of a mount above which these caches, the checkpoints and the read-ahead
# shrink, down to a quarter. Large listings, archives and responses take more for a moment: up to
# 160 MB in all.
PRIVATE_MEMORY: Final = 128 << 20
# Threads that fetch ranges of archives, send requests to the API, and open archives.
STORE_THREADS: Final = 8
API_THREADS: Final = 8
INDEX_THREADS: Final = 8
# Threads that decode ahead of readers, one for each core, but at least two: one may wait for the
# store.
MIN_DECODE_THREADS: Final = 2
MAX_DECODE_THREADS: Final = 8
# The most stretches of one member that are decoded at the same time. Each takes `STRETCH` bytes of
# memory.
MAX_WORKERS: Final = 4


class Core(NamedTuple):
    """A tree, with the resources to close after use."""

    tree: Tree
    client: TaskClient | OfflineAPI
    pools: tuple[Executor, ...] = ()
    machines: Machines | None = None
    walk: TaskWalk | None = None

    def begin(self, pending: PendingPages | None = None) -> list[TaskPage]:
        """Load and return the first page of each listing, or wait for the *pending* ones.

        Raises:
            AccessDenied, Unavailable, BadResponse, NotFound: the API does not respond, or refuses.
        """
        return self.tree.context.task_cache.load_first_page(pending)

    def expect_tasks(self, ids: Sequence[str]) -> None:
        """Have the archives of *ids*, which a command reads next, requested together."""
        if self.walk is not None:
            self.walk.note_view(ids)

    def close(self) -> None:
        """Close the connections and the database, and let the threads end.

        Requests in flight are not waited for.
        """
        if self.machines is not None:
            self.machines.close()  # which notifies them
        self.client.close()
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self.tree.context.task_cache.close()


def open_disk(config: Config) -> DiskCache:
    """Return the disk cache, which is read-only if *config* is offline.

    Otherwise what older formats left is removed in the background.
    """
    if config.offline:
        return FrozenCache(config.cache_dir, config.cache_size)
    start_removal(config.cache_dir, FORMAT)
    return DiskCache(config.cache_dir, config.cache_size)


def open_offline(config: Config, database: TaskDatabase | None = None) -> OfflineAPI:
    """Return the API of offline mode, which knows the cached finished tasks."""
    return OfflineAPI(database or open_tasks(config), config.cache_dir, config.api_url)


def open_machines(client: TaskClient | OfflineAPI, config: Config) -> Machines:
    """Return the machines of running tasks; this sends no request."""
    is_local = is_loopback(urlsplit(config.api_url).hostname or "")
    return Machines(
        client.signal if isinstance(client, TaskClient) else None,
        idle_time_s=config.live_idle_time_s,
        connect_timeout_s=config.timeout_s,
        turn_server=None if TURN_SERVER in os.environ or not is_local else NO_TURN_SERVER,
    )


def open_resources(
    waiter: Waiter,
    stats: Stats,
    disk: DiskCache | None = None,
    namespace: str = "",
    *,
    push_enabled: bool = False,
    is_mount: bool = False,
    keeps_blocks: bool = True,
) -> ArchiveResources:
    """Return the resources that all archives of one process share.

    Args:
        waiter: waits for requests on behalf of readers.
        stats: the counters.
        disk: the disk cache, None for memory only.
        namespace: separates the archives of different APIs on *disk*.
        push_enabled: the FUSE session pushes decoded bytes into the kernel's page cache.
        is_mount: the kernel's requests keep one core busy.
        keeps_blocks: *disk* keeps blocks and checkpoints, not only indexes.
    """
    cores = usable_cores()
    workers = max(1, min(cores - is_mount, MAX_WORKERS))
    threads = min(max(cores, MIN_DECODE_THREADS), MAX_DECODE_THREADS)
    stretches = (workers + 1) * STRETCH if workers > 1 else 0  # decoded ahead at once, in bytes
    span_memory = max(SPAN_MEMORY, stretches + STRETCH)
    memory = PrivateMemory(PRIVATE_MEMORY) if is_mount else UnlimitedMemory()
    return ArchiveResources(
        pool=DaemonPool(STORE_THREADS, "taskfs-store"),
        decoding=DaemonPool(threads, "taskfs-decode"),
        saving=DaemonPool(1, "taskfs-checkpoints"),
        waiter=waiter,
        stats=stats,
        blocks=ExtentCache(BLOCK_MEMORY, BLOCK_MEMORY // SHRINK, memory),
        spans=ExtentCache(span_memory, span_memory // SHRINK, memory),
        read_ahead_budget=ReadAheadBudget(TOTAL_WINDOW, memory),
        sequential_files_budget=ReadAheadBudget(SEQUENTIAL_FILES_BYTES, memory),
        checkpoint_budget=CheckpointBudget(TOTAL_CHECKPOINTS, memory),
        decode_budget=ReadAheadBudget(max(DECODE_AHEAD_BYTES, stretches), memory),
        idle=IdleDecoderCache(),
        long_builds=LongBuilds(),
        max_workers=workers,
        push_enabled=push_enabled,
        disk=disk,
        keeps_blocks=keeps_blocks,
        namespace=namespace,
    )


def open_archive_of(
    client: TaskClient | OfflineAPI,
    task: Task,
    kind: ArchiveKind,
    resources: ArchiveResources,
    remote: RemoteObject | None = None,
    *,
    keep_index: bool = False,
) -> "Archive":
    """Return one of the task's archives, for a command without a tree; *remote* is the object, if
    the caller has opened it.

    With *keep_index*, the index on disk is used, which may be that of an older version.

    Raises:
        NotFound: the task has no such archive, at least not yet.
    """
    from taskfs.archive.open_archive import open_archive

    path = kind.path(task)
    if path is None:
        raise NotFound(f"task {task.id} has no {kind.value} archive")
    remote = remote or client.open_object(path, task.region)
    identity = kind.identity(task) if keep_index else None
    members = kind.expected_members(task)
    return open_archive(remote, kind.root, resources, members, name=path, identity=identity)


def open_core(
    config: Config,
    *,
    first: FirstListing | FirstRecords | None = None,
    interrupted: Callable[[], bool] = never,
    mountpoint: str = "",
    engine_name: Callable[[], str] = str,
    push_enabled: bool = False,
) -> Core:
    """Return the core that *config* describes; this sends no request.

    Args:
        config: the configuration.
        first: requests in flight, whose client and counters are used.
        interrupted: returns whether the kernel interrupted the request of the calling thread.
        mountpoint: the path of the mount, for the text files.
        engine_name: returns the name of the engine that serves the mount.
        push_enabled: the FUSE session pushes decoded bytes into the kernel's page cache.
    """
    stats = first.stats if first else Stats()
    waiter = Waiter(interrupted)
    disk = None if config.demo else open_disk(config)
    client: TaskClient | OfflineAPI
    database = open_tasks(config)
    if config.offline:
        client = open_offline(config, database)
    else:
        client = first.client if first else open_client(config, stats)
    resources = open_resources(
        waiter, stats, disk, config.api_url, push_enabled=push_enabled, is_mount=bool(mountpoint)
    )
    pool = DaemonPool(API_THREADS, "taskfs-api")
    index_pool = DaemonPool(INDEX_THREADS, "taskfs-index")
    attr_timeout_s = config.attr_timeout_s
    task_cache = TaskCache(
        client,
        pool,
        waiter,
        # The kernel keeps entries for another attr_timeout_s, so they expire earlier here.
        listing_ttl_s=max(0.0, config.dir_cache_time_s - attr_timeout_s),
        status_ttl_s=config.status_cache_time_s,
        task_filter=filter_of(config),
        timeout_s=config.timeout_s,
        database=database,
        offline=config.offline,
    )
    machines = open_machines(client, config)
    live = None
    if config.live:
        timeout_s = config.timeout_s
        live = LiveTasks(machines, task_cache, timeout_s=timeout_s, interrupted=interrupted)
    page_cache = PageCache(attr_timeout_s)
    archives = ArchiveRegistry(
        client,
        resources,
        index_pool,
        waiter,
        page_cache,
        timeout_s=config.timeout_s,
        attr_timeout_s=attr_timeout_s,
    )
    groups = TaskGroups(task_cache)
    walk = None
    if not config.offline:
        budget = resources.sequential_files_budget
        walk = _follow_walks(task_cache, groups, archives, budget, pool)
    context = TreeContext(
        api=client,
        task_cache=task_cache,
        archives=archives,
        page_cache=page_cache,
        held_texts=HeldTexts(attr_timeout_s, config.status_cache_time_s),
        views=Views(groups),
        api_pool=pool,
        waiter=waiter,
        stats=stats,
        handles=HandleTable(),
        live=live,
        open_live_files=OpenLiveFiles(),
        read_only=config.read_only,
        offline=config.offline,
        began_ns=time.time_ns(),
        mountpoint=mountpoint,
        engine_name=engine_name,
        demo_environment=_environment(config) if config.demo else None,
    )
    pools = (pool, index_pool, *resources.pools)
    return Core(Tree(context), client, pools, machines, walk)


def _follow_walks(
    task_cache: TaskCache,
    groups: TaskGroups,
    archives: ArchiveRegistry,
    budget: ReadAheadBudget,
    pool: Executor,
) -> TaskWalk:
    """Prefetch archives and members of the tasks that the returned walk will reach next."""

    def prefetch(ids: Sequence[str], walked: Walked) -> None:
        if walked.path:
            members.prefetch(ids, walked)
            return
        cached = [task_cache.get_cached(task_id) for task_id in ids]
        archives.prefetch([each.task for each in cached if each is not None], walked.kind)

    def start(ids: Sequence[str], walked: Walked) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the mount is ending
            pool.submit(prefetch, ids, walked)

    walk = TaskWalk(task_cache.known_ids, start)
    members = MemberWalk(walk, archives, budget)
    archives.on_use = walk.note
    archives.on_read = members.note
    groups.on_list = walk.note_view
    return walk


def _environment(config: Config) -> dict[str, str]:
    """Return the environment variables that make commands use the API of *config*.

    The service's own client reads the first two; taskfs gives precedence to its own.
    """
    url, key = config.api_url, str(config.api_key)
    return {
        "INDUCTIVA_API_URL": url,
        "INDUCTIVA_API_KEY": key,
        "TASKFS_API_URL": url,
        "TASKFS_API_KEY": key,
    }
