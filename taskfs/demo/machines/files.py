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


class FileSource(Protocol):
    """A directory of files. Names are relative, parts joined by `/`; a directory's end in `/`."""

    def names(self) -> list[str] | None:
        """Return the names in the order of a listing, None while there is no directory."""

    def read(self, name: str) -> bytes | None:
        """Return all bytes of a file, None where there is none of that name."""

    def mtime(self, name: str) -> float:
        """Return when the file was last written, in Unix seconds."""


class WrittenFiles:
    """Files that a test writes. Safe for concurrent use: the lock guards the table."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._files: dict[str, tuple[bytes, float]] | None = {}

    def write(self, name: str, content: bytes) -> None:
        """Make a file, or replace its content; a name that ends in `/` makes a directory."""
        with self._lock:
            files = self._files = {} if self._files is None else self._files
            files[name] = (content, self._clock())

    def append(self, name: str, content: bytes) -> None:
        """Add to the end of a file; make it where there is none."""
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
    """A computation: between which Unix times it writes, and which part of it is computed."""

    task_id: str
    simulator: str
    begin: float
    end: float
    done: float


class GrowingFiles:
    """The files of a run so far: the texts of its archive up to the line that is written now.

    So each file is a beginning of the archive's member of the same name.
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
    """Return how many lines of a text are written; errors are written at the end alone."""
    if name == "stderr.txt":
        return count if progress >= 1.0 else 0
    return int(count * progress)


def machine_path(task_id: str, name: str) -> str:
    """Return the absolute path on the machine of a file in the task's output directory."""
    return f"{_MACHINE_DIRECTORY}/{task_id}/output/artifacts/{name}"
