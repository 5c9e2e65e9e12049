"""Scripted faults of a machine: how it answers a question wrongly or not at all."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Final

KINDS: Final = (
    "silence",  # no answer
    "late",  # the answer comes after *seconds*, or once `released` is set
    "nonsense",  # *text* in place of the answer
    "goodbye",  # the connection is closed cleanly, without an answer
    "vanish",  # the connection is lost without a close message
    "oversize",  # the answer has *size* more bytes and ignores the client's size limit
)


@dataclass(eq=False)
class MachineFault:
    """A fault for *times* questions (None: until `clear`), after the first *skip* ones."""

    kind: str
    question: str | None = None
    times: int | None = 1
    skip: int = 0
    seconds: float = 0.0
    text: str = ""
    size: int = 0
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event)


class MachineFaults:
    """The script: the first fault that matches a question applies. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[MachineFault] = []

    def add(self, kind: str, question: str | None = None, **options: Any) -> MachineFault:
        """Add a fault of one of `KINDS` for questions of one type, or of all types."""
        assert kind in KINDS, f"unknown fault {kind}, not one of {', '.join(KINDS)}"
        fault = MachineFault(kind, question, **options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, question: str) -> MachineFault | None:
        """Return the fault for a question of this type, and count the question."""
        with self._lock:
            for fault in self._faults:
                if fault.times == 0 or fault.question not in (None, question):
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                if fault.times is not None:
                    fault.times -= 1
                fault.hits += 1
                return fault
        return None
