"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from platformdirs import user_cache_dir

from tests import interrupts

from . import floor
from .archives import TOP, Archive, open_archive
from .cloud import Cloud
from .machine import await_quiet, describe
from .peers import EARLIER, PEERS, Peer, install_from_pypi, peers_python
from .report import QUIET, Results, as_markdown, as_text, tables
from .runs import Conditions, Outcome, run
from .targets import judge
from .works import LARGE, WORKS, Work

CACHE: Final = Path(user_cache_dir("taskfs-bench", appauthor=False))


def main() -> int:
    """Run what was asked for and print it; 1 if a target is missed, 130 if interrupted."""
    asked = _parse()
    works = [work for work in WORKS if not asked.work or work.name in asked.work]
    peers, missing = _peers(asked)
    results = Results()
    if asked.compare:
        _recall(asked.compare, asked, [work.name for work in works], results)
    is_whole = True
    try:
        _measure(works, peers, asked, results)
    except KeyboardInterrupt:
        is_whole = False
        print("interrupted: what follows is not all", file=sys.stderr)
    lines = list(judge(results))
    print(_render(results, missing, lines, asked))
    if asked.json:
        asked.json.write_text(_as_json(results, missing, asked.scale))
    if not is_whole:
        return interrupts.INTERRUPTED
    return int(any(line.startswith("MISS") for line in lines))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="taskfs and its peers on the same work, measured in one run."
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the archives (1: 1 GiB, …)")
    parser.add_argument(
        "--rtt", type=int, action="append", metavar="MS", help="latencies [default: 0 and 30]"
    )
    names = [work.name for work in WORKS]
    parser.add_argument("--work", action="append", choices=names, help="only these works")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, help="only these peers, and taskfs")
    parser.add_argument("--only-taskfs", action="store_true", help="no peers at all")
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="TASKFS",
        help="measure the program of an earlier version beside this one",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="measure N times (an odd number), all peers in turn; the median counts",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="S",
        help="before each run, wait so many seconds at most until other work leaves the machine",
    )
    parser.add_argument("--limit", type=float, default=120, help="seconds until a run is given up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there as well")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="take the peers' numbers from an earlier --json, and run taskfs alone",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the tables of docs/performance.md"
    )
    asked = parser.parse_args()
    if asked.repeat % 2 == 0:
        parser.error(f"--repeat {asked.repeat}: give an odd number, of which there is a median")
    asked.rtt = asked.rtt or [0, 30]
    if asked.earlier:
        os.environ[EARLIER] = str(asked.earlier.absolute())
    asked.only_taskfs |= asked.compare is not None
    return asked


