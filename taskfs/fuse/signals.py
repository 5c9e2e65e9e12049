"""Signals of a mount: SIGTERM, SIGINT and SIGHUP unmount it and end the process."""

import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final, NoReturn

from taskfs.errors import TaskFSError
from taskfs.fuse import mountpoint
from taskfs.fuse.mount_table import mounted_device

log = logging.getLogger(__name__)

SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
# Seconds that requests in flight get to end after a signal, and that the signal waits for a mount
# that is being made. A hung request must not keep a machine from shutting down.
SHUTDOWN_TIMEOUT_S: Final = 2.0


class MountState:
    """The progress of the mount on *mountpoint*, for the thread that unmounts it on a signal.

    `live` is set once requests are answered, `ended` once all is closed. The engine's threads call
    `begin_mount` and `mounted`, and the lock is held between the two. A signal in between waits for
    the lock, because without the device the new mount could not be found.
    """

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = mountpoint
        self.live = threading.Event()
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._is_mounting = False
        self._device = ""

    @property
    def device(self) -> str:
        """The device of the mount, as /proc/self/mountinfo names it; empty before `mounted`."""
        return self._device

    def begin_mount(self) -> None:
        """Note that an engine is about to mount."""
        self._lock.acquire()
        self._is_mounting = True

    def mounted(self) -> None:
        """Note that the mount is in the kernel's table."""
        self._device = mounted_device(self.mountpoint)
        self._stop_mounting()

    def engine_ended(self) -> None:
        """Note that the engine has ended, possibly before it mounted.

        Unmount what an aborted connection leaves in the kernel's table; raise MountError if that
        fails.
        """
        self._stop_mounting()
        device, self._device = self._device, ""
        mountpoint.detach_dead(self.mountpoint, device)

    def _stop_mounting(self) -> None:
        if self._is_mounting:
            self._is_mounting = False
            self._lock.release()

    def detach(self) -> None:
        """Unmount what an engine has mounted; raise MountError if that fails."""
        mountpoint.detach(self.mountpoint, self._device)

    def prevent_mounts(self) -> None:
        """Wait for a mount that is being made, and let none begin after it."""
        self._lock.acquire(timeout=SHUTDOWN_TIMEOUT_S)


def watch_signals(state: MountState) -> None:
    """Block the signals in all threads, and start one that waits for them.

    On a signal it unmounts and ends the process, even if requests hang. Before the mount is live it
    waits for no request.

    Must be called before any other thread exists: threads inherit the mask, so only this one gets
    the signals.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def watch() -> None:
        number = signal.sigwait(SIGNALS)
        was_live = state.live.is_set()
        state.prevent_mounts()
        log.info("signal %s: unmounting %s", signal.Signals(number).name, state.mountpoint)
        try:
            state.detach()
        except TaskFSError as exc:
            log.warning("%s", exc)
        if not was_live:
            end_process(128 + number)
        state.ended.wait(SHUTDOWN_TIMEOUT_S)
        end_process()

    threading.Thread(target=watch, name="taskfs-signals", daemon=True).start()


def end_process(status: int = 0) -> NoReturn:
    """End the process without waiting for threads, which may hang in requests."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    logging.shutdown()
    os._exit(status)
