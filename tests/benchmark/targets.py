"""The targets of the benchmark. A target is a row of `TARGETS`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from .report import Results
from .runs import Outcome
from .workloads import CAP

MB: Final = 1_000_000
MEMORY: Final = 160 * MB


@dataclass(frozen=True, slots=True)
class Measure:
    """One measured number and its limit; None if the peer to compare with did not run."""

    what: str
    value: float
    limit: float | None
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        if self.limit is None:
            return f"{self.what} {self.value:.4g} (no peer to compare with)"
        return f"{self.what} {self.value:.4g} {'>=' if self.at_least else '<='} {self.limit:.4g}"


Measures = Iterator[Measure]


@dataclass(frozen=True, slots=True)
class Target:
    """A target in words, and the measures of one workload that it bounds at one latency."""

    text: str
    workload: str
    measures: Callable[[Results, int], Measures]
    only_rtt: bool = False  # applies only with latency
    once: bool = False  # not one for each latency


def _bounds(outcome: Outcome | None, requests: int, sent: float) -> Measures:
    if outcome is not None:
        yield Measure("requests", outcome.requests, requests)
        yield Measure("MB", outcome.sent / MB, sent / MB)


def _api(outcome: Outcome | None) -> Measures:
    # Checking the key before the mount takes one more request: a listing of one page.
    if outcome is not None:
        yield Measure("API requests", outcome.api, 3)


def _against(
    results: Results, workload: str, index: int, rtt_ms: int, share: float, what: str = "s"
) -> Measures:
    mine, best = results.get(workload, index, rtt_ms), results.best_peer(workload, index, rtt_ms)
    if mine is not None:
        limit = best.seconds * share if best else None
        yield Measure(what, mine.seconds, limit)


def _first_look(workload: str, sent: float) -> Callable[[Results, int], Measures]:
    def measures(results: Results, rtt_ms: int) -> Measures:
        yield from _bounds(results.get(workload, 0, rtt_ms), 2, sent)
        yield from _api(results.get(workload, 0, rtt_ms))

    return measures


def _find(results: Results, rtt_ms: int) -> Measures:
    mine = results.get("find", 0, rtt_ms)
    if mine is not None:
        # 4.7 MB for a directory of 4.2 MB, in proportion at other scales.
        lower_bound = results.lower_bounds["find", mine.step].sent
        yield from _bounds(mine, 3, max(4.7 / 4.2 * lower_bound, 128 << 10))
        # Libraries do not walk a tree, so compare with mounts first.
        best = results.best_peer("find", 0, rtt_ms, mounts=True)
        yield Measure("s against mounts", mine.seconds, best.seconds if best else None)
    yield from _against(results, "find", 0, rtt_ms, 1.0, "s against all")


def _bytes(
    results: Results, workload: str, rtt_ms: int, share: float, indices: tuple[int, ...] = (0,)
) -> Measures:
    found = [results.get(workload, index, rtt_ms) for index in indices]
    sent = sum(o.sent for o in found if o)
    lower_bound = sum(results.lower_bounds[workload, o.step].sent for o in found if o)
    if all(found):
        yield Measure("x the lower bound's bytes", sent / lower_bound, share)


def _random(results: Results, rtt_ms: int) -> Measures:
    yield from _bytes(results, "random", rtt_ms, 1.06)
    yield from _against(results, "random", 0, rtt_ms, 0.6)
    for index, what in ((1, "s backwards"), (2, "s reopened")):
        if later := results.get("random", index, rtt_ms):
            yield Measure(what, later.seconds, 0.15)


def _cat(results: Results, rtt_ms: int) -> Measures:
    yield from _against(results, "cat", 0, rtt_ms, 0.62)
    if mine := results.get("cat", 0, rtt_ms):
        limit = results.inflate_s * 1.25 if results.inflate_s else None
        yield Measure("s against isal", mine.seconds, limit)
    yield from _bytes(results, "cat", rtt_ms, 1.02)


def _warm(results: Results, rtt_ms: int) -> Measures:
    if mine := results.get("cat", 1, rtt_ms):
        yield Measure("requests", mine.requests, 0)
    yield from _against(results, "cat", 1, rtt_ms, 0.25)


def _remount(results: Results, rtt_ms: int) -> Measures:
    if mine := results.get("remount", 1, rtt_ms):
        yield Measure("s to jump", mine.seconds, 0.15)
        yield Measure("requests", mine.requests, 0)
    if mine := results.get("remount", 2, rtt_ms):
        yield Measure("requests of cat", mine.requests, 0)
    yield from _against(results, "remount", 2, rtt_ms, 0.62, "s of cat")


def _parallel(results: Results, rtt_ms: int) -> Measures:
    yield from _bytes(results, "parallel", rtt_ms, 1.05)
    yield from _against(results, "parallel", 0, rtt_ms, 0.8)


def _starts(results: Results, rtt_ms: int) -> Measures:
    whole = results.get("starts", 0, rtt_ms)
    if whole is not None and results.mixed_bytes:
        yield Measure("of their bytes", whole.sent / results.mixed_bytes, 1 / 6)


def _capped(results: Results, rtt_ms: int) -> Measures:
    if mine := results.get("capped", 0, rtt_ms):
        rate = results.lower_bounds["capped", mine.step].sent / mine.seconds / CAP
        yield Measure("x one connection", rate, 3, at_least=True)


def _grep(results: Results, rtt_ms: int) -> Measures:
    if mine := results.get("grep", 0, rtt_ms):
        size = results.lower_bounds["grep", mine.step].sent
        yield Measure("requests", mine.requests, size / (4 << 20) + 10)


def _memory(results: Results, rtt_ms: int) -> Measures:
    for workload in dict.fromkeys(name for name, _ in results.lower_bounds):
        if peak := results.peak("taskfs", workload, rtt_ms):
            yield Measure(f"MB in {workload}", peak / MB, MEMORY / MB)


def _walks(results: Results, rtt_ms: int) -> Measures:
    if mine := results.get("walks", 3, rtt_ms):
        yield Measure("requests of the second walk", mine.requests, 0)
    yield from _against(results, "walks", 3, rtt_ms, 0.5, "s of the second walk")


def _million(results: Results, rtt_ms: int) -> Measures:
    def beside(index: int, peer: str, share: float, what: str) -> Measures:
        mine = results.get("million", index, rtt_ms)
        other = results.get("million", index, rtt_ms, peer)
        if mine is not None:
            yield Measure(what, mine.seconds, other.seconds * share if other else None)

    yield from beside(0, "remotezip", 1.6, "s of ls beside remotezip")
    yield from beside(1, "ratarmount", 1.0, "s of find beside ratarmount")
    if later := results.get("million", 3, rtt_ms):
        yield Measure("s of a later ls", later.seconds, 0.5)
        yield Measure("requests of it", later.requests, 0)
        yield Measure("private MB", results.private("taskfs", "million") / MB, MEMORY / MB)


def _no_slower(workload: str) -> Callable[[Results, int], Measures]:
    return lambda results, rtt_ms: _against(results, workload, 0, rtt_ms, 1.0)


TARGETS: Final = (
    Target(
        "ls: at most 2 requests, one listing and one URL of the API",
        "ls",
        _first_look("ls", 0.4 * MB),
    ),
    Target("head: at most 2 requests and 0.4 MB", "head", _first_look("head", 0.4 * MB)),
    Target("ls: no slower than the best peer", "ls", _no_slower("ls"), only_rtt=True),
    Target("head: no slower than the best peer", "head", _no_slower("head"), only_rtt=True),
    Target("find: 3 requests, 4.7 MB, no slower than the best peer", "find", _find),
    Target(
        "stored 4 KiB: at most 2 requests and 1.3 MB", "stored", _first_look("stored", 1.3 * MB)
    ),
    Target(
        "random reads: bytes within 6 %, 0.6 of the best peer, later ones < 0.15 s",
        "random",
        _random,
    ),
    Target("cat cold: 0.62 of the best peer, 1.25 of isal, bytes within 2 %", "cat", _cat),
    Target("cat warm: no request, a quarter of the best peer", "cat", _warm),
    Target("after a remount: a jump < 0.15 s, no request", "remount", _remount),
    Target("8 readers at once: bytes within 5 %, 0.8 of the best peer", "parallel", _parallel),
    Target("4 KB of each file: less than a sixth of them", "starts", _starts),
    Target("capped: three times one connection or more", "capped", _capped),
    Target("grep -r: requests at most size / 4 MiB + 10", "grep", _grep),
    Target("a second walk: no request, half of the best peer", "walks", _walks),
    Target(
        "a million members: ls 1.6 of remotezip's list, find as ratarmount, later ls 0.5 s",
        "million",
        _million,
    ),
    Target("memory under 160 MB in all of them", "", _memory),
)


def judge(results: Results) -> Iterator[str]:
    """Yield a line for each target and latency: ok, MISS or `?`, and the numbers."""
    for target in TARGETS:
        for rtt_ms in results.latencies:
            measures = list(target.measures(results, rtt_ms))
            if target.only_rtt and not rtt_ms:
                continue
            if not measures:
                if any(w == target.workload for w, _ in results.lower_bounds):
                    yield f"MISS  {target.text} ({rtt_ms} ms): the workload failed"
                continue
            missed = [m for m in measures if m.holds is False]
            unknown = [m for m in measures if m.holds is None]
            word = "MISS" if missed else "?   " if unknown else "ok  "
            numbers = "; ".join(f"{m}{'  <--' if m in missed else ''}" for m in measures)
            yield f"{word}  {target.text} ({rtt_ms} ms): {numbers}"
