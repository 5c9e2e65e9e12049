"""Memory, threads and open files of a process, from /proc."""

from __future__ import annotations

import errno
import os
import statistics
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SAMPLE_S: Final = 0.25  # seconds between two samples of the memory


@dataclass(frozen=True)
class Usage:
    """Resources of one process at one moment; its private memory (RssAnon) in bytes."""

    private: int
    threads: int
    descriptors: int


def usage_of(pid: int) -> Usage:
    """Return the resources of a process now; raise OSError if the process has ended."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    if "RssAnon" not in fields:
        raise ProcessLookupError(errno.ESRCH, f"process {pid} is exiting")
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(int(fields["RssAnon"][0]) << 10, int(fields["Threads"][0]), descriptors)


class MemorySampler:
    """Samples the private memory of a process from its own thread, until `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)
        self.memory: list[int] = []
        self._first_sample = 0  # index of the current process's first sample in `memory`

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def follow(self, pid: int) -> None:
        """Sample another process from now on."""
        self._first_sample, self._pid = len(self.memory), pid

    def _run(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            try:
                self.memory.append(usage_of(self._pid).private)
            except OSError:
                continue  # the process ended: killed by the test, or a reader reports ENOTCONN

    def growth(self) -> tuple[int, int]:
        """Return the median memory in the second and in the last quarter of the current process's
        samples."""
        memory = self.memory[self._first_sample :] or self.memory
        quarter = max(1, len(memory) // 4)
        second = memory[quarter : 2 * quarter] or memory
        return int(statistics.median(second)), int(statistics.median(memory[-quarter:]))
