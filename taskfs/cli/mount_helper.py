"""Calls by mount(8), for `mount -t fuse.taskfs` and for fstab(5).

With the link `/sbin/mount.fuse.taskfs`, mount(8) runs `mount.fuse.taskfs SRC MNT [-sfnv] [-o OPTS]`
(mount(8), External helpers). Without it, libfuse's mount.fuse(8) finds the program on the system's
default path and runs `taskfs SRC MNT -o OPTS`. Both set neither HOME nor the user's PATH.
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
# -o options, -N namespace, -t type: mount(8) has already applied the last two.
_FLAGS_WITH_VALUE: Final = "oNt"
_FLAGS: Final = "sfnvw"
_READ_ONLY: Final = "r"


class MountCall(NamedTuple):
    """One call by mount(8): *sloppy* ignores unknown options, *fake* does everything but mount."""

    source: str
    mountpoint: str
    options: str = ""
    sloppy: bool = False
    fake: bool = False

    def mount(self) -> int:
        """Mount in the background and return 0 once the mount answers."""
        from taskfs.cli.mount import mount_tasks
        from taskfs.cli.options import Settings

        _set_home()
        # mount(8) adds `rw` wherever `ro` is absent, so `rw` carries no information.
        words = [word for word in split_mount_options(self.options) if word != "rw"]
        quoted = ",".join(word.replace("\\", "\\\\").replace(",", "\\,") for word in words)
        options = {"fsname": self.source, **parse_mount_options(quoted, sloppy=self.sloppy)}
        if not self.fake:
            mount_tasks(Settings(mount_options=options), Path(self.mountpoint), foreground=False)
        return 0


def parse_mount_call(
    program: str, arguments: Sequence[str], commands: Container[str]
) -> MountCall | None:
    """Return the call by mount(8), None if the command line names one of *commands*.

    Raises:
        click.UsageError: the call has the form of mount(8) and wrong arguments.
    """
    if os.path.basename(program).startswith("mount."):
        return _parse(arguments)
    is_mount_fuse = len(arguments) > 2 and arguments[2] == "-o" and arguments[0] not in commands
    if not is_mount_fuse or arguments[0].startswith("-"):
        return None
    call = _parse(arguments)
    if call.fake:  # mount.fuse(8) never passes -f: a user typed it, as with sshfs
        raise click.UsageError("to stay in the foreground, use `taskfs mount --foreground`")
    return call


def _parse(arguments: Sequence[str]) -> MountCall:
    paths: list[str] = []
    options: list[str] = []
    flags = ""
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            paths.append(word)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            flags += letter
            if letter in _FLAGS_WITH_VALUE and (letters or rest):
                value, letters = letters or rest.pop(0), ""
                options += [value] if letter == "o" else []
            elif letter == _READ_ONLY:
                options.append("ro")
            elif letter not in _FLAGS:
                raise click.UsageError(f"-{letter} is not an option of mount(8): {_USAGE}")
    if len(paths) != 2:
        raise click.UsageError(f"a source and a mountpoint are needed: {_USAGE}")
    source, mountpoint = paths
    return MountCall(source, mountpoint, ",".join(options), "s" in flags, "f" in flags)


def _set_home() -> None:
    """Set HOME from the password database if the environment has none."""
    if not os.environ.get("HOME"):
        try:
            os.environ["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            os.environ.pop("HOME", None)
