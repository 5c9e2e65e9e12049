"""`tests.benchmark.report`: the outcome reported for several runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.archives import MILLION, open_archive
from tests.benchmark.report import Results
from tests.benchmark.runs import Outcome
from tests.benchmark.targets import judge
from tests.benchmark.workloads import WORKLOADS


def outcome(seconds: float, failure: str = "") -> Outcome:
    return Outcome("cat", "first", "taskfs", 0, seconds=seconds, failure=failure)


@pytest.mark.parametrize(
    ("runs", "counts"),
    [
        ([outcome(3.0)], outcome(3.0)),
        ([outcome(9.0), outcome(1.0), outcome(2.0)], outcome(2.0)),
        ([outcome(3.0), outcome(0.0, ">40 s")], outcome(3.0)),
        ([outcome(0.0, ">40 s")], outcome(0.0, ">40 s")),
        ([], None),
    ],
)
def test_the_median_of_the_successful_runs_is_reported(
    runs: list[Outcome], counts: Outcome | None
) -> None:
    """`scripts/bench --repeat` reports the median; a failure only if every run failed."""
    results = Results()
    for run in runs:
        results.add(run)
    assert results.outcome("cat", "first", 0, "taskfs") == counts


def test_the_million_members_are_those_of_the_archive(tmp_path: Path) -> None:
    """docs/performance.md: The rows of a million members expect what the archive holds, and are
    judged beside the peers that ran."""
    archive = open_archive(MILLION, 0.001, tmp_path)
    assert len(archive.members) == 1000 and archive.size == archive.path.stat().st_size
    (workload,) = (each for each in WORKLOADS if each.name == MILLION)
    results = Results()
    for number, step in enumerate(workload.steps(archive, 0.001)):
        results.lower_bounds[MILLION, step.title] = step.lower_bound
        for peer, seconds in (("taskfs", 0.4), ("remotezip", 0.3), ("ratarmount", 0.2)):
            results.add(Outcome(MILLION, step.title, peer, 0, seconds, private=number))
    assert step.expected() == 1
    line = next(line for line in judge(results) if "a million members" in line)
    assert line.startswith("MISS") and line.count("<--") == 1  # find, beside ratarmount
    assert results.private("taskfs") == 3


@pytest.mark.mount
def test_the_rows_of_the_commands() -> None:
    """docs/performance.md: The commands without a mount are measured beside the same on a mount."""
    words = [sys.executable, "-m", "tests.benchmark.commands", "--no-client", "--tasks", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    rows = [line for line in done.stdout.splitlines() if not line.startswith("- again")]
    assert [row[:38].strip() for row in rows] == [
        "taskfs list",
        "taskfs ls ID",
        "taskfs ls -l ID/outputs",
        "taskfs cat ID/stdout.txt",
        "mount: ls ID",
        "mount: ls -l ID/outputs",
        "mount: cat ID/outputs/stdout.txt",
    ]
