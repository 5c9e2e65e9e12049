"""`taskfs demo`."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

import click

from taskfs.cli.api_session import configure_logging
from taskfs.cli.arguments import mountpoint_argument
from taskfs.cli.mount import create, mount_tasks, remove_on_failure, require_demo
from taskfs.cli.options import (
    SETTINGS_EPILOG,
    Settings,
    config_options,
    foreground_option,
)
from taskfs.errors import ConfigError, MountError
from taskfs.fuse.mountpoint import is_dead
from taskfs.support.parsing import parse_path

DEFAULT_MOUNTPOINT: Final = "~/taskfs-demo"


@click.command("demo", epilog=SETTINGS_EPILOG, short_help="Mount or serve the embedded cloud.")
@mountpoint_argument
@click.option(
    "--serve",
    is_flag=True,
    help="Only serve the API, until interrupted. The first two lines of the output set the "
    "variables of a shell: export INDUCTIVA_API_URL=... and export INDUCTIVA_API_KEY=...  "
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
    help="Mount nothing: print the variables with which the other commands use the demo that "
    'is mounted on MOUNTPOINT. In bash and zsh: eval "$(taskfs demo --env MOUNTPOINT)"; in fish: '
    "taskfs demo --env MOUNTPOINT | source.  [default: off]",
)
@foreground_option
@config_options("demo")
def command(
    settings: Settings,
    mountpoint: Path | None,
    serve: bool,
    port: int,
    as_environment: bool,
    foreground: bool,
) -> None:
    """Mount the embedded cloud: about ten tasks that run, end and fail, without an account.

    MOUNTPOINT is created if it is missing; the default is ~/taskfs-demo. `taskfs umount MOUNTPOINT`
    also ends the cloud. To try `taskfs list`, `watch`, `kill`, `download` and the others on it,
    paste the line that --env describes into a shell.
    """
    if as_environment and (serve or port or foreground):
        raise click.UsageError("--env mounts and serves nothing: leave out the other options")
    if serve and mountpoint:
        raise click.UsageError("--serve mounts nothing: leave out MOUNTPOINT")
    if port and not serve:
        raise click.UsageError("--port needs --serve")
    if serve:
        return _serve(settings, port)
    path = mountpoint or parse_path(DEFAULT_MOUNTPOINT)
    if as_environment:
        from taskfs.cli.demo_environment import export_lines

        return click.echo("\n".join(export_lines(path)))
    # The mount repairs a mountpoint whose process died.
    created = [] if is_dead(path) else _create_directory(path)
    settings.flags["demo"] = True
    with remove_on_failure(created):
        mount_tasks(settings, path, foreground=foreground)
    if not foreground:
        from taskfs.cli.demo_environment import instructions

        click.echo(instructions(path))


def _create_directory(path: Path) -> list[Path]:
    """Create *path* if it is missing; return as `create` does. The mount checks what exists."""
    try:
        return create(path)
    except (FileExistsError, NotADirectoryError):
        raise MountError(f"{path} is not a directory: choose another") from None
    except OSError as exc:
        raise MountError(f"{path} cannot be made ({exc.strerror}): choose another") from exc


def _serve(settings: Settings, port: int) -> None:
    """Serve the embedded cloud until SIGINT or SIGTERM, both of which end it with status 0."""
    configure_logging(settings.load(need_key=False))
    require_demo()
    from taskfs.demo.cloud import EmbeddedCloud

    cloud = EmbeddedCloud(api_port=port)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        cloud.start()
    except OSError as exc:
        reason = os.strerror(exc.errno or 0)  # asyncio's text names the port as well
        raise ConfigError(
            f"port {port} of 127.0.0.1 cannot be used ({reason}): choose another --port"
        ) from None
    try:
        click.echo(f"export INDUCTIVA_API_URL={cloud.api_url}")
        click.echo(f"export INDUCTIVA_API_KEY={cloud.api_key}")
        sys.stdout.flush()
        ended.wait()
    finally:
        cloud.stop()
