"""Serve one mount in this process: list the tasks, build the tree, run an engine, close."""

import gc
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from taskfs import __version__
from taskfs.config import Config
from taskfs.errors import BadResponse, MountError, Unavailable, Unreachable
from taskfs.first_listing import FirstListing
from taskfs.fuse import process_memory
from taskfs.fuse.signals import MountState, end_process, watch_signals
from taskfs.tasks.filter_check import check_filter, statuses_explained

if TYPE_CHECKING:
    from taskfs.core import Core

log = logging.getLogger(__name__)

# Seconds that closing may take once the mount is gone: connections to machines take up to 3 s, and
# `taskfs umount` waits 10 s for the process.
CLOSE_TIMEOUT_S: Final = 5.0
# Seconds without a request after which a live mount imports what it may need later. The imports
# compute, which would delay the program for which it was mounted.
PRELOAD_IDLE_S: Final = 2.0
# After this many such periods with requests in each it imports all the same, because its package
# may be removed (E-20).
PRELOAD_TRIES: Final = 5

# Called in the process that serves the mount, before any request: returns the configuration to use,
# and a function to call at the end.
Adjustment = Callable[[Config], tuple[Config, Callable[[], object]]]


def unchanged(config: Config) -> tuple[Config, Callable[[], object]]:
    """Return *config*, and a function that does nothing: the `Adjustment` of an ordinary mount."""
    return config, lambda: None


def serve(
    config: Config,
    mountpoint: Path,
    *,
    on_live: Callable[[], object],
    on_end: Callable[[], object] = lambda: None,
    adjust: Adjustment = unchanged,
) -> None:
    """Mount the tree that *config* describes on *mountpoint*, and serve it until it is unmounted.

    The process then ends, because threads may still wait for answers of the network. *on_live* is
    called once requests are answered, *on_end* before all is closed. Must be called before any
    other thread exists.

    Raises:
        MountError, TaskFSError: it cannot be mounted; the process continues.
    """
    process_memory.tune()
    state = MountState(mountpoint)
    watch_signals(state)
    threading.Thread(
        target=process_memory.trim_until, args=(state.ended,), name="taskfs-trim", daemon=True
    ).start()
    config, close_adjusted = adjust(config)
    listing = None if config.offline else FirstListing(config)
    # The rest is imported while the first listing is in flight.
    from taskfs.core import open_core
    from taskfs.fuse.attributes import AttributePolicy
    from taskfs.fuse.engine_choice import choose_engines
    from taskfs.fuse.event_operations import EventOperations
    from taskfs.fuse.event_start import OFF, start_events

    gc.freeze()
    gc.enable()  # `cli/mount` disabled it before the imports
    engines = choose_engines(config, mountpoint)
    core = open_core(
        config,
        first=listing,
        interrupted=engines.interrupted,
        mountpoint=str(mountpoint),
        engine_name=engines.name,
        push_enabled=engines.pushes_pages,
    )
    _await_first_listing(core, config, listing)
    policy = AttributePolicy(
        *(config.uid, config.gid, config.umask),
        file_mode=config.file_mode,
        dir_mode=config.dir_mode,
    )

    operations = EventOperations(core.tree, policy, engines.calling_pid)
    events: list[Callable[[], object]] = []

    def note_live() -> None:
        state.live.set()
        if config.events != OFF and not config.offline:
            events.append(
                start_events(
                    core.tree,
                    operations,
                    str(mountpoint),
                    state.device,
                    attr_timeout_s=config.attr_timeout_s,
                    mode=config.events,
                )
            )
        log.info(
            "taskfs %s mounted on %s, pid %d, options: %s",
            __version__,
            mountpoint,
            os.getpid(),
            _changed_options(config),
        )
        on_live()
        threading.Thread(target=load_rest_later, name="taskfs-preload", daemon=True).start()

    def load_rest_later() -> None:
        from taskfs.fuse.preload import load_archives, load_rest

        load_archives()  # most programs look into one: it is imported while they start
        served = 0
        for _ in range(PRELOAD_TRIES):
            if state.ended.wait(PRELOAD_IDLE_S):
                return
            before, served = served, core.tree.context.stats.snapshot().get("operations", 0)
            if served == before:
                break
        load_rest()

    try:
        engines.serve(operations, state, note_live)
    finally:
        on_end()
        _close(*events, core.close, close_adjusted)
        state.ended.set()
    if not state.live.is_set():
        raise MountError(f"{mountpoint} was unmounted before the mount was live")
    log.info("unmounted from %s", mountpoint)
    end_process()


def _await_first_listing(core: "Core", config: Config, listing: FirstListing | None) -> None:
    """Wait for the first listing; if the API fails, add to the error how many tasks are cached.

    Raises:
        TaskFSError: the API does not respond, rejects the key, or knows no task of the filter.
    """
    if config.offline:
        core.client.check()
    try:
        with statuses_explained(config.status):
            pages = core.begin(listing.pending if listing else None)
        if config.project is not None or config.status:
            tasks = [task for page in pages for task in page.tasks]
            if config.offline:
                tasks = list(core.tree.context.task_cache.listing())
            check_filter(core.client, config.project, config.status, tasks)
    except (Unavailable, BadResponse) as exc:
        count = core.tree.context.task_cache.database.count_finished()
        if not count:
            raise
        has_fix = isinstance(exc, Unreachable) or "--api-url" in str(exc)
        fix = "" if has_fix else ": check the network and --api-url (`taskfs doctor`)"
        raise MountError(
            f"{exc}{fix}, or see the finished tasks that are cached ({count}) with --offline"
        ) from exc


def _changed_options(config: Config) -> str:
    """Return the cache directory and the settings that differ from the defaults, for the log.

    The key is never among them: its field has no `repr`.
    """
    plain = Config(cache_dir=config.cache_dir)  # its default would need a home directory
    names = (field.name for field in fields(Config) if field.repr)
    changed = [name for name in names if getattr(config, name) != getattr(plain, name)]
    return ", ".join(f"{name}={getattr(config, name)}" for name in ("cache_dir", *changed))


def _close(*closes: Callable[[], object]) -> None:
    """Call each function, but wait no longer than CLOSE_TIMEOUT_S, because a connection or a
    file may hang. A failure is logged, because the mount has ended already."""

    def close_each() -> None:
        for close in closes:
            try:
                close()
            except Exception:
                log.exception("closing failed")

    closing = threading.Thread(target=close_each, name="taskfs-close", daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)
    if closing.is_alive():
        log.warning("the process ends before all is closed")
