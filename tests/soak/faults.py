"""Random faults: on the wire, in the cache directory and in the store."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from .dataset import Dataset, damage_cache

Options = dict[str, Any]


def _status(rng: random.Random) -> Options:
    options: Options = {"status": rng.choice([429, 500, 502, 503, 504, 507, *range(520, 528), 598])}
    if rng.randrange(3) == 0:
        options["retry_after"] = rng.choice([0, 0.5, 1])
    return options


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


class WireFault(NamedTuple):
    """One fault of the table: its kind in `tests.fake_api`, its random options, the sides it hits.

    *is_long*: the fault hits 10 or 30 requests instead of at most 3.
    """

    kind: str
    options: Callable[[random.Random], Options]
    sides: tuple[str, ...] = ("store", "api")
    is_long: bool = False


STORE: Final = ("store",)
# taskfs must hide each of these from readers, or answer one of `ALLOWED_ERRNOS`.
WIRE: Final[dict[str, WireFault]] = {
    "status": WireFault("status", _status),
    "reset": WireFault("reset", lambda rng: rng.choice([{}, _cut(rng)])),
    "short": WireFault("short", _cut),
    "long": WireFault("long", lambda rng: {}, STORE),
    "stall": WireFault(
        "stall", lambda rng: {"seconds": rng.uniform(0.1, 4), **rng.choice([{}, _cut(rng)])}
    ),
    "whole": WireFault("whole", lambda rng: {}, STORE),
    "header": WireFault(
        "header",
        lambda rng: {
            "name": "Content-Range",
            "value": rng.choice([None, "bytes 0-9/10", "bytes 5-1/9", "nonsense"]),
        },
        STORE,
    ),
    "HTML 200": WireFault("html", lambda rng: {}),
    "body": WireFault("body", lambda rng: {"content": b"[{]"}),
    "foreign 404": WireFault("body", _foreign_404),
    "early hints": WireFault("hints", lambda rng: {}),
    "weak tags in turn": WireFault(
        "tag", lambda rng: {"forms": ["strong", "weak", "absent"]}, STORE, is_long=True
    ),
    "capped answers": WireFault("capped", lambda rng: {"most": 50_000}, STORE, is_long=True),
    "no suffix ranges": WireFault(
        "no suffix", lambda rng: {"how": rng.choice([416, 501, "prefix"])}, STORE, is_long=True
    ),
}


class FaultInjector:
    """Injects random faults from its own thread until `stop`; `counts` has the number of each.

    `failure` is the error that ended the thread early, or None.
    """

    def __init__(self, dataset: Dataset, cache: Path, rng: random.Random, pause_s: float) -> None:
        self._dataset = dataset
        self._cache = cache
        self._rng = rng
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)
        self.counts: Counter[str] = Counter()
        self.failure: Exception | None = None
        self._faults: list[tuple[str, Any]] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop injecting, and withdraw the faults that have not hit yet."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._dataset.cloud.faults.clear()
        for name, fault in self._faults:
            self.counts[f"wire: {name}"] += fault.hits
        self._faults.clear()

    def _run(self) -> None:
        try:
            self._inject()
        except Exception as exc:
            self.failure = exc

    def _inject(self) -> None:
        rng = self._rng
        while not self._stopped.wait(rng.uniform(0, 2 * self._pause_s)):
            kind = rng.random()
            if kind < 0.8:
                self._on_the_wire()
            elif kind < 0.86:
                self._flip()
            elif kind < 0.9:
                self.counts[damage_cache(self._cache, rng)] += 1
            elif kind < 0.93:
                self._dataset.replace(rng.choice([t for t in self._dataset.tasks if t.is_replaced]))
                self.counts["archive replaced"] += 1
            elif kind < 0.96:
                rng.choice([self._dataset.cloud.expire_urls, self._dataset.cloud.revoke_urls])()
                self.counts["signed URLs expired or revoked"] += 1
            else:
                self._pause_cloud()

    def _on_the_wire(self) -> None:
        rng, name = self._rng, self._rng.choice(list(WIRE))
        row = WIRE[name]
        fault = self._dataset.cloud.faults.add(
            row.kind,
            side=rng.choice(row.sides),
            times=rng.choice([10, 30] if row.is_long else [1, 1, 1, 2, 3]),
            **row.options(rng),
        )
        self._faults.append((name, fault))

    def _flip(self) -> None:
        task = self._rng.choice([task for task in self._dataset.tasks if task.is_damaged])
        at = self._rng.randrange(task.members_stop)
        fault = self._dataset.cloud.faults.add(
            "flip", side="store", path=task.id, times=self._rng.choice([1, 2, 5]), at=at
        )
        self._faults.append(("flip", fault))

    def _pause_cloud(self) -> None:
        """Refuse connections to the API, the store or both for up to 3 seconds."""
        self._dataset.cloud.pause(self._rng.choice([None, "api", "store"]))
        self._stopped.wait(self._rng.uniform(0.2, 3))
        self._dataset.cloud.resume()
        self.counts["connections refused for a while"] += 1
