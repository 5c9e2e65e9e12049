"""The readers' actions on the mount, and the checks of every byte they read.

An action is a row of `ACTIONS`.
"""

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
from typing import TYPE_CHECKING, Final

from .dataset import Dataset, Files, TaskFiles

if TYPE_CHECKING:
    from .large import LargeArchive
    from .live import RunningTasks

PIECE: Final = 128 << 10
# The errnos that an injected fault may cause (taskfs/docs/semantics.md). Neither EAGAIN nor ENOENT.
ALLOWED_ERRNOS: Final = frozenset(
    {errno.EIO, errno.ETIMEDOUT, errno.EACCES, errno.EOPNOTSUPP, errno.ESTALE}
)
# The errnos of a dead mount, and of the requests that were in flight when its daemon was killed.
DISCONNECTED: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
RUNNING_STATUSES: Final = frozenset({"computation-started\n", "pending-kill\n", "killed\n"})
_ERRNO_BY_TEXT: Final = {os.strerror(number): number for number in errno.errorcode}


class Violation(Exception):
    """Bytes, names or an errno that no injected fault may cause."""


class ShortListing(Violation):
    """A listing without some of the directory's names, and no error."""


@dataclass(frozen=True)
class Context:
    """The mount, its expected content and a scratch directory. Immutable; shared by all threads.

    An action that makes more than some calls notes its *progress* between them.
    """

    mount: Path
    dataset: Dataset
    scratch: Path
    running: RunningTasks
    large: LargeArchive
    progress: Callable[[], None]

    def path(self, task: TaskFiles, name: str = "") -> Path:
        return self.mount / task.id / "outputs" / name


def _pick(
    context: Context, rng: random.Random, *, at_random: bool = False
) -> tuple[TaskFiles, str]:
    """Return a random file; with *at_random* only one whose parts may be compared."""
    tasks = [t for t in context.dataset.tasks if not (at_random and t.is_damaged)]
    task = rng.choice(tasks)
    return task, rng.choice(list(task.versions[-1]))


class _VersionCheck:
    """Checks that all bytes read through one descriptor belong to one version of the file."""

    def __init__(self, task: TaskFiles, name: str, descriptor: int) -> None:
        self._label = f"{task.id} {name}"
        self._candidates = [files[name] for files in list(task.versions)]
        self._descriptor = descriptor

    def check(self, offset: int, size: int) -> None:
        """Read a range; fail unless one version has exactly these bytes there.

        A result shorter than *size* passes only at the end of that version.
        """
        piece = b""
        while len(piece) < size:  # the kernel returns cached bytes before an error
            more = os.pread(self._descriptor, size - len(piece), offset + len(piece))
            if not more:
                break
            piece += more
        matching = [body for body in self._candidates if body[offset : offset + size] == piece]
        if not matching:
            lengths = [len(body) for body in self._candidates]
            raise Violation(
                f"{self._label}: {len(piece)} of {size} bytes at {offset}, of {lengths}"
            )
        self._candidates = matching


def _drop_pages(task: TaskFiles, descriptor: int, rng: random.Random) -> None:
    """Drop the file's pages from the page cache half the time: the next read reaches the daemon."""
    if not task.is_damaged and rng.randrange(2):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def read_whole(context: Context, rng: random.Random) -> None:
    """Read a file from start to end; compare it only if no read fails."""
    task, name = _pick(context, rng)
    descriptor = os.open(context.path(task, name), os.O_RDONLY)
    try:
        pieces, at, size = [], 0, rng.choice([PIECE, 4096, 1 << 20])
        while piece := os.pread(descriptor, size, at):
            pieces.append(piece)
            at += len(piece)
        _check_whole(task, name, b"".join(pieces))
        _drop_pages(task, descriptor, rng)
    finally:
        os.close(descriptor)


def _check_whole(task: TaskFiles, name: str, content: bytes) -> None:
    if all(files[name] != content for files in list(task.versions)):
        sizes = [len(files[name]) for files in task.versions]
        kind = "damaged" if task.is_damaged else "replaced" if task.is_replaced else "steady"
        raise Violation(f"{kind} {task.id} {name}: read whole: {len(content)} bytes, of {sizes}")


def _read_at(context: Context, rng: random.Random, offsets: Callable[[int], Iterable[int]]) -> None:
    task, name = _pick(context, rng, at_random=True)
    descriptor = os.open(context.path(task, name), os.O_RDONLY)
    try:
        check = _VersionCheck(task, name, descriptor)
        for offset in offsets(len(task.versions[-1][name])):
            check.check(offset, rng.choice([1, 4096, 70_000]))
        _drop_pages(task, descriptor, rng)
    finally:
        os.close(descriptor)


def read_at_random(context: Context, rng: random.Random) -> None:
    """Read at random offsets, some beyond the end."""
    _read_at(context, rng, lambda size: [rng.randrange(size + 5000) for _ in range(8)])


