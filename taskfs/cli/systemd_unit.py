"""`taskfs systemd-unit`: a systemd user service, or a line of fstab(5), for a mount."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from taskfs.api_key import find_api_key
from taskfs.cli.arguments import mountpoint_argument
from taskfs.cli.program import find_program
from taskfs.errors import ConfigError
from taskfs.fuse.mount_table import FSTYPE
from taskfs.options import parse_mount_options
from taskfs.support.parsing import parse_path

_DEFAULT_FSTAB_MOUNTPOINT: Final = "/mnt/tasks"
_DEFAULT_UNIT_MOUNTPOINT: Final = "~/tasks"

# The word after the description keeps a final backslash of the mountpoint from continuing the line.
_UNIT_TEMPLATE: Final = """\
# Save as ~/.config/systemd/user/taskfs.service, then:
#   systemctl --user daemon-reload && systemctl --user enable --now taskfs
# `loginctl enable-linger` keeps it running while you are not logged in.
[Unit]
Description=Simulation tasks on {description} (taskfs)
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
@mountpoint_argument
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
    help="Print a line for /etc/fstab instead: root mounts, at boot or at the first use. The line "
    "names your key file, and the files belong to you.  [default: off]",
)
def command(mountpoint: Path | None, mount_options: tuple[str, ...], fstab: bool) -> None:
    """Print a systemd user service that mounts your tasks on MOUNTPOINT.

    The service has started once the mount answers (Type=notify), and stopping it unmounts. The
    default of MOUNTPOINT is ~/tasks, with --fstab /mnt/tasks. Nothing is written or started.
    """
    words = ",".join(mount_options)
    given = parse_mount_options(words)  # raises ConfigError as a mount would
    if not _has_key_file(given):
        click.echo(
            f"note: services do not see your shell's variables: write the key to {_key_file()} "
            "(taskfs login), or add -o api_key_file=FILE",
            err=True,
        )
    if fstab:
        click.echo(fstab_line(mountpoint or Path(_DEFAULT_FSTAB_MOUNTPOINT), words))
    else:
        click.echo(
            unit_text(mountpoint or parse_path(_DEFAULT_UNIT_MOUNTPOINT), words, find_program()),
            nl=False,
        )


def unit_text(mountpoint: Path, options: str, taskfs: Path) -> str:
    """Return the text of a user service (systemd.service(5), systemd.syntax(7))."""
    return _UNIT_TEMPLATE.format(
        description=_escape(str(mountpoint).replace("%", "%%")),
        mountpoint=_unit_word(str(mountpoint)),
        options=f"-o {_unit_word(options)} " if options else "",
        taskfs=_unit_word(str(taskfs)),
    )


def fstab_line(mountpoint: Path, options: str) -> str:
    """Return a line of fstab(5); for a user other than root it sets the owner of the files."""
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
    """Return the path of the key file, or where to create it: boot has no user's variables."""
    try:
        location = find_api_key().location
    except ConfigError:
        location = ""
    return location if location.startswith("/") else str(parse_path("~/.inductiva/api_key"))


def _unit_word(text: str) -> str:
    """Return *text* as one word of a unit's command line, with `%` and `$` escaped."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    text = _escape(text)
    return f'"{text}"' if any(c in text for c in " '\"\\;") or not text else text


def _escape(text: str) -> str:
    """Return *text* with control characters and undecodable bytes as `\\xNN`."""
    return "".join(f"\\x{_byte(c):02x}" if c < " " or _is_byte(c) else c for c in text)


def _fstab_field(text: str) -> str:
    """Return *text* with blanks as octal escapes, as fstab(5) has them."""
    return "".join(f"\\{_byte(c):03o}" if c in " \t\n\\#" or _is_byte(c) else c for c in text)


def _is_byte(character: str) -> bool:
    """Return whether the character is an undecodable byte (PEP 383)."""
    return "\udc80" <= character <= "\udcff"


def _byte(character: str) -> int:
    return ord(character) & 0xFF
