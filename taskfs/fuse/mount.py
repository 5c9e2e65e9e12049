"""The composition root of a mount: checks, builds the tree, mounts it, ends it."""

import contextlib
import ctypes
import gc
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taskfs.config import Config, Secret
from taskfs.errors import BadAnswer, MountError, TaskFSError, Unavailable
from taskfs.first_listing import FirstListing
from taskfs.fuse import daemonize as daemon
from taskfs.fuse import mountpoint
from taskfs.fuse.mount_errors import CONTAINER, NEEDS_ALLOW_OTHER, explain
from taskfs.fuse.systemd import READY, STOPPING, ServiceManager
from taskfs.support import logs
from taskfs.support.buffers import trim_pools

if TYPE_CHECKING:
    from taskfs.core import Core
    from taskfs.demo.server import EmbeddedCloud

log = logging.getLogger(__name__)

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
# Requests in flight may end in peace for so long after a signal.
SHUTDOWN_TIMEOUT_S: Final = 2.0
FUSE_CONF: Final = Path("/etc/fuse.conf")
DEVICE: Final = Path("/dev/fuse")
LIBFUSE: Final = "libfuse.so.2"
# mallopt(3)
M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
MALLOC: Final = (
    (M_ARENA_MAX, 2),
    (M_MMAP_THRESHOLD, 512 << 10),
    # What is decoded comes and goes: to fault its pages in each time costs as much as to copy it.
    (M_TRIM_THRESHOLD, 4 << 20),
)
TRIM_S: Final = 10.0
GC_THRESHOLD: Final = 50_000


def mount(config: Config, place: Path, *, foreground: bool) -> None:
    """Mount the tree on *place*; return once it is live, or with *foreground* once it has ended.

    Raises:
        MountError: why it cannot be, in one line that names the fix; then nothing is mounted.
        TaskFSError: the key is rejected or the API not reached.
    """
    place = mountpoint.prepare(place)
    _check_machine(config)
    if foreground:
        manager = ServiceManager()
        with _libfuse_heard(place) as stop_listening:
            if config.log_file:
                logs.log_to_file(config.log_file, config.log_level)
            else:
                logs.log_to_stderr(config.log_level)

            def on_live() -> None:
                stop_listening()
                manager.tell(READY, f"STATUS=Mounted on {place}")

            _serve(config, place, on_live, lambda: manager.tell(STOPPING))
        return

    def work(report: daemon.Report) -> None:
        if config.log_file:
            logs.log_to_file(config.log_file, config.log_level)
        else:
            logs.log_to_default_file(place, config.log_level)
        with _libfuse_heard(place) as stop_listening:

            def on_live() -> None:
                stop_listening()
                report.live()

            _serve(config, place, on_live)

    daemon.start(work)


def _check_machine(config: Config) -> None:
    if not DEVICE.exists():
        raise MountError(f"/dev/fuse is missing: sudo modprobe fuse; {CONTAINER}")
    if (config.allow_other or config.allow_root) and os.getuid() != 0:
        try:
            allowed = re.search(r"(?m)^\s*user_allow_other\b", FUSE_CONF.read_text())
        except OSError:
            allowed = None
        if not allowed:
            raise MountError(NEEDS_ALLOW_OTHER)


@contextlib.contextmanager
def _libfuse_heard(place: Path) -> Iterator[Callable[[], None]]:
    """Collect what libfuse and fusermount print until the function yielded is called.

    A MountError of the block then says what they said. They inherit descriptor 2, as long as the
    mount lives: a file, which keeps no pipe open. Python's own standard error stays what it was.
    """
    kept = os.memfd_create("taskfs-stderr")
    try:
        before = os.dup(2)
    except OSError:  # who started us closed it
        before = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    sys.stderr = open(  # noqa: SIM115  # for the rest of the process
        os.dup(before), "w", buffering=1, errors="backslashreplace", closefd=False
    )
    os.dup2(kept, 2)

    def stop() -> None:
        os.dup2(before, 2)

    try:
        yield stop
    except MountError as exc:
        size = os.fstat(kept).st_size
        said = os.pread(kept, min(size, 4096), max(0, size - 4096)).decode("utf-8", "replace")
        raise MountError(explain(said, str(place)) or str(exc)) from exc
    finally:
        stop()
        os.close(before)
        os.close(kept)


