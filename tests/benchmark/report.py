"""The results as tables: for a terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from .peers import OWN, PEERS
from .runs import Outcome
from .workloads import LowerBound

MB: Final = 1_000_000
IDLE_CORES: Final = 0.2  # other processes may use this many cores without disturbing a run
_Key = tuple[str, str, int, str]  # workload, step, latency in ms, peer
_TITLES: Final = {peer.name: peer.title for peer in PEERS}


@dataclass(slots=True)
class Results:
    """All outcomes of a benchmark, and the lower bounds they are compared with."""

    runs: dict[_Key, list[Outcome]] = field(default_factory=dict)
    lower_bounds: dict[tuple[str, str], LowerBound] = field(default_factory=dict)
    inflate_s: float | None = None
    minimal_mount_s: float | None = None
    inflating: set[tuple[str, str]] = field(default_factory=set)
    mixed_bytes: int = 0  # compressed size of all members of `mixed`

    def add(self, outcome: Outcome) -> None:
        """Add an outcome; repeated runs of a step have several."""
        key = (outcome.workload, outcome.step, outcome.rtt_ms, outcome.peer)
        self.runs.setdefault(key, []).append(outcome)

    def outcome(self, workload: str, step: str, rtt_ms: int, peer: str) -> Outcome | None:
        """Return the outcome with the median time; a failed one only if all runs failed."""
        runs = self.runs.get((workload, step, rtt_ms, peer), [])
        whole = sorted((o for o in runs if not o.failure), key=lambda outcome: outcome.seconds)
        return whole[(len(whole) - 1) // 2] if whole else next(iter(runs), None)

    def get(self, workload: str, index: int, rtt_ms: int, peer: str = "taskfs") -> Outcome | None:
        """Return the outcome of a workload's step by its index; None if it failed."""
        steps = self.steps(workload)
        if index >= len(steps):
            return None
        found = self.outcome(workload, steps[index], rtt_ms, peer)
        return None if found is None or found.failure else found

    def steps(self, workload: str) -> list[str]:
        return list(dict.fromkeys(step for name, step in self.lower_bounds if name == workload))

    def best_peer(
        self, workload: str, index: int, rtt_ms: int, *, mounts: bool = False
    ) -> Outcome | None:
        """Return the fastest outcome of a step among the peers; with *mounts* among mounts only."""
        names = [p.name for p in PEERS if p.name not in OWN and not (mounts and p.library)]
        found = [self.get(workload, index, rtt_ms, name) for name in names]
        return min((o for o in found if o), key=lambda outcome: outcome.seconds, default=None)

    @property
    def peers(self) -> list[str]:
        ran = {peer for _, _, _, peer in self.runs}
        return [name for name in _TITLES if name in ran]

    @property
    def latencies(self) -> list[int]:
        return sorted({rtt_ms for _, _, rtt_ms, _ in self.runs})

    def peak(self, peer: str, workload: str | None = None, rtt_ms: int | None = None) -> int:
        """Return the peak memory of a peer over all runs, or those of a workload or latency."""
        peaks = [0]
        for (name, _, rtt, peer_name), outcomes in self.runs.items():
            if peer_name == peer and workload in (None, name) and rtt_ms in (None, rtt):
                peaks += [outcome.peak for outcome in outcomes]
        return max(peaks)

    def private(self, peer: str, workload: str | None = None) -> int:
        """Return the most private memory of a peer over all runs, or those of a workload."""
        return max(
            outcome.private
            for (name, _, _, peer_name), outcomes in self.runs.items()
            if peer_name == peer and workload in (None, name)
            for outcome in outcomes
        )


Table = tuple[list[str], list[list[str]]]


def tables(results: Results) -> Iterable[tuple[str, Table]]:
    """Yield a title and a table for each latency."""
    for rtt_ms in results.latencies:
        header = ["workload", "lower bound", *(_TITLES[name] for name in results.peers)]
        header += ["vs best peer", "vs lower bound"]
        rows = []
        for workload, step in results.lower_bounds:
            row = [step, _lower_bound(results, workload, step)]
            index = results.steps(workload).index(step)
            for name in results.peers:
                row.append(_cell(results.outcome(workload, step, rtt_ms, name)))
            row += _ratios(results, workload, index, step, rtt_ms)
            rows.append(row)
        memory = [f"{results.peak(name) / MB:.0f} MB" for name in results.peers]
        rows.append(["peak memory, all workloads", "", *memory, "", ""])
        memory = [f"{results.private(name) / MB:.0f} MB" for name in results.peers]
        rows.append(["private memory at most", "", *memory, "", ""])
        yield f"{rtt_ms} ms latency", (header, rows)


def _lower_bound(results: Results, workload: str, step: str) -> str:
    lower_bound = results.lower_bounds[workload, step]
    text = f"{lower_bound.requests} req, {_size(lower_bound.sent)}"
    if (workload, step) in results.inflating and results.inflate_s is not None:
        text = f"{_seconds(results.inflate_s)}, {text}"
        if results.minimal_mount_s is not None:
            text = f"{text}; {_seconds(results.minimal_mount_s)} through a minimal fusepy mount"
    return text


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.failure:
        return outcome.failure.partition(":")[0]
    mark = "" if outcome.others < IDLE_CORES else "~"
    text = f"{mark}{_seconds(outcome.seconds)} ({_seconds(outcome.cpu_s)} CPU)"
    text += f", {outcome.requests} req, {_size(outcome.sent)}"
    return f"{text}, {outcome.peak / MB:.0f} MB mem"


def _ratios(results: Results, workload: str, index: int, step: str, rtt_ms: int) -> list[str]:
    mine, best = results.get(workload, index, rtt_ms), results.best_peer(workload, index, rtt_ms)
    lower_bound = results.lower_bounds[workload, step]
    to_best = f"{mine.seconds / best.seconds:.2f} x {best.peer}" if mine and best else ""
    to_lower_bound = []
    if mine and (workload, step) in results.inflating and results.inflate_s:
        to_lower_bound.append(f"{mine.seconds / results.inflate_s:.2f} x time")
    if mine and lower_bound.sent:
        to_lower_bound.append(f"{mine.sent / lower_bound.sent:.2f} x bytes")
    return [to_best, ", ".join(to_lower_bound)]


def _seconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.2f} s"


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    if count < MB:
        return f"{count / 1000:.0f} KB"
    return f"{count / MB:.1f} MB" if count < 100 * MB else f"{count / MB:.0f} MB"


def as_text(table: Table) -> str:
    """Return a table in columns."""
    header, rows = table
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def as_markdown(table: Table) -> str:
    header, rows = table
    return "\n".join(_markdown_row(row) for row in (header, ["---"] * len(header), *rows))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