def _peers(asked: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """Return who takes part, and of those who cannot, why not."""
    wanted = {"taskfs"} if asked.only_taskfs else set(asked.peers or [p.name for p in PEERS])
    wanted.add("taskfs")
    if asked.earlier:
        wanted.add("earlier")
    failure = install_from_pypi(CACHE)
    taking_part, missing = [], {}
    for peer in PEERS:
        if peer.name not in wanted or (peer.name == "earlier" and not asked.earlier):
            continue
        lacking = failure if failure and peer.library else peer.missing(CACHE)
        if lacking:
            missing[peer.title] = lacking
            print(f"{peer.title} takes no part: {lacking}", file=sys.stderr)
        else:
            taking_part.append(peer)
    return taking_part, missing


def _measure(
    works: Sequence[Work], peers: Sequence[Peer], asked: argparse.Namespace, results: Results
) -> None:
    names = dict.fromkeys(work.archive for work in works)
    archives = {name: _open(name, asked.scale) for name in names}
    if "big" in archives:
        path = archives["big"].path
        await_quiet(asked.patience, QUIET)
        results.inflate_s = floor.measure(peers_python(CACHE), path, TOP + LARGE)
        results.bare_s = floor.measure_mounted(path, TOP + LARGE)
    if "mixed" in archives:
        results.mixed_bytes = sum(member.compressed for member in archives["mixed"].members)
    cloud = Cloud(archives.values())
    try:
        for work in works:
            archive = archives[work.archive]
            for step in work.steps(archive, asked.scale):
                results.floors[work.name, step.title] = step.floor
                if step.inflates:
                    results.inflating.add((work.name, step.title))
            for rtt_ms in asked.rtt:
                conditions = Conditions(asked.scale, rtt_ms, asked.limit)
                going = list(peers)
                for _ in range(asked.repeat):
                    for peer in tuple(going):
                        await_quiet(asked.patience, QUIET)
                        outcomes = run(peer, work, archive, cloud, CACHE, conditions)
                        for outcome in outcomes:
                            results.add(outcome)
                            _tell(outcome)
                        if any(outcome.failure for outcome in outcomes):
                            going.remove(peer)  # it would fail again, after as long a wait
    finally:
        cloud.close()


def _open(name: str, scale: float) -> Archive:
    began = time.monotonic()
    archive = open_archive(name, scale, CACHE)
    if (taken := time.monotonic() - began) > 1:
        print(f"made the archive {name} in {taken:.0f} s", file=sys.stderr)
    return archive


def _tell(outcome: Outcome) -> None:
    """Say at once what came out, for whoever waits."""
    said = outcome.failure or (
        f"{outcome.seconds:.3f} s (mount {outcome.mount_s:.3f}, cpu {outcome.cpu_s:.2f}, "
        f"others {outcome.others:.2f}), {outcome.requests} requests, "
        f"{outcome.sent / 1e6:.3f} MB, {outcome.peak / 1e6:.0f} MB of memory"
    )
    print(f"  {outcome.rtt_ms:3d} ms  {outcome.peer:11s} {outcome.step}: {said}", file=sys.stderr)


def _render(
    results: Results, missing: dict[str, str], lines: Sequence[str], asked: argparse.Namespace
) -> str:
    today = datetime.now(timezone.utc).date().isoformat()
    parts = [f"{today}, {describe()}, scale {asked.scale:g}, load {_load()}."]
    if asked.repeat > 1:
        parts[0] += f" The medians of {asked.repeat} runs each."
    if asked.compare:
        parts[0] += f" The peers are from {asked.compare.name}, not of this run."
    for title, table in tables(results):
        parts += [f"**{title}**" if asked.markdown else title]
        parts += [as_markdown(table) if asked.markdown else as_text(table)]
    parts += [f"Not installed: {name} ({why})." for name, why in missing.items()]
    targets = "\n".join(f"- {line}" if asked.markdown else line for line in lines)
    return "\n\n".join([*parts, targets])


def _recall(file: Path, asked: argparse.Namespace, works: Sequence[str], results: Results) -> None:
    """Add the peers' outcomes of an earlier run to the results."""
    earlier = json.loads(file.read_text())
    if earlier["scale"] != asked.scale:
        raise SystemExit(f"{file} is of scale {earlier['scale']:g}")
    for kept in earlier["outcomes"]:
        if kept["peer"] != "taskfs" and kept["work"] in works and kept["rtt_ms"] in asked.rtt:
            results.add(Outcome(**kept))


def _load() -> str:
    """Return the load averages: what else this machine did while it measured."""
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def _as_json(results: Results, missing: dict[str, str], scale: float) -> str:
    return json.dumps(
        {
            "machine": describe(),
            "scale": scale,
            "inflate_s": results.inflate_s,
            "bare_s": results.bare_s,
            "missing": missing,
            "outcomes": [asdict(outcome) for runs in results.runs.values() for outcome in runs],
            "floors": [
                {"work": work, "step": step, "requests": least.requests, "sent": least.sent}
                for (work, step), least in results.floors.items()
            ],
        },
        indent=1,
    )


if __name__ == "__main__":
    interrupts.run("bench", main)
