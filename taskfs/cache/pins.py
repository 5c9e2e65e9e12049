"""Pins: the files of the cache that eviction leaves alone, by task.

Each task that has pins has one small JSON file: its pinned paths, and the files of the cache that
each path needs. It is replaced as a whole, and under a lock, so that two commands lose no pin and a
killed one leaves the earlier pins. A damaged file is no pin.

Dropped indexes of pinned tasks lie beside these files, for offline mode.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Final

DIRECTORY: Final = "pins"
_LOCK: Final = "lock"
_SUFFIX: Final = ".json"


def read_pins(root: Path, task_id: str) -> dict[str, list[str]]:
    """Return the pins of one task; empty without any."""
    try:
        found = json.loads((root / DIRECTORY / f"{task_id}{_SUFFIX}").read_text())
        return {str(path): [str(name) for name in names] for path, names in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def pinned_tasks(root: Path) -> list[str]:
    """Return the ids of the tasks that have pins."""
    try:
        names = os.listdir(root / DIRECTORY)
    except OSError:
        return []
    return [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]


def pinned_files(root: Path) -> set[Path]:
    """Return the files that eviction leaves alone."""
    found: set[Path] = set()
    for task_id in pinned_tasks(root):
        for names in read_pins(root, task_id).values():
            found.update(root / name for name in names)
    return found


@contextlib.contextmanager
def change_pins(root: Path, task_id: str) -> Iterator[dict[str, list[str]]]:
    """Yield the pins of one task, and store what the block makes of them.

    Raises:
        OSError: they cannot be stored.
    """
    directory = root / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(directory / _LOCK, flags, 0o600)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        pins = read_pins(root, task_id)
        yield pins
        path = directory / f"{task_id}{_SUFFIX}"
        if not pins:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(pins))
        temporary.chmod(0o600)
        os.replace(temporary, path)
    finally:
        os.close(descriptor)


def drop_index(root: Path, path: Path, pinned: Container[Path]) -> None:
    """Remove the index at *path*, or move it beside the pins if it is among the *pinned* files."""
    with contextlib.suppress(OSError):
        if path in pinned:
            os.replace(path, root / DIRECTORY / path.name)
        else:
            os.unlink(path)
