"""`taskfs mount`, `taskfs umount` and `taskfs demo`."""

import gc
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import click

from taskfs.cli import completers as candidates
from taskfs.cli.console import cache_problem, complain, configure_logging, notice_function
from taskfs.cli.options import EPILOG, Settings, config_options, reads
from taskfs.errors import ConfigError, MountError
from taskfs.fuse.mountpoint import is_dead
from taskfs.fuse.mountpoint import umount as unmount
from taskfs.options import parse_path

DEMO_MOUNTPOINT = "~/taskfs-demo"

_foreground = click.option(
    "-f",
    "--foreground",
    is_flag=True,
    help="Stay in the foreground, and unmount when interrupted.  [default: off]",
)


@click.command(epilog=EPILOG, short_help="Mount your tasks on a directory.")
@click.argument("mountpoint", callback=reads(parse_path), shell_complete=candidates.directories)
@_foreground
@config_options("mount")
def mount(settings: Settings, mountpoint: Path, foreground: bool) -> None:
    """Mount your tasks on the empty directory MOUNTPOINT.

    Returns once the mount is live, or says on standard error why it cannot be: then nothing is
    mounted and the exit status is 1. The key is checked before mounting. A mount of taskfs on
    MOUNTPOINT whose process died is repaired first.
    """
    mount_tasks(settings, mountpoint, foreground=foreground)


@click.command(short_help="Unmount, and wait for the end of the process.")
@click.argument("mountpoint", callback=reads(parse_path), shell_complete=candidates.mounts)
@click.option(
    "-l",
    "--lazy",
    is_flag=True,
    help="Detach a mount that is in use; open files work until they are closed.  [default: off]",
)
def umount(mountpoint: Path, lazy: bool) -> None:
    """Unmount MOUNTPOINT, and wait until its process has ended."""
    unmount(mountpoint, lazy=lazy)


@click.command(short_help="Mount or serve the embedded cloud.")
@click.argument(
    "mountpoint",
    callback=reads(parse_path),
    required=False,
    shell_complete=candidates.directories,
)
@click.option(
    "--serve",
    is_flag=True,
    help="Only serve the API, until interrupted. The first two lines of the output are what a "
    "shell needs to reach it: export INDUCTIVA_API_URL=... and export INDUCTIVA_API_KEY=...  "
    "[default: off]",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    metavar="PORT",
    help="With --serve: the port of the API on this machine.  [default: any that is free]",
)
@click.option(
    "--env",
    "as_environment",
    is_flag=True,
    help="Mount nothing: print the variables with which the other commands talk to the demo that "
    'is mounted on MOUNTPOINT. In bash and zsh: eval "$(taskfs demo --env MOUNTPOINT)"; in fish: '
    "taskfs demo --env MOUNTPOINT | source.  [default: off]",
)
@_foreground
@config_options("demo")
def demo(
    settings: Settings,
    mountpoint: Path | None,
    serve: bool,
    port: int,
    as_environment: bool,
    foreground: bool,
) -> None:
    """Mount the embedded cloud: about ten living tasks, without an account or a network.

    MOUNTPOINT is created where it is missing; without one it is ~/taskfs-demo. `taskfs umount
    MOUNTPOINT` ends the cloud as well. To try `taskfs list`, `watch`, `kill`, `download` and the
    others on it, paste the line that --env describes into a shell.
    """
    if as_environment and (serve or port or foreground):
        raise click.UsageError("--env mounts and serves nothing: leave out the other options")
    if serve and mountpoint:
        raise click.UsageError("--serve mounts nothing: leave out MOUNTPOINT")
    if port and not serve:
        raise click.UsageError("--port needs --serve")
    if serve:
        return _serve(settings, port)
    place = mountpoint or parse_path(DEMO_MOUNTPOINT)
    if as_environment:
        from taskfs.cli.demo_environment import exports

        return click.echo("\n".join(exports(place)))
    if not is_dead(place):  # what a killed daemon left there is repaired by the mount
        _make(place)
    settings.flags["demo"] = True
    mount_tasks(settings, place, foreground=foreground)
    if not foreground:
        from taskfs.cli.demo_environment import instructions

        click.echo(instructions(place))


def _make(place: Path) -> None:
    """Make the directory *place* where it is missing; the mount says what is wrong with others."""
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise MountError(f"{place} is not a directory: choose another") from None
    except OSError as exc:
        raise MountError(f"{place} cannot be made ({exc.strerror}): choose another") from exc


def mount_tasks(settings: Settings, mountpoint: Path, *, foreground: bool) -> None:
    """Mount what *settings* say on *mountpoint*; MountError or ConfigError say why not."""
    config = settings.load()
    if config.demo:
        _require_demo()
    elif config.cache_size and not config.offline and (why := cache_problem(config.cache_dir)):
        complain(f"nothing is cached on disk: {why}")
    gc.disable()  # until all is imported: it stays, and to look for cycles in it takes a twentieth
    from taskfs.fuse.mount import mount as mount_tree

    mount_tree(config, mountpoint, foreground=foreground, on_note=notice_function())


def _serve(settings: Settings, port: int) -> None:
    """Serve the embedded cloud until SIGINT or SIGTERM, either of which is the normal end."""
    configure_logging(settings.load(need_key=False))
    _require_demo()
    from taskfs.demo.cloud import EmbeddedCloud

    cloud = EmbeddedCloud(api_port=port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    cloud.start()  # an OSError where the port is taken
    try:
        click.echo(f"export INDUCTIVA_API_URL={cloud.api_url}")
        click.echo(f"export INDUCTIVA_API_KEY={cloud.api_key}")
        sys.stdout.flush()
        ended.wait()
    finally:
        cloud.stop()


def _require_demo() -> None:
    """Raise the error that says how to install the web framework, unless it is there."""
    if find_spec("aiohttp") is None:
        from taskfs.support.installation import extra_fix

        raise ConfigError(f"taskfs demo needs the extra `demo`: {extra_fix('demo')}")
