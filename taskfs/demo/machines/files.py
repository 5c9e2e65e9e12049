"""The files in the output directory of a running task, in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from taskfs.demo.results import SIMULATORS, frame_count, text_outputs

Clock = Callable[[], float]
_MACHINE_DIRECTORY: Final = "/workdir"


class OutputFiles(Protocol):
    """A directory of files. Names are relative paths; the name of a directory ends in `/`."""

    def names(self) -> list[str] | None:
        """Return the names in listing order; None if the directory does not exist."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it does not exist."""

    def mtime(self, name: str) -> float:
        """Return the Unix time of the last write to the file."""


class WrittenFiles:
    """Files that a test writes. Safe for concurrent use: the lock guards the table."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, float]] | None = {}

    def write(self, name: str, content: bytes) -> None:
        """Create or replace a file, or a directory if the name ends in `/`."""
        with self._lock:
            files = self._files = {} if self._files is None else self._files
            files[name] = (content, self._clock())

    def append(self, name: str, content: bytes) -> None:
        """Append to a file; create it first if needed."""
        with self._lock:
            files = self._files = {} if self._files is None else self._files
            before, _ = files.get(name, (b"", 0.0))
            files[name] = (before + content, self._clock())

    def remove(self, name: str) -> None:
        """Remove a file. Raises KeyError."""
        with self._lock:
            if self._files is not None:
                del self._files[name]

    def remove_directory(self) -> None:
        """Remove the whole directory, as the machine does after the task's end."""
        with self._lock:
            self._files = None

    def names(self) -> list[str] | None:
        with self._lock:
            return None if self._files is None else list(self._files)

    def read(self, name: str) -> bytes | None:
        with self._lock:
            found = (self._files or {}).get(name)
            return found and found[0]

    def mtime(self, name: str) -> float:
        with self._lock:
            return (self._files or {})[name][1]


@dataclass(frozen=True, slots=True)
class Run:
    """A computation: the Unix times between which it writes, and the computed fraction."""

    task_id: str
    simulator: str
    begin: float
    end: float
    done: float


class GrowingFiles:
    """The files of a run up to the current time.

    The content of each file is a prefix of the archive's member of the same name.
    """

    def __init__(self, run: Run, clock: Clock) -> None:
        self._run = run
        self._clock = clock
        self._texts = {
            name: content.splitlines(keepends=True)
            for name, content in text_outputs(run.task_id, run.simulator, run.done).items()
        }
        self._frames = frame_count(run.done)

    def _progress(self) -> float:
        duration = max(self._run.end - self._run.begin, 1e-9)
        return min(1.0, max(0.0, (self._clock() - self._run.begin) / duration))

    def names(self) -> list[str] | None:
        frames = int(self._frames * self._progress())
        frame = SIMULATORS[self._run.simulator].frame
        return [*self._texts, *(f"vtk/{frame}_{number}.vtk" for number in range(1, frames + 1))]

    def read(self, name: str) -> bytes | None:
        progress = self._progress()
        if name in self._texts:
            lines = self._texts[name]
            return b"".join(lines[: _written(len(lines), name, progress)])
        if name not in (self.names() or []):
            return None
        number = int(name.rpartition("_")[2].removesuffix(".vtk"))
        return SIMULATORS[self._run.simulator].draw(Random(self._run.task_id), number / 20)

    def mtime(self, name: str) -> float:
        if name not in self._texts:
            number = int(name.rpartition("_")[2].removesuffix(".vtk"))
            return self._run.begin + (self._run.end - self._run.begin) * number / self._frames
        count = len(self._texts[name])
        if count == 0:
            return self._run.begin
        written = _written(count, name, self._progress())
        return self._run.begin + (self._run.end - self._run.begin) * written / count


def _written(count: int, name: str, progress: float) -> int:
    """Return the number of lines written so far; stderr is written only at the end."""
    if name == "stderr.txt":
        return count if progress >= 1.0 else 0
    return int(count * progress)


def machine_path(task_id: str, name: str) -> str:
    """Return the absolute path on the machine of a file in the task's output directory."""
    return f"{_MACHINE_DIRECTORY}/{task_id}/output/artifacts/{name}"
