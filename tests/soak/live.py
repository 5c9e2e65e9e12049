"""Running tasks for the soak test: their logs grow, they end, and their archives arrive."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.outputs import put_outputs

from .readers import Action, Context, Violation

RUNNING: Final = 4  # tasks at a time
# Seconds that a task runs, drawn from this range.
LIFETIME_S: Final = (8.0, 25.0)
# Seconds after the end of a task until its archive is there, drawn from this range.
ARCHIVE_S: Final = (0.0, 4.0)
STEP_S: Final = 0.1  # seconds between two additions to the files
FAULTY: Final = 0.01  # probability of a fault in each step
# Bytes after which a file does not grow any more.
MAX_SIZE: Final = 400_000
# The first is written in whole lines, as the task runner does; the other ends anywhere.
FILES: Final = ("stdout.txt", "log/solver.log")


@dataclass(eq=False)
class RunningTask:
    """One running task and all that was written to its files. They only grow."""

    id: str
    ends_s: float
    content: dict[str, bytearray] = field(default_factory=lambda: {n: bytearray() for n in FILES})
    # When each file had which size on the machine.
    sizes: list[tuple[float, str, int]] = field(default_factory=list)
    has_ended: bool = False
    archive_due_s: float = float("inf")
    has_archive: bool = False


class RunningTasks:
    """Keeps `RUNNING` tasks running. One thread writes; readers look at what was written."""

    def __init__(self, cloud: FakeCloud, rng: random.Random) -> None:
        self._cloud = cloud
        self._rng = rng
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="running-tasks", daemon=True)
        self.tasks = [self._start() for _ in range(RUNNING)]
        self.faults = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End all tasks, and have all archives there."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        for task in self.tasks:
            if not task.has_ended:
                self._end(task)
            if not task.has_archive:
                self._archive(task)

    def _start(self) -> RunningTask:
        task_id = self._cloud.add_task(status="computation-started")
        task = RunningTask(task_id, time.monotonic() + self._rng.uniform(*LIFETIME_S))
        for name in FILES:
            self._cloud.machine_files(task_id).write(name, b"")
            self._grow(task, name)
        return task

    def _run(self) -> None:
        while not self._stopped.wait(STEP_S):
            now = time.monotonic()
            for task in list(self.tasks):
                if not task.has_ended and now >= task.ends_s:
                    self._end(task)
                    self.tasks.append(self._start())
                elif not task.has_ended:
                    self._grow(task, self._rng.choice(FILES))
                    self._disturb(task)
                elif not task.has_archive and now >= task.archive_due_s:
                    self._archive(task)

    def _grow(self, task: RunningTask, name: str) -> None:
        content = task.content[name]
        if len(content) > MAX_SIZE:
            return
        lines = [
            b"%d: residual %.6f \xe2\x9c\x93\n" % (len(content) + n, self._rng.random())
            for n in range(self._rng.choice([1, 1, 3, 40]))
        ]
        piece = b"".join(lines)
        if name != FILES[0]:
            piece = piece[: self._rng.randrange(1, len(piece))]
            piece = piece.decode("utf-8", "ignore").encode()  # no half characters
        content += piece  # before the machine has it: a reader may see it at once
        self._cloud.machine_files(task.id).append(name, piece)
        task.sizes.append((time.monotonic(), name, len(content)))

    def _disturb(self, task: RunningTask) -> None:
        if self._rng.random() >= FAULTY:
            return
        self.faults += 1
        kind = self._rng.choice(["goodbye", "late", "hang up"])
        if kind == "hang up":
            self._cloud.hang_up(task.id)
        else:
            self._cloud.machine(task.id).faults.add(kind, seconds=0.7)

    def _end(self, task: RunningTask) -> None:
        task.has_ended = True
        self._cloud.set_status(task.id, "success")
        self._cloud.machine_files(task.id).remove_directory()
        self._cloud.hang_up(task.id)
        task.archive_due_s = time.monotonic() + self._rng.uniform(*ARCHIVE_S)

    def _archive(self, task: RunningTask) -> None:
        put_outputs(self._cloud, task.id, {n: bytes(body) for n, body in task.content.items()})
        task.has_archive = True

    def pick(self, rng: random.Random) -> RunningTask:
        """Return a running task, or one that ended just now."""
        return rng.choice(self.tasks[-RUNNING - 1 :])

    @property
    def open_connections(self) -> int:
        """The connections to machines that are open."""
        return sum(self._cloud.machine(task.id).open_connections for task in self.tasks)

    def check_afterwards(self, mount: Path) -> list[str]:
        """Return what is wrong with the outputs of the tasks that have ended."""
        wrong = []
        for task in self.tasks:
            for name, body in task.content.items():
                if (mount / task.id / "outputs" / name).read_bytes() != body:
                    wrong.append(f"{task.id} {name}: differs from what its machine wrote")
        return wrong


def _least(task: RunningTask, name: str) -> int:
    """Return how many bytes a read that begins now must return at least.

    An answer of the machine is valid for 0.5 s, and the last newline of a file may be unknown.
    """
    known_s = time.monotonic() - 0.6
    sizes = [size for at_s, other, size in list(task.sizes) if other == name and at_s <= known_s]
    return max(sizes, default=1) - 1


def _check(task: RunningTask, name: str, seen: bytes, least: int) -> None:
    """Fail unless *seen* is the beginning of the file, of at least *least* bytes."""
    written = bytes(task.content[name])
    if not written.startswith(seen):
        raise Violation(f"live {task.id} {name}: {len(seen)} bytes that are not in the file")
    if len(seen) < least and not task.has_ended:
        raise Violation(f"live {task.id} {name}: {len(seen)} bytes of at least {least}")


@contextlib.contextmanager
def _never_stale(task: RunningTask) -> Iterator[None]:
    """Turn ESTALE into a violation, because files of running tasks only grow, and let a file be
    missing once its task has ended."""
    try:
        yield
    except FileNotFoundError:
        if not task.has_ended:
            raise
    except OSError as exc:
        if exc.errno == errno.ESTALE:
            raise Violation(f"live {task.id}: {exc}") from exc
        raise


def read_live(context: Context, rng: random.Random) -> None:
    """Read a file of a running task from start to end."""
    task, name = context.running.pick(rng), rng.choice(FILES)
    least = _least(task, name)
    with _never_stale(task):
        _check(task, name, (context.mount / task.id / "live" / name).read_bytes(), least)


def list_live(context: Context, rng: random.Random) -> None:
    """List the files of a running task."""
    task = context.running.pick(rng)
    names = sorted(os.listdir(context.mount / task.id / "live"))
    if names != ["log", "stdout.txt"] and not (task.has_ended and names == []):
        raise Violation(f"live {task.id}: lists {names}")


def follow_live(context: Context, rng: random.Random) -> None:
    """Follow a file for some seconds, also over the end of its task."""
    task, name = context.running.pick(rng), rng.choice(FILES)
    with _never_stale(task):
        descriptor = os.open(context.mount / task.id / "live" / name, os.O_RDONLY)
        try:
            _follow(task, name, descriptor, time.monotonic() + rng.uniform(2.0, 6.0))
        finally:
            os.close(descriptor)


def _follow(task: RunningTask, name: str, descriptor: int, until_s: float) -> None:
    seen = b""
    while time.monotonic() < until_s:
        size = os.fstat(descriptor).st_size
        while piece := os.pread(descriptor, 128 << 10, len(seen)):
            seen += piece
        if size > len(seen):
            raise Violation(f"live {task.id} {name}: {len(seen)} bytes, and fstat says {size}")
        _check(task, name, seen, 0)
        time.sleep(0.4)
    least = _least(task, name)
    while piece := os.pread(descriptor, 128 << 10, len(seen)):
        seen += piece
    _check(task, name, seen, least)


LIVE_ACTIONS: Final[dict[Action, int]] = {read_live: 12, follow_live: 6, list_live: 4}
