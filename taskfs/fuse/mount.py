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
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from taskfs import __version__
from taskfs.api_key import Secret
from taskfs.config import Config
from taskfs.errors import BadAnswer, MountError, TaskFSError, Unavailable, Unreachable
from taskfs.first_listing import FirstListing
from taskfs.fuse import daemonize as daemon
from taskfs.fuse import mountpoint
from taskfs.fuse import process_memory as memory
from taskfs.fuse.mount_errors import CONTAINER, NEEDS_ALLOW_OTHER, explain
from taskfs.fuse.systemd import READY, STOPPING, ServiceManager
from taskfs.support import logs, wait_notice
from taskfs.support.fallback import note_refusal
from taskfs.tasks.filter_check import check_filter, statuses_explained

if TYPE_CHECKING:
    from taskfs.core import Core
    from taskfs.demo.cloud import EmbeddedCloud

log = logging.getLogger(__name__)

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
# Requests in flight may end in peace for so long after a signal.
SHUTDOWN_TIMEOUT_S: Final = 2.0
FUSE_CONF: Final = Path("/etc/fuse.conf")
DEVICE: Final = Path("/dev/fuse")
LIBFUSE: Final = "libfuse.so.2"


def mount(
    config: Config,
    place: Path,
    *,
    foreground: bool,
    on_note: Callable[[str], object] | None = None,
) -> None:
    """Mount the tree on *place*; return once it is live, or with *foreground* once it has ended.

    *on_note* is called with a text if the first answer of the API takes long.

    Raises:
        MountError: why it cannot be, in one line that names the fix; then nothing is mounted.
        TaskFSError: the key is rejected or the API not reached.
    """
    place = mountpoint.prepare(place)
    _check_machine(config)
    if foreground:
        wait_notice.tell_with(on_note)
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
        wait_notice.tell_with(report.note)
        if config.log_file:
            logs.log_to_file(config.log_file, config.log_level)
        else:
            logs.log_to_default_file(place, config.log_level)
        with _libfuse_heard(place) as stop_listening:

            def on_live() -> None:
                stop_listening()
                report.live()

            _serve(config, place, on_live)

    daemon.start(work, on_note)


def _check_machine(config: Config) -> None:
    if not DEVICE.exists():
        raise MountError(f"/dev/fuse is missing: sudo modprobe fuse; {CONTAINER}")
    if (config.allow_other or config.allow_root) and os.getuid() != 0:
        try:
            allowed = re.search(
                r"(?m)^\s*user_allow_other\b", FUSE_CONF.read_text(errors="replace")
            )
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
    kept = _unnamed_file("taskfs-stderr")
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
        last = os.pread(kept, min(size, 4096), max(0, size - 4096)) if size else b""
        said = last.decode("utf-8", "replace")
        raise MountError(explain(said, str(place)) or str(exc)) from exc
    finally:
        stop()
        os.close(before)
        os.close(kept)


def _unnamed_file(name: str) -> int:
    """Return the descriptor of a new empty file that no other process finds.

    Where none can be made it is /dev/null, which keeps nothing.
    """
    try:
        return os.memfd_create(name)
    except (OSError, AttributeError) as exc:
        note_refusal("memfd_create", exc)
    import tempfile  # it costs a start some milliseconds

    try:
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
    except OSError as exc:
        note_refusal("a temporary file", exc)
        return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


