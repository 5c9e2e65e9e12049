"""`taskfs mount`."""

import contextlib
import gc
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from taskfs.api_key import Secret
from taskfs.cli.api_session import find_cache_problem
from taskfs.cli.arguments import mountpoint_argument
from taskfs.cli.options import (
    SETTINGS_EPILOG,
    Settings,
    config_options,
    foreground_option,
)
from taskfs.cli.output import print_error, terminal_notifier
from taskfs.config import Config
from taskfs.errors import ConfigError
from taskfs.fuse.mount_table import FSTYPE, mounted_types
from taskfs.fuse.mountpoint import absolute, is_dead


@click.command("mount", epilog=SETTINGS_EPILOG, short_help="Mount your tasks on a directory.")
@mountpoint_argument
@foreground_option
@click.option(
    "--if-needed",
    is_flag=True,
    help="Succeed without doing anything if a working taskfs is mounted on MOUNTPOINT already.  "
    "[default: off]",
)
@config_options("mount")
def command(settings: Settings, mountpoint: Path | None, foreground: bool, if_needed: bool) -> None:
    """Mount your tasks on the empty directory MOUNTPOINT.

    Without MOUNTPOINT, the setting `mountpoint` (TASKFS_MOUNTPOINT) says where. A directory below
    your home is created if it is missing. The command returns once the mount answers. If it fails,
    nothing is mounted or created, standard error says why, and the exit status is 1. The key is
    checked before mounting. If MOUNTPOINT has a taskfs mount whose process died, that is unmounted
    first.
    """
    path = mountpoint or configured_mountpoint(settings)
    if if_needed and mounted_types(absolute(path))[-1:] == [FSTYPE] and not is_dead(path):
        return
    with remove_on_failure(_create_below_home(path)):
        mount_tasks(settings, path, foreground=foreground)
    if not foreground and (notify := terminal_notifier()) is not None:
        notify(
            f"your tasks are mounted on {path}; `taskfs umount {shlex.quote(str(path))}` ends it"
        )


def configured_mountpoint(settings: Settings) -> Path:
    """Return the setting `mountpoint`.

    Raises:
        click.UsageError: it is not set.
    """
    path = settings.load(need_key=False).mountpoint
    if path is None:
        raise click.UsageError("Missing argument 'MOUNTPOINT', and `mountpoint` is not configured")
    return path


def _create_below_home(path: Path) -> list[Path]:
    """Create the directory *path* if it lies below the user's home; return as `create` does."""
    home = Path(os.path.expanduser("~"))
    if home.is_absolute() and home != Path("/") and home in path.parents:
        if mounted_types(absolute(path)):
            return []  # a call on a mount that hangs would hang
        with contextlib.suppress(OSError):
            return create(path)
    return []


def create(path: Path) -> list[Path]:
    """Create *path* and its parents if they are missing; return those created, *path* first."""
    missing = [each for each in (path, *path.parents) if not os.path.lexists(each)]
    with remove_on_failure(missing):
        path.mkdir(parents=True, exist_ok=True)
    return missing


@contextlib.contextmanager
def remove_on_failure(directories: Sequence[Path]) -> Iterator[None]:
    """Remove the empty *directories*, in this order, if the block raises an exception."""
    try:
        yield
    except BaseException:
        for directory in directories:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def mount_tasks(settings: Settings, mountpoint: Path, *, foreground: bool) -> None:
    """Mount on *mountpoint* with *settings*; raise MountError or ConfigError if it fails."""
    config = settings.load()
    if config.demo:
        require_demo()
    elif (
        config.cache_size
        and not config.offline
        and (problem := find_cache_problem(config.cache_dir))
    ):
        print_error(f"nothing is cached on disk: {problem}")
    # The imports below allocate objects that all stay, so to collect among them only takes time.
    gc.disable()
    # `requests` first, because it imports the longest chain of modules. CPython 3.11 and later keep
    # frames in chunks of 16 KiB, and map and unmap one for each call that crosses the end of a
    # chunk. Deeper in the imports, urllib3 would compile its patterns there (docs/performance.md).
    import_module("taskfs.remote.http_session")
    from taskfs.fuse.mount import mount
    from taskfs.fuse.server import unchanged

    mount(
        config,
        mountpoint,
        foreground=foreground,
        on_note=terminal_notifier(),
        adjust=_start_cloud if config.demo else unchanged,
    )


def _start_cloud(config: Config) -> tuple[Config, Callable[[], object]]:
    """Start the embedded cloud; return the configuration that names it, and what stops it."""
    from taskfs.demo.cloud import EmbeddedCloud

    cloud = EmbeddedCloud()
    cloud.start()
    return replace(config, api_url=cloud.api_url, api_key=Secret(cloud.api_key)), cloud.stop


def require_demo() -> None:
    """Raise ConfigError, which says how to install the extra `demo`, if it is missing."""
    if find_spec("aiohttp") is None:
        from taskfs.support.installation import install_hint

        raise ConfigError(f"taskfs demo needs the extra `demo`: {install_hint('demo')}")
