"""What is done on the mount, all of it at once, and how each byte is judged: a work is a row."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .world import Files, Place, World

PIECE: Final = 128 << 10
# The errnos of a fault (docs/semantics.md). Never EAGAIN, and never ENOENT for an existing name.
EXPLAINED: Final = frozenset(
    {errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.EOPNOTSUPP, errno.ESTALE}
)
# What a killed daemon's mount answers until it is mounted again, and what was in flight then.
DISCONNECTED: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
ALIVE: Final = frozenset({"computation-started\n", "pending-kill\n", "killed\n"})
_BY_TEXT: Final = {os.strerror(number): number for number in errno.errorcode}


class Wrong(Exception):
    """Bytes, names or an errno that no fault explains."""


class Shorter(Wrong):
    """A directory without some of its names, and no error."""


@dataclass(frozen=True)
class Stage:
    """Where the works happen; immutable, so any thread may use it."""

    mount: Path
    world: World
    scratch: Path

    def path(self, place: Place, name: str = "") -> Path:
        return self.mount / place.task / "outputs" / name


def _pick(stage: Stage, rng: random.Random, *, at_random: bool = False) -> tuple[Place, str]:
    """Return a file; with *at_random*, none that is only promised to be right as a whole."""
    places = [p for p in stage.world.places if not (at_random and p.is_checked)]
    place = rng.choice(places)
    return place, rng.choice(list(place.versions[-1]))


class _Judge:
    """Follows one open file: all its bytes must be of one version, whichever it is."""

    def __init__(self, place: Place, name: str, descriptor: int) -> None:
        self._what = f"{place.task} {name}"
        self._left = [files[name] for files in list(place.versions)]
        self._descriptor = descriptor

    def look(self, offset: int, size: int) -> None:
        """Fail unless what is read is what one version has there, all *size* bytes to its end."""
        piece = b""
        while len(piece) < size:  # the kernel gives what it has before it tells of an error
            more = os.pread(self._descriptor, size - len(piece), offset + len(piece))
            if not more:
                break
            piece += more
        fitting = [body for body in self._left if body[offset : offset + size] == piece]
        if not fitting:
            lengths = [len(body) for body in self._left]
            raise Wrong(f"{self._what}: {len(piece)} of {size} bytes at {offset}, of {lengths}")
        self._left = fitting


def _forget_pages(place: Place, descriptor: int, rng: random.Random) -> None:
    """Let the kernel ask again. It forgets what it can: what is then read may jump about."""
    if not place.is_checked and rng.randrange(2):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(stage: Stage, rng: random.Random) -> None:
    """From start to end; what fails in the middle was not read at all."""
    place, name = _pick(stage, rng)
    descriptor = os.open(stage.path(place, name), os.O_RDONLY)
    try:
        pieces, at, size = [], 0, rng.choice([PIECE, 4096, 1 << 20])
        while piece := os.pread(descriptor, size, at):
            pieces.append(piece)
            at += len(piece)
        _check_whole(place, name, b"".join(pieces))
        _forget_pages(place, descriptor, rng)
    finally:
        os.close(descriptor)


def _check_whole(place: Place, name: str, content: bytes) -> None:
    if all(files[name] != content for files in list(place.versions)):
        sizes = [len(files[name]) for files in place.versions]
        kind = "checked" if place.is_checked else "replaced" if place.is_replaced else "steady"
        raise Wrong(f"{kind} {place.task} {name}: read whole: {len(content)} bytes, of {sizes}")


def _read_at(stage: Stage, rng: random.Random, offsets: Callable[[int], Iterable[int]]) -> None:
    place, name = _pick(stage, rng, at_random=True)
    descriptor = os.open(stage.path(place, name), os.O_RDONLY)
    try:
        judge = _Judge(place, name, descriptor)
        for offset in offsets(len(place.versions[-1][name])):
            judge.look(offset, rng.choice([1, 4096, 70_000]))
        _forget_pages(place, descriptor, rng)
    finally:
        os.close(descriptor)


def read_at_random(stage: Stage, rng: random.Random) -> None:
    """Here and there, beyond the end too."""
    _read_at(stage, rng, lambda size: [rng.randrange(size + 5000) for _ in range(8)])


def read_backward(stage: Stage, rng: random.Random) -> None:
    """From the end to the start, in steps."""
    _read_at(stage, rng, lambda size: range(size, -1, -max(1, size // 12)))


def read_head(stage: Stage, rng: random.Random) -> None:
    """The first bytes, as `head` and `file` do."""
    _read_at(stage, rng, lambda size: [0])


def reopen(stage: Stage, rng: random.Random) -> None:
    """The same few bytes through one handle after another."""
    place, name = _pick(stage, rng, at_random=True)
    offset = rng.randrange(len(place.versions[-1][name]) + 1)
    for _ in range(3):
        with open(stage.path(place, name), "rb", buffering=0) as opened:
            _Judge(place, name, opened.fileno()).look(offset, 9000)


def walk(stage: Stage, rng: random.Random) -> None:
    """Every name with its size, as `ls -lR`."""
    place, _ = _pick(stage, rng)
    found = {}
    top = stage.path(place)
    errors: list[OSError] = []
    for folder, _, names in os.walk(top, onerror=errors.append):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(top))] = path.lstat().st_size
    if errors:
        raise errors[0]
    versions = list(place.versions)
    if set(found) != set(versions[0]):
        kind = Shorter if set(versions[0]) - set(found) else Wrong
        raise kind(f"{place.task}: a listing of {len(found)} files, not {len(versions[0])}")
    for name, size in found.items():
        if all(len(files[name]) != size for files in versions):
            raise Wrong(f"{place.task} {name}: st_size {size}")


def copy_tree(stage: Stage, rng: random.Random) -> None:
    """`cp -r`, a process: what it does not complain about is right."""
    place, _ = _pick(stage, rng)
    with tempfile.TemporaryDirectory(dir=stage.scratch) as folder:
        copy = Path(folder, "copy")
        done = subprocess.run(
            ["cp", "-r", stage.path(place), copy], capture_output=True, text=True, check=False
        )
        versions: list[Files] = list(place.versions)
        for name in versions[0]:
            target = copy / name
            content = target.read_bytes() if target.exists() else None
            if all(files[name] != content for files in versions) and not done.returncode:
                kind = Shorter if content is None else Wrong
                raise kind(f"{place.task} {name}: cp -r was content with {target}")
            if content and f"/{name}'" not in done.stderr:
                _check_whole(place, name, content)
    if done.returncode:
        raise _told(done.stderr)


def cat(stage: Stage, rng: random.Random) -> None:
    """`cat`, a process; at times interrupted, which may leave nothing behind."""
    place, name = _pick(stage, rng)
    process = subprocess.Popen(
        ["cat", stage.path(place, name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    is_interrupted = rng.randrange(4) == 0
    if is_interrupted:
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGINT)
    content, said = process.communicate()
    if process.returncode > 0:
        raise _told(said.decode(errors="replace"))
    if process.returncode == 0:
        _check_whole(place, name, content)


def _told(stderr: str) -> OSError:
    """Return what a program's first complaint means."""
    line = stderr.splitlines()[0] if stderr else "said nothing"
    number = _BY_TEXT.get(line.rpartition(": ")[2])
    if number is None:
        raise Wrong(f"a program failed: {line}")
    return OSError(number, line)


