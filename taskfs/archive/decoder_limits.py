"""Bounds on what the decoders of all members together may hold."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

TOTAL_CHECKPOINTS: Final = 384  # of all members: about 40 KB each
MAX_IDLE: Final = 16


class Evictable(Protocol):
    """A decoder of one member, with what it keeps to start again from."""

    @property
    def is_costly(self) -> bool:
        """Whether it holds checkpoints."""
        ...

    def forget(self) -> None:
        """Let go of the checkpoints and of what nobody drives."""
        ...


class CheckpointBudget:
    """Bounds the checkpoints of all members: the member unused for longest gives up its own.

    Safe for concurrent use; it calls `forget` of a member without holding its own lock.
    """

    def __init__(self, total: int = TOTAL_CHECKPOINTS) -> None:
        self._total = total
        self._lock = threading.Lock()
        self._counts: OrderedDict[Evictable, int] = OrderedDict()

    def note(self, inflater: Evictable, count: int) -> None:
        """*inflater* was used and holds *count* checkpoints now."""
        crowded = []
        with self._lock:
            self._counts[inflater] = count
            self._counts.move_to_end(inflater)
            while sum(self._counts.values()) > self._total and len(self._counts) > 1:
                crowded.append(self._counts.popitem(last=False)[0])
        for other in crowded:
            other.forget()

    def unregister(self, inflater: Evictable) -> None:
        """*inflater* is gone."""
        with self._lock:
            self._counts.pop(inflater, None)


class IdleDecoderCache:
    """The decoders that no open file uses: a few stay for who opens their members again.

    Those with checkpoints, which cost most to make, stay longest. Safe for concurrent use.
    """

    def __init__(self, most: int = MAX_IDLE) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._forget: dict[Evictable, Callable[[], None]] = {}

    def take(self, inflater: Evictable) -> None:
        """*inflater* is in use."""
        with self._lock:
            self._forget.pop(inflater, None)

    def keep(self, inflater: Evictable, forget: Callable[[], None]) -> None:
        """*inflater* is in use no more; *forget* is called once there is no room for it."""
        with self._lock:
            self._forget[inflater] = forget
            if len(self._forget) <= self._most:
                return
            plain = (each for each in self._forget if not each.is_costly)
            crowded = self._forget.pop(next(plain, next(iter(self._forget))))
        crowded()
