"""`taskfs systemd-unit` and `taskfs install-helper`: what makes a mount one of the system's own."""

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from taskfs.api_key import find_api_key
from taskfs.cli import completers as candidates
from taskfs.cli import mount_helper as mount8
from taskfs.cli.options import reads
from taskfs.errors import ConfigError, MountError
from taskfs.fuse.mountpoint import FSTYPE
from taskfs.options import parse_mount_options, parse_path
from taskfs.support.installation import PROGRAM_FIX

HELPER: Final = Path("/sbin") / mount8.PROGRAM
_SYSTEM_MOUNTPOINT: Final = "/mnt/tasks"
_USER_MOUNTPOINT: Final = "~/tasks"

_UNIT: Final = """\
# Save as ~/.config/systemd/user/taskfs.service, then:
#   systemctl --user daemon-reload && systemctl --user enable --now taskfs
# `loginctl enable-linger` keeps it while you are not logged in.
[Unit]
Description=Simulation tasks on {description}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStartPre=-/bin/mkdir -p -- {mountpoint}
ExecStart={taskfs} mount --foreground {options}-- {mountpoint}
ExecStop={taskfs} umount --lazy -- {mountpoint}
Restart=on-failure
RestartSec=30s

[Install]
WantedBy=default.target
"""


@click.command("systemd-unit", short_help="Print a systemd unit, or a line for fstab.")
@click.argument(
    "mountpoint",
    callback=reads(parse_path),
    required=False,
    shell_complete=candidates.directories,
)
@click.option(
    "-o",
    "mount_options",
    multiple=True,
    metavar="OPT[,OPT...]",
    help="Options of the mount, as `taskfs mount -o` takes them.  [default: none]",
)
@click.option(
    "--fstab",
    is_flag=True,
    help="Print a line for /etc/fstab instead: root mounts, at boot or at the first use. Your key "
    "file is named in it, and the files are yours.  [default: off]",
)
def systemd_unit(mountpoint: Path | None, mount_options: tuple[str, ...], fstab: bool) -> None:
    """Print a systemd user service that mounts your tasks on MOUNTPOINT.

    The service is started once the mount is live (Type=notify), and stopping it unmounts. Without
    MOUNTPOINT it is ~/tasks, with --fstab /mnt/tasks. Nothing is written or started.
    """
    words = ",".join(mount_options)
    given = parse_mount_options(words)  # what a mount would refuse is refused here
    if not _has_key_file(given):
        click.echo(
            f"note: services do not see your shell's variables: write the key to {_key_file()} "
            "(inductiva auth login), or add -o api_key_file=FILE",
            err=True,
        )
    if fstab:
        click.echo(fstab_line(mountpoint or Path(_SYSTEM_MOUNTPOINT), words))
    else:
        click.echo(unit(mountpoint or parse_path(_USER_MOUNTPOINT), words, program()), nl=False)


def unit(mountpoint: Path, options: str, taskfs: Path) -> str:
    """Return the text of a user service; systemd.service(5), systemd.syntax(7)."""
    return _UNIT.format(
        description=str(mountpoint).replace("%", "%%"),
        mountpoint=_unit_word(str(mountpoint)),
        options=f"-o {_unit_word(options)} " if options else "",
        taskfs=_unit_word(str(taskfs)),
    )


def fstab_line(mountpoint: Path, options: str) -> str:
    """Return a line of fstab(5): for an ordinary user's tasks, it says whose they are."""
    words = ["_netdev", "nofail", "x-systemd.automount"]
    if os.getuid():
        words += ["allow_other", f"uid={os.getuid()}", f"gid={os.getgid()}"]
    given = parse_mount_options(options)
    if not given.keys() & {"api_key_file", "demo"}:
        words.append(f"api_key_file={_key_file()}".replace("\\", "\\\\").replace(",", "\\,"))
    fields = ["taskfs", str(mountpoint), FSTYPE, ",".join([*words, options]).rstrip(",")]
    return " ".join([*map(_fstab_field, fields), "0", "0"])


