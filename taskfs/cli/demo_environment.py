"""What `taskfs demo --env` prints: the variables with which commands reach a mounted demo."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskfs.errors import MountError
from taskfs.fuse.mountpoint import FSTYPE, absolute, is_dead, mounted_types, read_answering

_FILE: Final = ".taskfs/environment"


def exports(mountpoint: Path) -> Iterator[str]:
    """Yield the lines that bash, zsh and fish read, for the demo mounted on *mountpoint*.

    Raises:
        MountError: no living demo of this user is mounted there.
    """
    for line in _read_environment(absolute(mountpoint)).splitlines():
        name, _, value = line.partition("=")
        yield f"export {name}={shlex.quote(value)}"
    yield from _path()


def instructions(mountpoint: Path) -> str:
    """Return what to say of a demo that is mounted: the lines to paste into a shell."""
    name = "taskfs" if shutil.which("taskfs") else shlex.quote(str(_program() or "taskfs"))
    place = shlex.quote(str(mountpoint))
    return (
        f"The demo is mounted on {mountpoint}\n"
        f'Let `taskfs list`, `watch`, ... talk to it: eval "$({name} demo --env {place})"\n'
        f"Unmount it with: {name} umount {place}"
    )


def _read_environment(place: Path) -> str:
    begin = f"taskfs demo {shlex.quote(str(place))}"
    if mounted_types(place)[-1:] != [FSTYPE]:
        raise MountError(f"no demo is mounted on {place}: {begin}")
    try:
        text = read_answering(place / _FILE)
    except FileNotFoundError:
        raise MountError(f"{place} shows no demo but the tasks of an account") from None
    except PermissionError:
        raise MountError(f"{place} is the demo of another user: mount your own") from None
    except OSError as exc:
        if is_dead(place):
            raise MountError(f"the process of {place} has ended: {begin}") from None
        raise MountError(f"{place} cannot be read ({exc.strerror}): {begin}") from None
    if text is None:
        raise MountError(f"{place} does not answer: taskfs umount --lazy, then {begin}")
    return text


def _path() -> Iterator[str]:
    """Yield a line that lets the shell find the program, where it does not yet."""
    found = _program()
    if found is not None and shutil.which("taskfs") is None:
        yield f'export PATH="$PATH":{shlex.quote(os.path.dirname(found))}'


def _program() -> Path | None:
    """Return the program beside the interpreter that runs, None where there is none."""
    found = Path(sys.executable).parent / "taskfs"
    return found if os.access(found, os.X_OK) else None
