"""`mount`: check the machine, then serve the tree, in the foreground or as a daemon.

The parts: `mountpoint` prepares the directory, `daemonize` forks, `server` builds the tree and runs
an engine, `signals` ends it all.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from taskfs.config import Config
from taskfs.errors import MountError
from taskfs.fuse import daemonize
from taskfs.fuse.fusermount import FUSE_DEVICE, may_allow_other
from taskfs.fuse.mount_errors import DEVICE_MISSING, NEEDS_ALLOW_OTHER
from taskfs.fuse.mountpoint import prepare
from taskfs.fuse.server import Adjustment, serve, unchanged
from taskfs.fuse.systemd import READY, STOPPING, ServiceManager
from taskfs.remote import wait_notice
from taskfs.support import logs


def mount(
    config: Config,
    mountpoint: Path,
    *,
    foreground: bool,
    on_note: Callable[[str], object] | None = None,
    adjust: Adjustment = unchanged,
) -> None:
    """Mount the tree; return once it is live, or with *foreground* once it has ended.

    *on_note* is called with a text if the API's first response takes long. *adjust* runs in the
    process that serves the mount, before anything is listed: it returns the configuration to use
    and a function to call at the end. The demo starts its embedded cloud there.

    Raises:
        MountError: it cannot be mounted, and nothing is; the text is one line that names the fix.
        TaskFSError: the key is rejected or the API cannot be reached.
    """
    mountpoint = prepare(mountpoint)
    _check_machine(config)
    if foreground:
        _mount_in_foreground(config, mountpoint, on_note, adjust)
        return

    def work(report: daemonize.Report) -> None:
        wait_notice.set_notifier(report.note)
        if config.log_file:
            logs.log_to_file(config.log_file, config.log_level)
        else:
            logs.log_to_default_file(mountpoint, config.log_level)
        serve(config, mountpoint, on_live=report.live, adjust=adjust)

    daemonize.start(work, on_note)


def _mount_in_foreground(
    config: Config, mountpoint: Path, on_note: Callable[[str], object] | None, adjust: Adjustment
) -> None:
    wait_notice.set_notifier(on_note)
    manager = ServiceManager()
    if config.log_file:
        logs.log_to_file(config.log_file, config.log_level)
    else:
        logs.log_to_stderr(config.log_level)
    serve(
        config,
        mountpoint,
        on_live=lambda: manager.notify(READY, f"STATUS=Mounted on {mountpoint}"),
        on_end=lambda: manager.notify(STOPPING),
        adjust=adjust,
    )


def _check_machine(config: Config) -> None:
    """Raise MountError for what would make the mount fail later, before anything is asked for."""
    if sys.platform != "linux":
        return  # macFUSE, FUSE-T and FreeBSD check for themselves
    if not os.path.exists(FUSE_DEVICE):
        raise MountError(DEVICE_MISSING)
    if (config.allow_other or config.allow_root) and not may_allow_other():
        raise MountError(NEEDS_ALLOW_OTHER)