def _has_key_file(given: Mapping[str, str]) -> bool:
    return bool(given.keys() & {"api_key_file", "demo"}) or os.path.exists(_key_file())


def _key_file() -> str:
    """Return the key's file, where it is or should be: at boot nobody's variables are set."""
    try:
        location = find_api_key().location
    except ConfigError:
        location = ""
    return location if location.startswith("/") else str(parse_path("~/.inductiva/api_key"))


def _unit_word(text: str) -> str:
    """Return *text* as one word of a command line: `%` and `$` stand for themselves."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = "".join(f"\\x{_byte(c):02x}" if c < " " or _is_byte(c) else c for c in text)
    return f'"{text}"' if any(c in text for c in " '\"\\;") or not text else text


def _fstab_field(text: str) -> str:
    """Return *text* without blanks: they are octal digits in fstab(5)."""
    return "".join(f"\\{_byte(c):03o}" if c in " \t\n\\#" or _is_byte(c) else c for c in text)


def _is_byte(character: str) -> bool:
    """Whether the character stands for a byte that the locale cannot decode (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


def _byte(character: str) -> int:
    return ord(character) & 0xFF


@click.command("install-helper", short_help="Let mount(8) find taskfs.")
@click.option("--remove", is_flag=True, help="Take the link away.  [default: off]")
def install_helper(remove: bool) -> None:
    """Make the link /sbin/mount.fuse.taskfs to this program; needs root.

    With it, `mount -t fuse.taskfs` and lines of /etc/fstab find taskfs wherever it is installed.
    Without it, they find it only on the system's own path (/usr/local/bin, /usr/bin).
    """
    if os.geteuid():
        name = "install-helper --remove" if remove else "install-helper"
        raise MountError(f"{HELPER} is root's: sudo {shlex.quote(sys.argv[0])} {name}")
    try:
        _remove() if remove else _install(program())
    except OSError as exc:
        raise MountError(f"{HELPER} cannot be changed ({exc.strerror}): see its directory") from exc


def _install(target: Path) -> None:
    if os.path.lexists(HELPER):
        if not HELPER.is_symlink():
            raise MountError(f"{HELPER} is there and not a link of ours: move it away first")
        if Path(os.readlink(HELPER)) == target:
            click.echo(f"{HELPER} is a link to {target} already")
            return
    new = HELPER.with_name(f".{HELPER.name}.{os.getpid()}")
    new.symlink_to(target)
    new.replace(HELPER)
    click.echo(f"{HELPER} is now a link to {target}")
    owner = _other_owner(target)
    if owner is not None:
        click.echo(
            f"note: {owner} belongs not to root alone: who can change it decides what root runs",
            err=True,
        )


def _remove() -> None:
    if not os.path.lexists(HELPER):
        click.echo(f"there is no {HELPER}")
        return
    if not HELPER.is_symlink():
        raise MountError(f"{HELPER} is not a link of ours: remove it yourself")
    HELPER.unlink()
    click.echo(f"removed {HELPER}")


def _other_owner(target: Path) -> Path | None:
    """Return what of the program's path others than root may change, None if nothing."""
    for place in (target, *target.parents):
        found = place.stat()
        is_sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_uid or (found.st_mode & 0o022 and not is_sticky):
            return place
    return None


def program() -> Path:
    """Return the path of the program `taskfs`, as it was started or as it is installed.

    Raises:
        ConfigError: it is not installed as a program, only as a Python module.
    """
    name = shutil.which(sys.argv[0]) if sys.argv[0] else None
    for candidate in (name, Path(sys.executable).parent / "taskfs", shutil.which("taskfs")):
        if candidate and os.path.basename(candidate) == "taskfs" and os.access(candidate, os.X_OK):
            return Path(os.path.abspath(candidate))
    raise ConfigError(f"the program taskfs is not installed: {PROGRAM_FIX}")
