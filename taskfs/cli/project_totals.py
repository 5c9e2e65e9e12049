"""The sums of `taskfs list --total`: tasks, computation time and cost of each project."""

import csv
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import click

from taskfs.cli.columns import COMPUTATION_TIME, COST, Column
from taskfs.cli.output import print_table
from taskfs.model import Task
from taskfs.support.formatting import format_elapsed, format_money

_COLUMNS: Final = (
    Column("Project"),
    Column("Tasks"),
    Column("Succeeded", 1),
    Column("Ended otherwise", 1),
    Column("Not ended", 1),
    COMPUTATION_TIME,
    COST,
)


class Totals(NamedTuple):
    """The sums of one project; the field names are those of JSON and CSV."""

    project: str
    tasks: int = 0
    succeeded: int = 0
    ended_otherwise: int = 0
    not_ended: int = 0
    computation_seconds: float = 0.0
    cost_usd: float = 0.0

    def row(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        return (
            self.project,
            *(str(count) for count in self[1:5]),
            format_elapsed(self.computation_seconds),
            format_money(self.cost_usd),
        )


def print_totals(tasks: Iterable[Task], *, as_json: bool, as_csv: bool) -> None:
    """Print the sums of each project, by name, and of all projects."""
    totals = list(_sum(tasks))
    if as_json:
        click.echo(json.dumps([each._asdict() for each in totals], indent=2))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(Totals._fields)
        writer.writerows(totals)
    else:
        whole = _add(Totals("total"), totals)
        print_table(_COLUMNS, [each.row() for each in (*totals, whole)])


def _sum(tasks: Iterable[Task]) -> Iterator[Totals]:
    from taskfs.tasks.task_table import cost_of

    now_ns = time.time_ns()
    sums: dict[str, Totals] = {}
    for task in tasks:
        project = task.project or "none"
        is_success = task.status == "success"
        one = Totals(
            project,
            1,
            is_success,
            task.is_terminated and not is_success,
            not task.is_terminated,
            task.computation_elapsed(now_ns) or 0.0,
            cost_of(task) or 0.0,
        )
        sums[project] = _add(sums.get(project, Totals(project)), [one])
    yield from (sums[project] for project in sorted(sums))


def _add(first: Totals, others: Iterable[Totals]) -> Totals:
    numbers = [each[1:] for each in (first, *others)]
    return Totals(first.project, *(sum(column) for column in zip(*numbers, strict=True)))