def _serve(
    config: Config,
    place: Path,
    on_live: Callable[[], None],
    on_end: Callable[[], object] = lambda: None,
) -> None:
    """List the tasks, mount, and serve until unmounted."""
    memory.tune()
    # Before any thread exists: each inherits the mask, so one thread alone gets the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    state = _State(place)
    live, ended = state.live, state.ended
    _watch_signals(state)
    threading.Thread(
        target=memory.give_back, args=(ended,), name="taskfs-trim", daemon=True
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
        from taskfs.fuse.preload import load_rest
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
        log.info(
            "taskfs %s mounted on %s, pid %d, options: %s",
            *(__version__, place, os.getpid(), _changed_options(config)),
        )
        on_live()
        threading.Thread(target=load_rest, name="taskfs-preload", daemon=True).start()

    try:
        with state.mounting:
            channel = Channel(str(place), **_mount_options(config))
            state.device = mountpoint.mounted_device(place)
        try:
            packer = Packer(config.uid, config.gid, config.umask, config.attr_timeout_s)
            Session(TaskOperations(core.tree), channel, packer, on_ready).serve()
        finally:
            channel.close()
            # libfuse takes an aborted connection for an unmounted one.
            mountpoint.detach(place, state.device)
    finally:
        on_end()
        _close(core, cloud)
        ended.set()
    if not live.is_set():
        raise MountError(f"{place} was unmounted before the mount was live")
    log.info("unmounted from %s", place)
    _leave()


def _begin(core: "Core", config: Config, opening: FirstListing | None) -> None:
    """Await the first listing; where the API is away, say what the cache could show instead."""
    if config.offline:
        core.client.check()
    try:
        with statuses_explained(config.status):
            core.begin(opening.asked if opening else None)
        if config.project is not None or config.status:
            tasks = core.tree.context.task_cache.listing()
            check_filter(core.client, config.project, config.status, tasks)
    except (Unavailable, BadAnswer) as exc:
        count = len(core.finished_tasks.tasks()) if core.finished_tasks is not None else 0
        if not count:
            raise
        has_fix = isinstance(exc, Unreachable) or "--api-url" in str(exc)
        fix = "" if has_fix else ": check the network and --api-url (`taskfs doctor`)"
        raise MountError(
            f"{exc}{fix}, or see the finished tasks that are cached ({count}) with --offline"
        ) from exc


def _mount_options(config: Config) -> dict[str, Any]:
    return {
        "fsname": config.fsname,
        "subtype": "taskfs",
        "default_permissions": True,
        "nosuid": True,
        "nodev": True,
        "noexec": config.noexec,
        "ro": config.read_only,
        "allow_other": config.allow_other,
        "allow_root": config.allow_root,
    }


def _changed_options(config: Config) -> str:
    """Return the cache and the settings other than the defaults, for the log; never the key."""
    plain = Config(cache_dir=config.cache_dir)  # without a home it has no default
    names = (field.name for field in fields(Config) if field.repr)
    changed = [name for name in names if getattr(config, name) != getattr(plain, name)]
    return ", ".join(f"{name}={getattr(config, name)}" for name in ("cache_dir", *changed))


def _name_libfuse() -> None:
    """Tell fusepy what to load, where that is there: by itself it starts ldconfig to find out."""
    if not os.environ.get("FUSE_LIBRARY_PATH"):
        with contextlib.suppress(OSError):
            ctypes.CDLL(LIBFUSE)
            os.environ["FUSE_LIBRARY_PATH"] = LIBFUSE


def _start_demo() -> "EmbeddedCloud":
    from taskfs.demo.cloud import EmbeddedCloud

    cloud = EmbeddedCloud()
    cloud.start()
    return cloud


class _State:
    """How far the mount on *place* has come.

    The lock `mounting` is held while the kernel is asked to mount; `device` is the mount's number
    from then on.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.live = threading.Event()
        self.ended = threading.Event()
        self.mounting = threading.Lock()
        self.device = ""


def _watch_signals(state: _State) -> None:
    """Have SIGTERM, SIGINT and SIGHUP unmount, and end the process even if requests hang.

    Before the mount is live no request is waited for.
    """

    def watch() -> None:
        number = signal.sigwait(SIGNALS)
        was_live = state.live.is_set()
        # A mount that is made just now must not stay behind; afterwards none is made any more.
        state.mounting.acquire(timeout=SHUTDOWN_TIMEOUT_S)
        log.info("signal %s: unmounting %s", signal.Signals(number).name, state.place)
        try:
            mountpoint.detach(state.place, state.device)
        except TaskFSError as exc:
            log.warning("%s", exc)
        if not was_live:
            _leave(128 + number)
        state.ended.wait(SHUTDOWN_TIMEOUT_S)
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
