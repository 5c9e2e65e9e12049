"""`tests.benchmark`: the outcome reported for several runs, and the rows of the commands."""

from pathlib import Path

import pytest

from tests.benchmark.account import AccountCloud
from tests.benchmark.archives import MILLION, open_archive
from tests.benchmark.commands import COMMANDS, ON_A_MOUNT, measure
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
    cloud = AccountCloud()
    try:
        lines = list(measure(cloud, cloud.call("fill_study", 2)[-1], None, repeat=1))
    finally:
        cloud.close()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    requests = [[cell.partition(", ")[2] for cell in row] for row in rows[2:]]
    assert [row[0] for row in rows[2:]] == [title for title, _ in (*COMMANDS, *ON_A_MOUNT)]
    assert [again for _, _, again in requests[:4]] == ["1 API, 0 store"] * 4
    assert [first for _, first, _ in requests[3:5]] == ["2 API, 1 store", "0 API, 0 store"]
