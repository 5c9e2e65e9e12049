"""The daemon as /proc shows it: memory, threads, open files."""

from __future__ import annotations

import errno
import os
import statistics
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SAMPLE_S: Final = 0.25


@dataclass(frozen=True)
class Usage:
    """What one process holds at one moment; memory in bytes."""

    rss: int
    threads: int
    descriptors: int


def usage_of(pid: int) -> Usage:
    """Return what a process holds now.

    Raises:
        OSError: it has ended.
    """
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.split()
    if "VmRSS" not in fields:
        raise ProcessLookupError(errno.ESRCH, f"{pid} is ending")
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Usage(int(fields["VmRSS"][0]) << 10, int(fields["Threads"][0]), descriptors)


class Watch:
    """Looks at a process again and again, from a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.memory: list[int] = []
        self._since = 0  # where the samples of the present process begin

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def follow(self, pid: int) -> None:
        """Look at another process from now on."""
        self._since, self._pid = len(self.memory), pid

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            try:
                self.memory.append(usage_of(self._pid).rss)
            except OSError:
                continue  # it has ended; a reader reports that, unless it was killed on purpose

    def growth(self) -> tuple[int, int]:
        """Return the median of the memory in the second and in the last quarter of the time that
        the present process was looked at."""
        memory = self.memory[self._since :] or self.memory
        quarter = max(1, len(memory) // 4)
        second = memory[quarter : 2 * quarter] or memory
        return int(statistics.median(second)), int(statistics.median(memory[-quarter:]))
