"""Bounds on what the decoders of all members together may hold."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from taskfs.support.private_memory import MemoryLimit, UnlimitedMemory

# Checkpoints of all members together: about 54 KB each, so 20 MB at most.
TOTAL_CHECKPOINTS: Final = 384
# Decoders that are kept while no file of theirs is open.
MAX_IDLE: Final = 16


class CheckpointHolder(Protocol):
    """A decoder whose checkpoints can be dropped and made again."""

    def forget(self) -> None:
        """Drop the checkpoints and the idle cursors."""
        ...


class IdleDecoder(Protocol):
    """A decoder that may hold checkpoints."""

    @property
    def checkpoint_count(self) -> int:
        """How many checkpoints it holds."""
        ...


class CheckpointBudget:
    """Bounds the checkpoints of all members: the least recently used decoder drops its own.

    A quarter of *total* is kept while *memory* is tight. Safe for concurrent use; it calls `forget`
    of a decoder without holding its own lock.
    """

    def __init__(self, total: int, memory: MemoryLimit | None = None) -> None:
        self._total = total
        self._memory = memory or UnlimitedMemory()
        self._lock = threading.Lock()
        self._counts: OrderedDict[CheckpointHolder, int] = OrderedDict()

    def note(self, decoder: CheckpointHolder, count: int) -> None:
        """Note that *decoder* was used and holds *count* checkpoints now."""
        evicted = []
        total = self._memory.bound(self._total)
        with self._lock:
            self._counts[decoder] = count
            self._counts.move_to_end(decoder)
            while sum(self._counts.values()) > total and len(self._counts) > 1:
                evicted.append(self._counts.popitem(last=False)[0])
        for other in evicted:
            other.forget()

    def unregister(self, decoder: CheckpointHolder) -> None:
        """Note that *decoder* was closed."""
        with self._lock:
            self._counts.pop(decoder, None)


class IdleDecoderCache:
    """Keeps a few decoders whose files are closed, for programs that open the members again.

    Those with checkpoints cost most to make and are evicted last. Safe for concurrent use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._evict: dict[IdleDecoder, Callable[[], None]] = {}

    def remove(self, decoder: IdleDecoder) -> None:
        """Note that *decoder* is in use again."""
        with self._lock:
            self._evict.pop(decoder, None)

    def add(self, decoder: IdleDecoder, evict: Callable[[], None]) -> None:
        """Keep *decoder*, which is not in use; call *evict* when others replace it."""
        with self._lock:
            self._evict[decoder] = evict
            if len(self._evict) <= MAX_IDLE:
                return
            plain = (each for each in self._evict if not each.checkpoint_count)
            evicted = self._evict.pop(next(plain, next(iter(self._evict))))
        evicted()