def poll_statuses(stage: Stage, rng: random.Random) -> None:
    """The status of each task, finished and running."""
    for place in stage.world.places:
        if (status := (stage.mount / place.task / "status").read_text()) != "success\n":
            raise Wrong(f"{place.task}: status {status!r}")
    for task in stage.world.running:
        if (status := (stage.mount / task / "status").read_text()) not in ALIVE:
            raise Wrong(f"{task}: status {status!r}")


def list_tasks(stage: Stage, rng: random.Random) -> None:
    """The mountpoint: never without a task that is there."""
    names = set(os.listdir(stage.mount))
    missing = [place.task for place in stage.world.places if place.task not in names]
    if missing:
        raise Shorter(f"a listing of {len(names)} names, without {missing[0]}")


def kill(stage: Stage, rng: random.Random) -> None:
    """A task of this work's own: one request, whatever becomes of the answer."""
    task = stage.world.start_one()
    with open(stage.mount / task / "kill", "wb", buffering=0) as opened:
        opened.write(b"1")
    if task not in stage.world.cloud.killed:
        raise Wrong(f"{task}: the kill succeeded, and the API knows nothing of it")


def refresh(stage: Stage, rng: random.Random) -> None:
    """Forget what is cached."""
    (stage.mount / ".taskfs/refresh").write_text("1")


def look_at_service(stage: Stage, rng: random.Random) -> None:
    """The mount's own files, a directory without end, and names that are not there."""
    (stage.mount / ".taskfs/stats.json").read_bytes()
    place, _ = _pick(stage, rng)
    try:
        (stage.path(place) / "no such file").stat()
    except FileNotFoundError:
        return
    raise Wrong("a name that is not there was found")


Work = Callable[[Stage, random.Random], None]
# How often each is done, relative to the others.
WORKS: Final[dict[Work, int]] = {
    read_whole: 20,
    read_at_random: 20,
    read_backward: 8,
    read_head: 15,
    reopen: 10,
    walk: 8,
    copy_tree: 2,
    cat: 8,
    poll_statuses: 4,
    list_tasks: 4,
    kill: 1,
    refresh: 1,
    look_at_service: 3,
}
