"""Command line of the benchmark."""

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

from . import account, commands, inflate_times, live
from .archives import TOP, Archive, open_archive
from .cloud import Cloud
from .machine import describe, wait_until_idle
from .peers import EARLIER, PEERS, Peer, install_from_pypi, peers_python
from .report import IDLE_CORES, Results, as_markdown, as_text, tables
from .runs import Conditions, Outcome, run
from .targets import judge
from .workloads import LARGE, WORKLOADS, Workload

CACHE: Final = Path(user_cache_dir("taskfs-bench", appauthor=False))


def main() -> int:
    """Run the chosen workloads and print the results; return 1 if a target is missed."""
    arguments = _parse_arguments()
    if arguments.live:
        return live.main(CACHE)
    if arguments.account:
        return account.measure_all(CACHE, live.CLIENT)
    if arguments.commands:
        return commands.measure_all(CACHE, live.CLIENT)
    workloads = [
        workload
        for workload in WORKLOADS
        if not arguments.workload or workload.name in arguments.workload
    ]
    peers, missing = _peers(arguments)
    results = Results()
    if arguments.compare:
        _load_outcomes(
            arguments.compare, arguments, [workload.name for workload in workloads], results
        )
    is_complete = True
    try:
        _measure(workloads, peers, arguments, results)
    except KeyboardInterrupt:
        is_complete = False
        print("interrupted: the results below are incomplete", file=sys.stderr)
    lines = list(judge(results))
    print(_render(results, missing, lines, arguments))
    if arguments.json:
        arguments.json.write_text(_as_json(results, missing, arguments.scale))
    if not is_complete:
        return interrupts.INTERRUPTED
    return int(any(line.startswith("MISS") for line in lines))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench", description="Measure taskfs and its peers on the same workloads in one run."
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="size of the archives; 1 means a member of 1 GiB [default: 1]",
    )
    parser.add_argument(
        "--rtt",
        type=int,
        action="append",
        metavar="MS",
        help="latency; may be repeated [default: 0 and 30]",
    )
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument(
        "--workload", action="append", choices=names, help="only this workload; may be repeated"
    )
    names = [peer.name for peer in PEERS]
    parser.add_argument("--peers", nargs="+", choices=names, help="only taskfs and these peers")
    parser.add_argument("--only-taskfs", action="store_true", help="no peers")
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="TASKFS",
        help="also measure this program of an earlier version",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        metavar="N",
        help="measure N times (an odd number), all peers in turn, and report the median",
    )
    parser.add_argument(
        "--idle-wait",
        type=float,
        default=0,
        metavar="S",
        help="wait up to S seconds before each run for other processes to become idle",
    )
    parser.add_argument(
        "--limit", type=float, default=120, help="abort a run after this many seconds"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="run only taskfs and take the peers' numbers from an earlier --json FILE",
    )
    parser.add_argument(
        "--live", action="store_true", help="measure only the log of a running task"
    )
    parser.add_argument(
        "--account",
        action="store_true",
        help="measure only an account of 100000 tasks, and 300 tasks in turn",
    )
    parser.add_argument(
        "--commands",
        action="store_true",
        help="measure only the commands that need no mount",
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    arguments = parser.parse_args()
    if arguments.repeat % 2 == 0:
        parser.error(f"--repeat {arguments.repeat}: give an odd number")
    arguments.rtt = arguments.rtt or [0, 30]
    if arguments.earlier:
        os.environ[EARLIER] = str(arguments.earlier.absolute())
    arguments.only_taskfs |= arguments.compare is not None
    return arguments


def _peers(arguments: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers to measure, and the missing ones by title with the reason."""
    wanted = (
        {"taskfs"} if arguments.only_taskfs else set(arguments.peers or [p.name for p in PEERS])
    )
    wanted.add("taskfs")
    if arguments.earlier:
        wanted.add("earlier")
    failure = install_from_pypi(CACHE)
    available, missing = [], {}
    for peer in PEERS:
        if peer.name not in wanted or (peer.name == "earlier" and not arguments.earlier):
            continue
        reason = failure if failure and peer.library else peer.missing(CACHE)
        if reason:
            missing[peer.title] = reason
            print(f"{peer.title} is not measured: {reason}", file=sys.stderr)
        else:
            available.append(peer)
    return available, missing


def _measure(
    workloads: Sequence[Workload],
    peers: Sequence[Peer],
    arguments: argparse.Namespace,
    results: Results,
) -> None:
    names = dict.fromkeys(workload.archive for workload in workloads)
    archives = {name: _open(name, arguments.scale) for name in names}
    if "big" in archives:
        path = archives["big"].path
        wait_until_idle(arguments.idle_wait, IDLE_CORES)
        results.inflate_s = inflate_times.measure(peers_python(CACHE), path, TOP + LARGE)
        results.minimal_mount_s = inflate_times.measure_mounted(path, TOP + LARGE)
    if "mixed" in archives:
        results.mixed_bytes = sum(member.compressed for member in archives["mixed"].members)
    cloud = Cloud(archives.values())
    try:
        for workload in workloads:
            archive = archives[workload.archive]
            for step in workload.steps(archive, arguments.scale):
                results.lower_bounds[workload.name, step.title] = step.lower_bound
                if step.inflates:
                    results.inflating.add((workload.name, step.title))
            for rtt_ms in arguments.rtt:
                conditions = Conditions(arguments.scale, rtt_ms, arguments.limit)
                remaining = [peer for peer in peers if peer.runs(workload)]
                for _ in range(arguments.repeat):
                    for peer in tuple(remaining):
                        wait_until_idle(arguments.idle_wait, IDLE_CORES)
                        outcomes = run(peer, workload, archive, cloud, CACHE, conditions)
                        for outcome in outcomes:
                            results.add(outcome)
                            _print_outcome(outcome)
                        if any(outcome.failure for outcome in outcomes):
                            remaining.remove(
                                peer
                            )  # it would probably fail again, after the same time
    finally:
        cloud.close()


def _open(name: str, scale: float) -> Archive:
    began = time.monotonic()
    archive = open_archive(name, scale, CACHE)
    if (taken := time.monotonic() - began) > 1:
        print(f"created the archive {name} in {taken:.0f} s", file=sys.stderr)
    return archive


def _print_outcome(outcome: Outcome) -> None:
    """Print one outcome as soon as it is measured."""
    text = outcome.failure or (
        f"{outcome.seconds:.3f} s (mount {outcome.mount_s:.3f}, cpu {outcome.cpu_s:.2f}, "
        f"others {outcome.others:.2f}), {outcome.requests} requests, "
        f"{outcome.sent / 1e6:.3f} MB, {outcome.peak / 1e6:.0f} MB of memory, "
        f"{outcome.private / 1e6:.0f} MB private"
    )
    print(f"  {outcome.rtt_ms:3d} ms  {outcome.peer:11s} {outcome.step}: {text}", file=sys.stderr)


def _render(
    results: Results, missing: dict[str, str], lines: Sequence[str], arguments: argparse.Namespace
) -> str:
    today = datetime.now(timezone.utc).date().isoformat()
    parts = [f"{today}, {describe()}, scale {arguments.scale:g}, load {_load()}."]
    if arguments.repeat > 1:
        parts[0] += f" Medians of {arguments.repeat} runs."
    if arguments.compare:
        parts[0] += f" The peers' numbers are from {arguments.compare.name}, not from this run."
    for title, table in tables(results):
        parts += [f"**{title}**" if arguments.markdown else title]
        parts += [as_markdown(table) if arguments.markdown else as_text(table)]
    parts += [f"Not installed: {name} ({why})." for name, why in missing.items()]
    targets = "\n".join(f"- {line}" if arguments.markdown else line for line in lines)
    return "\n\n".join([*parts, targets])


def _load_outcomes(
    file: Path, arguments: argparse.Namespace, workloads: Sequence[str], results: Results
) -> None:
    """Add the peers' outcomes of an earlier run to the results."""
    earlier = json.loads(file.read_text())
    if earlier["scale"] != arguments.scale:
        raise SystemExit(f"{file} has scale {earlier['scale']:g}")
    for loaded in earlier["outcomes"]:
        if (
            loaded["peer"] != "taskfs"
            and loaded["workload"] in workloads
            and loaded["rtt_ms"] in arguments.rtt
        ):
            results.add(Outcome(**loaded))


def _load() -> str:
    """Return the load averages, which show what else the machine did."""
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


def _as_json(results: Results, missing: dict[str, str], scale: float) -> str:
    return json.dumps(
        {
            "machine": describe(),
            "scale": scale,
            "inflate_s": results.inflate_s,
            "bare_s": results.minimal_mount_s,
            "missing": missing,
            "outcomes": [asdict(outcome) for runs in results.runs.values() for outcome in runs],
            "lower_bounds": [
                {"workload": workload, "step": step, "requests": least.requests, "sent": least.sent}
                for (workload, step), least in results.lower_bounds.items()
            ],
        },
        indent=1,
    )


if __name__ == "__main__":
    interrupts.run("bench", main)
