"""Faults of a machine by script: what happens to a question in place of its answer."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final

KINDS: Final = (
    "silence",  # no answer
    "late",  # the answer comes after *seconds*
    "nonsense",  # *text* in place of the answer
    "goodbye",  # the connection is closed in good order in place of the answer
    "vanish",  # the connection is gone without a word
    "oversize",  # the answer comes whatever size was announced, with *size* more bytes
)


@dataclass(eq=False)
class MachineFault:
    """One line of the script. *times* None is until `clear`; *skip* questions are spared first."""

    kind: str
    question: str | None = None
    times: int | None = 1
    skip: int = 0
    seconds: float = 0.0
    text: str = ""
    size: int = 0
    hits: int = 0


class MachineFaults:
    """The script: the first fault that takes a question decides. Safe for concurrent use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[MachineFault] = []

    def add(self, kind: str, question: str | None = None, **options: Any) -> MachineFault:
        """Add a fault of one of `KINDS` for questions of a type, or for all."""
        assert kind in KINDS, f"unknown fault {kind}, not one of {', '.join(KINDS)}"
        fault = MachineFault(kind, question, **options)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def take(self, question: str) -> MachineFault | None:
        """Return the fault that hits a question of this type, and count it."""
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