def read_backward(context: Context, rng: random.Random) -> None:
    """Read backwards in steps."""
    _read_at(context, rng, lambda size: range(size, -1, -max(1, size // 12)))


def read_head(context: Context, rng: random.Random) -> None:
    """Read the first bytes, as `head` and `file` do."""
    _read_at(context, rng, lambda size: [0])


def reopen(context: Context, rng: random.Random) -> None:
    """Read the same range through three handles in turn."""
    task, name = _pick(context, rng, at_random=True)
    offset = rng.randrange(len(task.versions[-1][name]) + 1)
    for _ in range(3):
        with open(context.path(task, name), "rb", buffering=0) as opened:
            _VersionCheck(task, name, opened.fileno()).check(offset, 9000)


def walk(context: Context, rng: random.Random) -> None:
    """List every name with its size, as `ls -lR` does."""
    task, _ = _pick(context, rng)
    found = {}
    top = context.path(task)
    errors: list[OSError] = []
    for folder, _, names in os.walk(top, onerror=errors.append):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(top))] = path.lstat().st_size
    if errors:
        raise errors[0]
    versions = list(task.versions)
    if set(found) != set(versions[0]):
        kind = ShortListing if set(versions[0]) - set(found) else Violation
        raise kind(f"{task.id}: {len(found)} files listed, not {len(versions[0])}")
    for name, size in found.items():
        if all(len(files[name]) != size for files in versions):
            raise Violation(f"{task.id} {name}: st_size {size}")


def copy_tree(context: Context, rng: random.Random) -> None:
    """Copy with `cp -r`: each file that it reports no error for must be complete and correct."""
    task, _ = _pick(context, rng)
    with tempfile.TemporaryDirectory(dir=context.scratch) as folder:
        copy = Path(folder, "copy")
        done = subprocess.run(
            ["cp", "-r", context.path(task), copy], capture_output=True, text=True, check=False
        )
        versions: list[Files] = list(task.versions)
        for name in versions[0]:
            target = copy / name
            content = target.read_bytes() if target.exists() else None
            if all(files[name] != content for files in versions) and not done.returncode:
                kind = ShortListing if content is None else Violation
                raise kind(f"{task.id} {name}: cp -r exited 0 with a wrong {target}")
            if content and f"/{name}'" not in done.stderr:
                _check_whole(task, name, content)
    if done.returncode:
        raise _first_error(done.stderr)


def cat(context: Context, rng: random.Random) -> None:
    """Read with `cat`, and interrupt it at random."""
    task, name = _pick(context, rng)
    process = subprocess.Popen(
        ["cat", context.path(task, name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    is_interrupted = rng.randrange(4) == 0
    if is_interrupted:
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGINT)
    content, stderr = process.communicate()
    if process.returncode > 0:
        raise _first_error(stderr.decode(errors="replace"))
    if process.returncode == 0:
        _check_whole(task, name, content)


def _first_error(stderr: str) -> OSError:
    """Return the OSError that the first line of *stderr* reports."""
    line = stderr.splitlines()[0] if stderr else "no message"
    number = _ERRNO_BY_TEXT.get(line.rpartition(": ")[2])
    if number is None:
        raise Violation(f"a program failed: {line}")
    return OSError(number, line)


def poll_statuses(context: Context, rng: random.Random) -> None:
    """Read the status of every task, finished and running."""
    for task in context.dataset.tasks:
        if (status := (context.mount / task.id / "status").read_text()) != "success\n":
            raise Violation(f"{task.id}: status {status!r}")
    for task_id in context.dataset.running:
        if (status := (context.mount / task_id / "status").read_text()) not in RUNNING_STATUSES:
            raise Violation(f"{task_id}: status {status!r}")


def list_tasks(context: Context, rng: random.Random) -> None:
    """List the mountpoint: every task must be there."""
    _check_listed(context, set(os.listdir(context.mount)))


def list_view(context: Context, rng: random.Random) -> None:
    """List a view: every finished task must be there."""
    if rng.randrange(2):
        _check_listed(context, set(os.listdir(context.mount / ".by-status/success")))
        return
    count = len(context.dataset.tasks) + len(context.dataset.others)
    names = os.listdir(context.mount / ".by-date")
    if len(names) < count - 1:  # another reader may remove one meanwhile
        raise ShortListing(f"{len(names)} tasks in .by-date, not {count}")


def _check_listed(context: Context, names: set[str]) -> None:
    listed = [*(task.id for task in context.dataset.tasks), *context.dataset.others]
    missing = [task_id for task_id in listed if task_id not in names]
    if missing:
        raise ShortListing(f"{len(names)} tasks listed, without {missing[0]}")


def remove_task(context: Context, rng: random.Random) -> None:
    """Remove a task that no reader opens."""
    context.dataset.remove_other()


def kill(context: Context, rng: random.Random) -> None:
    """Kill a new task; the API must have received the request if the write succeeds."""
    task_id = context.dataset.start_task()
    with open(context.mount / task_id / "kill", "wb", buffering=0) as opened:
        opened.write(b"1")
    if task_id not in context.dataset.cloud.killed:
        raise Violation(f"{task_id}: the write succeeded, but the API received no kill")


def refresh(context: Context, rng: random.Random) -> None:
    """Drop the caches through `.taskfs/refresh`."""
    (context.mount / ".taskfs/refresh").write_text("1")


def look_up(context: Context, rng: random.Random) -> None:
    """Read the statistics, and look up a name that does not exist."""
    (context.mount / ".taskfs/stats.json").read_bytes()
    task, _ = _pick(context, rng)
    try:
        (context.path(task) / "no such file").stat()
    except FileNotFoundError:
        return
    raise Violation("a name that does not exist was found")


Action = Callable[[Context, random.Random], None]
# Every action with its relative frequency.
ACTIONS: Final[dict[Action, int]] = {
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
    list_view: 2,
    remove_task: 1,
    kill: 1,
    refresh: 1,
    look_up: 3,
}
