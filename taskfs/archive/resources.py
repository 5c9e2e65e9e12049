"""`ArchiveResources`: the pools, caches and budgets that all archives of a process share."""

from concurrent.futures import Executor
from typing import NamedTuple

from taskfs.archive.decoder_limits import CheckpointBudget, IdleDecoderCache
from taskfs.archive.long_builds import LongBuilds
from taskfs.cache.disk_cache import DiskCache
from taskfs.cache.memory_cache import ExtentCache
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.support.interruptible_wait import Waiter
from taskfs.support.stats import Stats


class ArchiveResources(NamedTuple):
    """Thread pools, caches and memory bounds that all archives of a process share."""

    pool: Executor  # sends requests to the store
    decoding: Executor  # decodes ahead of readers
    saving: Executor  # saves checkpoints to the disk cache
    waiter: Waiter
    stats: Stats
    blocks: ExtentCache
    spans: ExtentCache
    read_ahead_budget: ReadAheadBudget
    checkpoint_budget: CheckpointBudget
    sequential_files_budget: ReadAheadBudget
    decode_budget: ReadAheadBudget
    idle: IdleDecoderCache
    long_builds: LongBuilds
    max_workers: int = 1  # stretches of one member that are decoded ahead at once
    push_enabled: bool = False  # the session pushes decoded bytes into the page cache
    disk: DiskCache | None = None
    keeps_blocks: bool = True  # blocks and checkpoints go to the disk, not only indexes
    namespace: str = ""  # part of the cache keys on disk; keeps APIs apart

    @property
    def pools(self) -> tuple[Executor, ...]:
        """The thread pools."""
        return self.pool, self.decoding, self.saving

    def close(self) -> None:
        """Let the threads end; requests in flight are not waited for."""
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)
