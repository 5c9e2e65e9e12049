"""The forms in which mount(8) calls the program, for `mount -t fuse.taskfs` and for fstab(5).

With a link `/sbin/mount.fuse.taskfs` it is `mount.fuse.taskfs SRC MNT [-sfnv] [-o OPTS]` (mount(8),
External helpers). Without it, mount.fuse(8) of libfuse runs `taskfs SRC MNT -o OPTS`, found on the
system's default path. Neither has HOME in its environment, or the user's PATH.
"""

import os
import pwd
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click

from taskfs.options import parse_mount_options, split_mount_options

PROGRAM: Final = "mount.fuse.taskfs"
_USAGE: Final = f"{PROGRAM} SOURCE MOUNTPOINT [-sfnv] [-o OPTION[,OPTION...]]"
_WITH_VALUE: Final = (
    "oNt"  # options, a namespace, the type: mount(8) has done what the last two ask
)
_ALONE: Final = "sfnvw"
_READ_ONLY: Final = "r"


class Mount8Call(NamedTuple):
    """What mount(8) asks for."""

    source: str
    mountpoint: str
    options: str = ""
    sloppy: bool = False
    fake: bool = False

    def mount(self) -> int:
        """Mount in the background, return 0 once it is live; our errors say why it cannot be."""
        from taskfs.cli.mount import mount_tasks
        from taskfs.cli.options import Settings

        _find_home()
        # `rw` says only that nobody said `ro`: mount(8) always adds one of the two.
        words = [word for word in split_mount_options(self.options) if word != "rw"]
        quoted = ",".join(word.replace("\\", "\\\\").replace(",", "\\,") for word in words)
        options = {"fsname": self.source, **parse_mount_options(quoted, sloppy=self.sloppy)}
        if not self.fake:
            mount_tasks(Settings(mount_options=options), Path(self.mountpoint), foreground=False)
        return 0


def read_call(
    program: str, arguments: Sequence[str], commands: Container[str]
) -> Mount8Call | None:
    """Return the call, None where the command line is one of ours, with a name of *commands*.

    Raises:
        click.UsageError: by its name it is a call of mount(8), and makes no sense.
    """
    if os.path.basename(program).startswith("mount."):
        return _parse(arguments)
    of_mount_fuse = len(arguments) > 2 and arguments[2] == "-o" and arguments[0] not in commands
    if not of_mount_fuse or arguments[0].startswith("-"):
        return None
    call = _parse(arguments)
    if call.fake:  # mount.fuse never says so: it is somebody who knows sshfs
        raise click.UsageError("to stay in the foreground, use `taskfs mount --foreground`")
    return call


def _parse(arguments: Sequence[str]) -> Mount8Call:
    places: list[str] = []
    options: list[str] = []
    seen = ""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            places.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            seen += letter
            if letter in _WITH_VALUE and (letters or rest):
                value, letters = letters or rest.pop(0), ""
                options += [value] if letter == "o" else []
            elif letter == _READ_ONLY:
                options.append("ro")
            elif letter not in _ALONE:
                raise click.UsageError(f"-{letter} is not an option of mount(8): {_USAGE}")
    if len(places) != 2:
        raise click.UsageError(f"a source and a mountpoint are needed: {_USAGE}")
    source, mountpoint = places
    return Mount8Call(source, mountpoint, ",".join(options), "s" in seen, "f" in seen)


def _find_home() -> None:
    """Take the home from the password database where the environment has none."""
    if not os.environ.get("HOME"):
        try:
            os.environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            os.environ.pop("HOME", None)
