"""`taskfs install-helper`: the link with which mount(8) finds the program."""

import os
import shlex
import stat
import sys
from pathlib import Path
from typing import Final

import click

from taskfs.cli import mount_helper
from taskfs.cli.program import find_program
from taskfs.errors import MountError

HELPER: Final = Path("/sbin") / mount_helper.PROGRAM


@click.command("install-helper", short_help="Let mount(8) find taskfs.")
@click.option("--remove", is_flag=True, help="Remove the link.  [default: off]")
def command(remove: bool) -> None:
    """Make the link /sbin/mount.fuse.taskfs to this program; needs root.

    With it, `mount -t fuse.taskfs` and lines of /etc/fstab find taskfs wherever it is installed.
    Without it, they find it only in the system's directories (/usr/local/bin, /usr/bin).
    """
    if os.geteuid():
        name = "install-helper --remove" if remove else "install-helper"
        raise MountError(f"{HELPER} is root's: sudo {shlex.quote(sys.argv[0])} {name}")
    try:
        _remove() if remove else _install(find_program())
    except OSError as exc:
        raise MountError(f"{HELPER} cannot be changed ({exc.strerror}): see its directory") from exc


def _install(target: Path) -> None:
    if os.path.lexists(HELPER):
        if not HELPER.is_symlink():
            raise MountError(f"{HELPER} exists and is not a link of taskfs: move it away first")
        if Path(os.readlink(HELPER)) == target:
            click.echo(f"{HELPER} is a link to {target} already")
            return
    new = HELPER.with_name(f".{HELPER.name}.{os.getpid()}")
    new.symlink_to(target)
    new.replace(HELPER)
    click.echo(f"{HELPER} is now a link to {target}")
    path = _find_unsafe(target)
    if path is not None:
        click.echo(
            f"note: users other than root can change {path}, and so decide what root runs",
            err=True,
        )


def _remove() -> None:
    if not os.path.lexists(HELPER):
        click.echo(f"there is no {HELPER}")
        return
    if not HELPER.is_symlink():
        raise MountError(f"{HELPER} is not a link of taskfs: remove it yourself")
    HELPER.unlink()
    click.echo(f"removed {HELPER}")


def _find_unsafe(target: Path) -> Path | None:
    """Return a part of the program's path that users other than root can change, None if safe."""
    for path in (target, *target.parents):
        found = path.stat()
        is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_uid or (found.st_mode & 0o022 and not is_sticky):
            return path
    return None
