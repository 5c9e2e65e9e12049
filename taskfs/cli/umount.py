"""`taskfs umount`."""

from pathlib import Path

import click

from taskfs.cli import completers
from taskfs.cli.mount import configured_mountpoint
from taskfs.cli.options import Settings, parsed_by
from taskfs.fuse.mountpoint import umount
from taskfs.support.parsing import parse_path


@click.command("umount", short_help="Unmount, and wait for the end of the process.")
@click.argument(
    "mountpoint",
    required=False,
    callback=parsed_by(parse_path),
    shell_complete=completers.complete_mounts,
)
@click.option(
    "-l",
    "--lazy",
    is_flag=True,
    help="Detach a mount that is in use; open files work until they are closed.  [default: off]",
)
def command(mountpoint: Path | None, lazy: bool) -> None:
    """Unmount MOUNTPOINT, and wait until its process has ended.

    Without MOUNTPOINT, the setting `mountpoint` (TASKFS_MOUNTPOINT) says what.
    """
    umount(mountpoint or configured_mountpoint(Settings()), lazy=lazy)
