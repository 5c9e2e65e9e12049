"""Trouble: what goes wrong on the wire, on the disk and with the store, at random moments."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from .world import World, damage_cache

Options = dict[str, Any]


def _status(rng: random.Random) -> Options:
    asked: Options = {"status": rng.choice([429, 500, 502, 503, 504, 507, *range(520, 528), 598])}
    if rng.randrange(3) == 0:
        asked["retry_after"] = rng.choice([0, 0.5, 1])
    return asked


def _cut(rng: random.Random) -> Options:
    return {"after_bytes": rng.choice([0, 1, 1000, 65_536, 300_000])}


def _foreign_404(rng: random.Random) -> Options:
    content, content_type = rng.choice(
        [
            (b"default backend - 404", "text/plain"),
            (b"<html>404 Not Found</html>", "text/html"),
            (b"", "text/plain"),
            (b"<Error><Code>NoSuchBucket</Code></Error>", "application/xml"),
        ]
    )
    return {"content": content, "content_type": content_type, "status": 404}


class Row(NamedTuple):
    """One thing that may happen to a request: a kind of `tests.fake_api`, its options, its sides.

    The options may be drawn at random; `is_long` lasts for many requests."""

    kind: str
    options: Callable[[random.Random], Options]
    sides: tuple[str, ...] = ("store", "api")
    is_long: bool = False


STORE: Final = ("store",)
# Faults of any request; each is survived, or refused by an errno of docs/semantics.md.
WIRE: Final[dict[str, Row]] = {
    "status": Row("status", _status),
    "reset": Row("reset", lambda rng: rng.choice([{}, _cut(rng)])),
    "short": Row("short", _cut),
    "long": Row("long", lambda rng: {}, STORE),
    "stall": Row(
        "stall", lambda rng: {"seconds": rng.uniform(0.1, 4), **rng.choice([{}, _cut(rng)])}
    ),
    "whole": Row("whole", lambda rng: {}, STORE),
    "header": Row(
        "header",
        lambda rng: {
            "name": "Content-Range",
            "value": rng.choice([None, "bytes 0-9/10", "bytes 5-1/9", "nonsense"]),
        },
        STORE,
    ),
    "HTML 200": Row("html", lambda rng: {}),
    "body": Row("body", lambda rng: {"content": b"[{]"}),
    "foreign 404": Row("body", _foreign_404),
    "early hints": Row("hints", lambda rng: {}),
    "weak tags in turn": Row(
        "tag", lambda rng: {"forms": ["strong", "weak", "absent"]}, STORE, is_long=True
    ),
    "capped answers": Row("capped", lambda rng: {"most": 50_000}, STORE, is_long=True),
    "no suffix ranges": Row(
        "no suffix", lambda rng: {"how": rng.choice([416, 501, "prefix"])}, STORE, is_long=True
    ),
}


class Trouble:
    """Makes trouble until told to stop, from one thread; `counts` says what."""

    def __init__(self, world: World, cache: Path, rng: random.Random, pause_s: float) -> None:
        self._world = world
        self._cache = cache
        self._rng = rng
        self._pause_s = pause_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trouble", daemon=True)
        self.counts: Counter[str] = Counter()
        self._faults: list[tuple[str, Any]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Make no more, and take back what is still to come."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self._world.cloud.faults.clear()
        for name, fault in self._faults:
            self.counts[f"wire: {name}"] += fault.hits
        self._faults.clear()

    def _run(self) -> None:
        rng = self._rng
        while not self._ended.wait(rng.uniform(0, 2 * self._pause_s)):
            kind = rng.random()
            if kind < 0.8:
                self._on_the_wire()
            elif kind < 0.86:
                self._flip()
            elif kind < 0.9:
                self.counts[damage_cache(self._cache, rng)] += 1
            elif kind < 0.93:
                self._world.replace(rng.choice([p for p in self._world.places if p.is_replaced]))
                self.counts["archive replaced"] += 1
            elif kind < 0.96:
                rng.choice([self._world.cloud.expire_urls, self._world.cloud.revoke_urls])()
                self.counts["signed URLs expired or revoked"] += 1
            else:
                self._go_away()

    def _on_the_wire(self) -> None:
        rng, name = self._rng, self._rng.choice(list(WIRE))
        row = WIRE[name]
        fault = self._world.cloud.faults.add(
            row.kind,
            side=rng.choice(row.sides),
            times=rng.choice([10, 30] if row.is_long else [1, 1, 1, 2, 3]),
            **row.options(rng),
        )
        self._faults.append((name, fault))

    def _flip(self) -> None:
        place = self._rng.choice([place for place in self._world.places if place.is_checked])
        at = self._rng.randrange(place.members_stop)
        fault = self._world.cloud.faults.add(
            "flip", side="store", path=place.task, times=self._rng.choice([1, 2, 5]), at=at
        )
        self._faults.append(("flip", fault))

    def _go_away(self) -> None:
        """Let nobody answer for a moment."""
        self._world.cloud.pause(self._rng.choice([None, "api", "store"]))
        self._ended.wait(self._rng.uniform(0.2, 3))
        self._world.cloud.resume()
        self.counts["connections refused for a while"] += 1
