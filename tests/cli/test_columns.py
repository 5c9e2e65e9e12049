"""The tables of `taskfs list` and `taskfs watch` on terminals of several widths."""

import re
from typing import Any, Final

import pytest

from taskfs.cli.columns import COST, ID, MACHINE, STATUS, columns_that_fit
from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

WIDTHS: Final = (40, 60, 80, 100, 120, 200)
TITLES: Final = ("ID", "Simulator", "Status", "Submitted", "Computation time", "Machine")
SUBMITTED: Final = "2026-01-31 23:30:00"


def screen(text: str) -> list[str]:
    """Return the lines on a terminal, without colours."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()]


def drawn(taskfs: Command, width: int, command: tuple[str, ...] = ("list",)) -> list[str]:
    with taskfs.terminal(*command, columns=width, TZ="UTC") as terminal:
        assert terminal.end() == 0, terminal.text
    return screen(terminal.text)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_cell_and_no_heading_is_cut(taskfs: Command, cloud: FakeCloud, width: int) -> None:
    """C-33: On a narrow terminal whole columns are left out, and no cell is cut."""
    shown: dict[str, Any] = {
        "simulator": "openfoam",
        "machine": "c2-standard-4",
        "project": "p" * 100,
    }
    tasks = [
        cloud.add_task(status=status, input_submit_time="2026-01-31T23:30:00+00:00", **shown)
        for status in ("success", "computation-started", "executer-terminated")
    ]

    lines = drawn(taskfs, width)

    assert all(len(line) <= width for line in lines), lines
    words = [word for line in lines for word in re.split(r"\s{2,}", line.strip())]
    times = {word for word in words if re.fullmatch(r"[0-9:]{8}", word)}
    whole = {*TITLES, *tasks, "openfoam", "c2-standard-4", SUBMITTED, *times}
    whole |= {"success", "computation-started", "executer-terminated"}
    assert set(words) <= whole
    assert {"ID", "Status", *tasks} <= set(words)
    if width == 40:  # an id and a long status do not fit into one line of 40
        assert len(lines) == 2 * (1 + len(tasks))
        assert lines[0::2] == ["ID", *reversed(tasks)]
        assert lines[1] == "  Status"
    else:
        assert len(lines) == 1 + len(tasks)
    if width >= 120:
        assert set(TITLES) <= set(words)


def test_the_least_important_column_goes_first(taskfs: Command, cloud: FakeCloud) -> None:
    """C-33: The simulator is left out first."""
    cloud.add_task(status="computation-started", simulator="openfoam", machine="c2-standard-4")
    for width, missing in (
        (200, set()),
        (100, {"Simulator"}),
        (80, {"Simulator", "Submitted"}),
        (60, {"Simulator", "Submitted", "Machine", "Computation time"}),
    ):
        titles = re.split(r"\s{2,}", drawn(taskfs, width)[0])
        assert titles == [title for title in TITLES if title not in missing]


@pytest.mark.parametrize("width", (60, 80, 100))
def test_a_long_name_costs_its_column_and_no_other(
    taskfs: Command, cloud: FakeCloud, width: int
) -> None:
    """C-33: A long name costs its own column only."""
    cloud.add_task("t1", simulator="s" * 300, status="failed")
    lines = drawn(taskfs, width)
    assert "s" * 20 not in "".join(lines)
    assert lines[0].split()[:2] == ["ID", "Status"]
    assert lines[1].split()[:2] == ["t1", "failed"]


@pytest.mark.parametrize("width", (40, 80))
def test_an_unknown_status_is_shown_whole(taskfs: Command, cloud: FakeCloud, width: int) -> None:
    """C-33, T-2: An unknown status is shown whole."""
    status = "waiting-for-a-machine-that-is-in-none-of-the-data-centres-of-this-or-of-another-cloud"
    task = cloud.add_task()
    cloud.update_task(task, status=status)
    lines = drawn(taskfs, width)
    assert status in "".join(line.strip() for line in lines)
    assert task in lines


def test_nothing_is_left_out_of_a_pipe(taskfs: Command, cloud: FakeCloud) -> None:
    """C-33: A pipe gets all columns, whatever COLUMNS says."""
    cloud.add_task(simulator="s" * 300, machine="c2-standard-4")
    for width in ("20", "80"):
        title, line = taskfs("list", COLUMNS=width).stdout.splitlines()
        assert re.split(r"\s{2,}", title) == list(TITLES)
        assert "s" * 300 in line and line.endswith("c2-standard-4")


@pytest.mark.parametrize("width", WIDTHS)
def test_watch_once_drops_columns_too(taskfs: Command, cloud: FakeCloud, width: int) -> None:
    """C-33: `watch` leaves columns out by the same table."""
    task = cloud.add_task(status="computation-started", machine="c2-standard-4")
    lines = drawn(taskfs, width, ("watch", "--once"))
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith(task) for line in lines)
    assert "computation-started" in "\n".join(lines)
    assert ("Cost (US$)" in lines[0]) is (width > 100)


def test_a_wide_character_counts_twice() -> None:
    """C-33: Characters that take two cells are counted as two."""
    rows = [["t1", "計算中計算中", "m"]]
    table = (ID, STATUS, MACHINE)
    assert columns_that_fit(table, rows, 20, len) == [0, 1, 2]
    assert columns_that_fit(table, rows, 20, lambda text: 2 * len(text)) == [0, 1]


def test_columns_that_always_stay_stay() -> None:
    """C-33: Id and status are never left out."""
    assert columns_that_fit((ID, STATUS, COST), [["i" * 50, "s" * 50, "1"]], 10) == [0, 1]
