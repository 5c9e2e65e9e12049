"""`tests.benchmark.report`: the outcome reported for several runs."""

import subprocess
import sys

import pytest

from tests.benchmark.report import Results
from tests.benchmark.runs import Outcome


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
