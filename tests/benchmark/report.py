"""The results as tables: for a terminal, and as Markdown for the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from .peers import PEERS
from .runs import Outcome
from .works import Floor

MB: Final = 1_000_000
QUIET: Final = 0.2  # cores: what others may compute without disturbing
_Key = tuple[str, str, int, str]  # work, step, latency in ms, peer
_TITLES: Final = {peer.name: peer.title for peer in PEERS}


@dataclass(slots=True)
class Results:
    """All outcomes of one run of the benchmark, and what they are compared with."""

    runs: dict[_Key, list[Outcome]] = field(default_factory=dict)
    floors: dict[tuple[str, str], Floor] = field(default_factory=dict)
    inflate_s: float | None = None
    bare_s: float | None = None
    inflating: set[tuple[str, str]] = field(default_factory=set)
    mixed_bytes: int = 0  # what the files of `mixed` are, compressed

    def add(self, outcome: Outcome) -> None:
        """Keep an outcome, beside others of the same."""
        key = (outcome.work, outcome.step, outcome.rtt_ms, outcome.peer)
        self.runs.setdefault(key, []).append(outcome)

    def outcome(self, work: str, step: str, rtt_ms: int, peer: str) -> Outcome | None:
        """Return the outcome that counts: that of the median time, of those that did not fail."""
        runs = self.runs.get((work, step, rtt_ms, peer), [])
        whole = sorted((o for o in runs if not o.failure), key=lambda outcome: outcome.seconds)
        return whole[(len(whole) - 1) // 2] if whole else next(iter(runs), None)

    def get(self, work: str, index: int, rtt_ms: int, peer: str = "taskfs") -> Outcome | None:
        """Return the outcome of a work's step, by its number, if there is one that succeeded."""
        steps = self.steps(work)
        if index >= len(steps):
            return None
        found = self.outcome(work, steps[index], rtt_ms, peer)
        return None if found is None or found.failure else found

    def steps(self, work: str) -> list[str]:
        return list(dict.fromkeys(step for name, step in self.floors if name == work))

    def best_peer(
        self, work: str, index: int, rtt_ms: int, *, mounts: bool = False
    ) -> Outcome | None:
        """Return the fastest outcome of the step by a peer, with *mounts* by one that mounts."""
        names = [
            p.name
            for p in PEERS
            if p.name not in ("taskfs", "earlier") and not (mounts and p.library)
        ]
        found = [self.get(work, index, rtt_ms, name) for name in names]
        return min((o for o in found if o), key=lambda outcome: outcome.seconds, default=None)

    @property
    def peers(self) -> list[str]:
        ran = {peer for _, _, _, peer in self.runs}
        return [name for name in _TITLES if name in ran]

    @property
    def latencies(self) -> list[int]:
        return sorted({rtt_ms for _, _, rtt_ms, _ in self.runs})

    def peak(self, peer: str, work: str | None = None, rtt_ms: int | None = None) -> int:
        """Return the most memory that a peer took in any of its runs, or of those of a work at a
        latency."""
        peaks = [0]
        for (name, _, rtt, who), outcomes in self.runs.items():
            if who == peer and work in (None, name) and rtt_ms in (None, rtt):
                peaks += [outcome.peak for outcome in outcomes]
        return max(peaks)


Table = tuple[list[str], list[list[str]]]


def tables(results: Results) -> Iterable[tuple[str, Table]]:
    """Yield a title and a table for each latency."""
    for rtt_ms in results.latencies:
        header = ["work", "floor", *(_TITLES[name] for name in results.peers)]
        header += ["to the best peer", "to the floor"]
        rows = []
        for work, step in results.floors:
            row = [step, _floor(results, work, step)]
            index = results.steps(work).index(step)
            for name in results.peers:
                row.append(_cell(results.outcome(work, step, rtt_ms, name)))
            row += _ratios(results, work, index, step, rtt_ms)
            rows.append(row)
        memory = [f"{results.peak(name) / MB:.0f} MB" for name in results.peers]
        rows.append(["peak memory, of all of them", "", *memory, "", ""])
        yield f"{rtt_ms} ms of latency", (header, rows)


def _floor(results: Results, work: str, step: str) -> str:
    floor = results.floors[work, step]
    text = f"{floor.requests} req, {_size(floor.sent)}"
    if (work, step) in results.inflating and results.inflate_s is not None:
        text = f"{_seconds(results.inflate_s)}, {text}"
        if results.bare_s is not None:
            text = f"{text}; {_seconds(results.bare_s)} through a bare fusepy mount"
    return text


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return ""
    if outcome.failure:
        return outcome.failure.partition(":")[0]
    mark = "" if outcome.others < QUIET else "~"
    text = f"{mark}{_seconds(outcome.seconds)} ({_seconds(outcome.cpu_s)} CPU)"
    text += f", {outcome.requests} req, {_size(outcome.sent)}"
    return f"{text}, {outcome.peak / MB:.0f} MB mem"


def _ratios(results: Results, work: str, index: int, step: str, rtt_ms: int) -> list[str]:
    mine, best = results.get(work, index, rtt_ms), results.best_peer(work, index, rtt_ms)
    floor = results.floors[work, step]
    to_best = f"{mine.seconds / best.seconds:.2f} x {best.peer}" if mine and best else ""
    to_floor = []
    if mine and (work, step) in results.inflating and results.inflate_s:
        to_floor.append(f"{mine.seconds / results.inflate_s:.2f} x time")
    if mine and floor.sent:
        to_floor.append(f"{mine.sent / floor.sent:.2f} x bytes")
    return [to_best, ", ".join(to_floor)]


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
