"""The memory of this process, and `PrivateMemory`: how far it is beyond its limit."""

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from taskfs.support.buffers import trim_pools
from taskfs.support.fallback import log_fallback

STATM: Final = "/proc/self/statm"  # proc(5); Linux only
# Seconds between two measurements. One takes 20 µs; a fast reader fills 50 MB in this time at most.
INTERVAL_S: Final = 0.1
# Each bound is divided by this while memory is tight.
SHRINK: Final = 4


def read_statm() -> tuple[int, int]:
    """Return the bytes of memory of this process, and how many of them files back: proc(5).

    Raises:
        OSError: the system does not tell.
    """
    with open(STATM, encoding="ascii") as statm:
        _, resident, shared, *_ = map(int, statm.read().split())
    page = resource.getpagesize()
    return resident * page, shared * page


class MemoryLimit(ABC):
    """How far the memory of this process is beyond a limit."""

    is_tight = False

    def bound(self, total: int) -> int:
        """Return *total*, or one SHRINK-th of it while memory is tight."""
        return total // SHRINK if self.is_tight else total

    @abstractmethod
    def take_excess(self) -> int:
        """Return the bytes beyond the limit, which the caller frees."""


class UnlimitedMemory(MemoryLimit):
    """The memory of a process that may take any amount of it."""

    def take_excess(self) -> int:
        """Return 0."""
        return 0


class PrivateMemory(MemoryLimit):
    """Compares the private memory of this process with *target_bytes*.

    Private memory is memory that no file backs: objects, buffers, stacks. Safe for concurrent use:
    two threads that measure at once both report the excess.
    """

    def __init__(self, target_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._target_bytes = target_bytes
        self._clock = clock
        self._measured_s = float("-inf")
        self.is_tight = False  # whether the last measurement was beyond the target

    def take_excess(self) -> int:
        """Free pooled buffers, and return the bytes beyond the target, which the caller frees.

        Return 0 if there are none, within INTERVAL_S of the last measurement, and on a system that
        does not tell.
        """
        now = self._clock()
        if now - self._measured_s < INTERVAL_S:
            return 0
        self._measured_s = now
        try:
            resident, backed = read_statm()
        except OSError as exc:
            log_fallback(STATM, exc)
            self._measured_s = float("inf")
            return 0
        excess = resident - backed - self._target_bytes
        self.is_tight = excess > 0
        if not self.is_tight:
            return 0
        trim_pools()
        return excess
