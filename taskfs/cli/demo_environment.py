"""The output of `taskfs demo --env`: variables with which commands use a mounted demo."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskfs.errors import MountError
from taskfs.fuse.mount_table import FSTYPE, mounted_types
from taskfs.fuse.mountpoint import absolute, is_dead, read_answering

_FILE: Final = ".taskfs/environment"  # in a mount of the demo: NAME=value lines


def export_lines(mountpoint: Path) -> Iterator[str]:
    """Yield `export` lines for bash, zsh and fish, for the demo mounted on *mountpoint*.

    Raises:
        MountError: no running demo of this user is mounted there.
    """
    for line in _read_environment(absolute(mountpoint)).splitlines():
        name, _, value = line.partition("=")
        yield f"export {name}={shlex.quote(value)}"
    yield from _path_line()


def instructions(mountpoint: Path) -> str:
    """Return the message after mounting the demo, with the lines to paste into a shell."""
    name = "taskfs" if shutil.which("taskfs") else shlex.quote(str(_find_program() or "taskfs"))
    path = shlex.quote(str(mountpoint))
    return (
        f"The demo is mounted on {mountpoint}\n"
        f'Let `taskfs list`, `watch`, ... talk to it: eval "$({name} demo --env {path})"\n'
        f"Unmount it with: {name} umount {path}"
    )


def _read_environment(path: Path) -> str:
    quoted = shlex.quote(str(path))
    start = f"start one with taskfs demo {quoted}"
    if mounted_types(path)[-1:] != [FSTYPE]:
        raise MountError(f"no demo is mounted on {path}: {start}")
    try:
        text = read_answering(path / _FILE)
    except FileNotFoundError:
        raise MountError(
            f"{path} shows the tasks of an account: start a demo on another directory with "
            "taskfs demo DIRECTORY"
        ) from None
    except PermissionError:
        raise MountError(
            f"the demo on {path} is another user's: start your own with taskfs demo DIRECTORY"
        ) from None
    except OSError as exc:
        if is_dead(path):
            raise MountError(f"the demo on {path} has died: {start}") from None
        raise MountError(f"{path} cannot be read ({exc.strerror}): {start}") from None
    if text is None:
        raise MountError(
            f"the demo on {path} does not answer: end it with taskfs umount --lazy {quoted}, "
            f"then {start}"
        )
    return text


def _path_line() -> Iterator[str]:
    """Yield a line that adds the program to PATH if the shell does not find it yet."""
    found = _find_program()
    if found is not None and shutil.which("taskfs") is None:
        yield f'export PATH="$PATH":{shlex.quote(os.path.dirname(found))}'


def _find_program() -> Path | None:
    """Return the program beside the running interpreter, None if there is none."""
    found = Path(sys.executable).parent / "taskfs"
    return found if os.access(found, os.X_OK) else None