def _serve(
    config: Config,
    place: Path,
    on_live: Callable[[], None],
    on_end: Callable[[], object] = lambda: None,
) -> None:
    """List the tasks, mount, and serve until unmounted."""
    _tune_memory()
    # Before any thread exists: each inherits the mask, so one thread alone gets the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    live, ended = threading.Event(), threading.Event()
    _watch_signals(place, live, ended)
    threading.Thread(
        target=_give_memory_back, args=(ended,), name="taskfs-trim", daemon=True
    ).start()
    cloud = _start_demo() if config.demo else None
    if cloud is not None:
        config = replace(config, api_url=cloud.api_url, api_key=Secret(cloud.api_key))
    opening = None if config.offline else FirstListing(config)
    # The rest is imported while the first listing is on its way.
    _name_libfuse()
    try:
        from taskfs.core import open_core
        from taskfs.fuse.kernel.channel import Channel
        from taskfs.fuse.kernel.protocol import Packer
        from taskfs.fuse.kernel.session import Session, interrupted
        from taskfs.fuse.operations import TaskOperations
    except OSError:  # fusepy loads libfuse when it is imported; its words name no package
        raise MountError(f"libfuse 2 is missing: {mountpoint.FUSE_PACKAGES}") from None
    gc.freeze()
    gc.enable()
    core = open_core(
        config,
        opening=opening,
        interrupted=interrupted,
        mountpoint=str(place),
        push_enabled=True,
    )
    _begin(core, config, opening)

    def on_ready() -> None:
        live.set()
        log.info("mounted on %s", place)
        on_live()

    try:
        channel = Channel(str(place), **_mount_options(config))
        try:
            packer = Packer(config.uid, config.gid, config.umask, config.attr_timeout_s)
            Session(TaskOperations(core.tree), channel, packer, on_ready).serve()
        finally:
            channel.close()
    finally:
        on_end()
        _close(core, cloud)
        ended.set()
    log.info("unmounted from %s", place)
    _leave()


def _begin(core: "Core", config: Config, opening: FirstListing | None) -> None:
    """Await the first listing; where the API is away, say what the cache could show instead."""
    if config.offline:
        core.client.check()
    try:
        core.begin(opening.asked if opening else None)
    except (Unavailable, BadAnswer) as exc:
        count = len(core.finished_tasks.tasks()) if core.finished_tasks is not None else 0
        if not count:
            raise
        raise MountError(
            f"{exc}: check the network and --api-url (`taskfs doctor`), or see the finished tasks "
            f"that are cached ({count}) with --offline"
        ) from exc


def _mount_options(config: Config) -> dict[str, Any]:
    return {
        "fsname": config.fsname,
        "subtype": "taskfs",
        "auto_unmount": True,
        "default_permissions": True,
        "nosuid": True,
        "nodev": True,
        "noexec": config.noexec,
        "ro": config.read_only,
        "allow_other": config.allow_other,
        "allow_root": config.allow_root,
    }


def _name_libfuse() -> None:
    """Tell fusepy what to load, where that is there: by itself it starts ldconfig to find out."""
    if not os.environ.get("FUSE_LIBRARY_PATH"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(LIBFUSE)
            os.environ["FUSE_LIBRARY_PATH"] = LIBFUSE


def _tune_memory() -> None:
    """Have glibc give freed buffers back, and Python look for cycles rarely.

    Many threads and large blocks fragment glibc's arenas. An index is 100,000 objects without a
    cycle, and every request makes a few: looking through all of them again and again costs more
    than answering.
    """
    gc.set_threshold(GC_THRESHOLD, 20, 20)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none, and needs none
        for parameter, value in MALLOC:
            mallopt(parameter, value)


def _give_memory_back(ended: threading.Event) -> None:
    """Give back what is free between the blocks that stay: in weeks of mixed reading it adds up."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while not ended.wait(TRIM_S):
        trim_pools()
        if trim is not None:
            trim(0)


def _start_demo() -> "EmbeddedCloud":
    from taskfs.demo import embedded_cloud

    cloud = embedded_cloud()
    cloud.start()
    return cloud


def _watch_signals(place: Path, live: threading.Event, ended: threading.Event) -> None:
    """Have SIGTERM, SIGINT and SIGHUP unmount, and end the process even if requests hang.

    Before the mount is live there is nothing to unmount, and nobody to wait for.
    """

    def watch() -> None:
        number = signal.sigwait(SIGNALS)
        if not live.is_set():
            _leave(128 + number)
        log.info("signal %s: unmounting %s", signal.Signals(number).name, place)
        try:
            mountpoint.run_fusermount("-u", "-z", place)
        except TaskFSError as exc:
            log.warning("%s", exc)
        ended.wait(SHUTDOWN_TIMEOUT_S)
        _leave()

    threading.Thread(target=watch, name="taskfs-signals", daemon=True).start()


def _close(core: "Core", cloud: "EmbeddedCloud | None") -> None:
    try:
        core.close()
        if cloud is not None:
            cloud.stop()
    except Exception:
        log.exception("closing failed")


def _leave(status: int = 0) -> None:
    """End the process: pools may still wait for answers that nobody wants."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    logging.shutdown()
    os._exit(status)
