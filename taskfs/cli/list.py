"""`taskfs list`."""

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from taskfs.cli import completers
from taskfs.cli.api_session import open_account, open_reader
from taskfs.cli.columns import DEFAULT_COLUMNS, TASK_COLUMNS
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.output import print_table, repeat_on_terminal
from taskfs.cli.project_totals import print_totals
from taskfs.cli.task_choice import ListAll, TaskChoice, parse_moment
from taskfs.cli.task_ids import parse_task_id, resolve_names, task_must_exist
from taskfs.errors import ConfigError
from taskfs.model import Task
from taskfs.options import near_matches
from taskfs.support.parsing import parse_positive_duration

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

DEFAULT_COUNT: Final = 10  # tasks, as `inductiva tasks list` shows
DEFAULT_PERIOD: Final = "2s"  # of -w, as `inductiva tasks list -w`
_NAMES: Final = ", ".join(TASK_COLUMNS)


def _parse_columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in text.split(",") if name.strip())
    for name in names:
        _parse_column(name)
    if not names:
        raise ConfigError(f"there is no column in {text!r}: write some of {_NAMES}")
    return names


def _parse_column(text: str) -> str:
    name = text.strip().lower()
    if name.removeprefix("-") not in TASK_COLUMNS:
        guess = near_matches(name, TASK_COLUMNS)
        raise ConfigError(f"{name!r} is not a column{guess} (columns: {_NAMES})")
    return name


@click.command("list", short_help="List tasks, the newest first.")
@click.option(
    "-n",
    "--last",
    "--last-n",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the newest N tasks.  "
    f"[default: {DEFAULT_COUNT}; all with --since, --until and --total]",
)
@click.option("-a", "--all", "everything", is_flag=True, help="All tasks.  [default: off]")
@click.option(
    "-i",
    "--id",
    "task_ids",
    multiple=True,
    metavar="ID",
    callback=parsed_by(parse_task_id),
    shell_complete=completers.complete_tasks(),
    help="Only this task; may be given several times.  [default: all]",
)
@click.option(
    "--simulator",
    "simulators",
    multiple=True,
    metavar="NAME",
    help="Only the tasks of this simulator; may be given several times.  [default: all]",
)
@click.option(
    "--since",
    "since_ns",
    callback=parsed_by(parse_moment),
    metavar="TIME",
    help="Only the tasks submitted since then: 2d, 12h, 2026-11-28, 2026-11-28T21:31 (local).  "
    "[default: all]",
)
@click.option(
    "--until",
    "until_ns",
    callback=parsed_by(parse_moment),
    metavar="TIME",
    help="Only the tasks submitted before then.  [default: all]",
)
@click.option(
    "--failed",
    is_flag=True,
    help="Only the tasks that ended without success, except killed ones.  [default: off]",
)
@click.option("--running", is_flag=True, help="Only the tasks that have not ended.  [default: off]")
@click.option(
    "--sort",
    "sort",
    callback=parsed_by(_parse_column),
    metavar="COLUMN",
    help="Sort the tasks that are listed (the newest 10 without --all) by this column; -COLUMN "
    "sorts in descending order.  [default: newest first]",
)
@click.option(
    "--columns",
    "columns",
    callback=parsed_by(_parse_columns),
    metavar="COLUMN,...",
    help=f"The columns to show, of {_NAMES}.  [default: {','.join(DEFAULT_COLUMNS)}]",
)
@click.option(
    "--total",
    is_flag=True,
    help="Print the number of tasks, the computation time and the cost of each project instead.  "
    "[default: off]",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as a JSON array.  [default: off]"
)
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print CSV: times in UTC, seconds, US dollars and bytes.  [default: off]",
)
@click.option(
    "-w",
    "--watch",
    "period_s",
    is_flag=False,
    flag_value=DEFAULT_PERIOD,
    callback=parsed_by(parse_positive_duration),
    metavar="[TIME]",
    help=f"Print the table again every {DEFAULT_PERIOD}, or every TIME, until Ctrl+C.  "
    "[default: once]",
)
@config_options("list")
def command(
    settings: Settings,
    count: int | None,
    everything: bool,
    task_ids: tuple[str, ...],
    simulators: tuple[str, ...],
    since_ns: int | None,
    until_ns: int | None,
    failed: bool,
    running: bool,
    sort: str | None,
    columns: tuple[str, ...] | None,
    total: bool,
    as_json: bool,
    as_csv: bool,
    period_s: float | None,
) -> None:
    """List tasks, the newest first.

    On a narrow terminal the table leaves out the least important columns. A pipe or a file gets all
    columns as plain, aligned lines. Cells are never cut. Times are local. The computation time of a
    running task counts up to now. --status takes the service's display names ("In Progress") too.
    """
    if count and everything:
        raise click.UsageError("-n and --all exclude each other")
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    if period_s and (as_json or as_csv):
        raise click.UsageError("-w shows a table: leave out --json and --csv")
    if failed and running:
        raise click.UsageError("--failed and --running exclude each other")
    if total and (columns or sort):
        name = "--columns" if columns else "--sort"
        raise click.UsageError(f"--total prints one row per project: leave out {name}")
    is_bounded = since_ns is not None or until_ns is not None or total
    limit = None if everything or task_ids else count or (None if is_bounded else DEFAULT_COUNT)
    with open_reader(settings) as (config, client):
        choice = TaskChoice(
            config.project, config.status, simulators, since_ns, until_ns, failed, running
        )

        def show() -> None:
            tasks = _select(client, choice, limit, task_ids, open_account(config, client))
            if sort:
                tasks = _sorted(tasks, sort)
            if total:
                print_totals(tasks, as_json=as_json, as_csv=as_csv)
            else:
                _print(tasks, columns, as_json=as_json, as_csv=as_csv)

        if period_s:
            repeat_on_terminal(show, period_s)
        else:
            show()


def _select(
    client: "TaskClient | OfflineAPI",
    choice: TaskChoice,
    limit: int | None,
    task_ids: Sequence[str],
    list_all: ListAll | None,
) -> list[Task]:
    if not task_ids:
        return choice.select(client, limit, list_all)
    tasks = []
    for task_id in dict.fromkeys(resolve_names(client, task_ids)):
        with task_must_exist(task_id):
            tasks.append(client.get_task(task_id))
    return tasks


def _sorted(tasks: Sequence[Task], name: str) -> list[Task]:
    """Return the tasks by column *name*, those without a value last; `-name` is descending."""
    from taskfs.tasks.task_table import FIELDS

    value = FIELDS[TASK_COLUMNS[name.removeprefix("-")].field]
    now_ns = time.time_ns()
    known = [task for task in tasks if value(task, now_ns) is not None]
    unknown = [task for task in tasks if value(task, now_ns) is None]

    def key(task: Task) -> Any:
        return value(task, now_ns)

    return sorted(known, key=key, reverse=name.startswith("-")) + unknown


def _print(
    tasks: Sequence[Task], columns: Sequence[str] | None, *, as_json: bool, as_csv: bool
) -> None:
    if as_json:
        click.echo(json.dumps([json.loads(task.record) for task in tasks], indent=2))
    elif as_csv:
        from taskfs.tasks.task_table import FIELDS, to_csv

        names = [TASK_COLUMNS[name].field for name in columns] if columns else list(FIELDS)
        click.echo(to_csv(tasks, names, time.time_ns()).decode(), nl=False)
    elif tasks:
        shown = [TASK_COLUMNS[name] for name in columns or DEFAULT_COLUMNS]
        now_ns = time.time_ns()
        print_table(
            [column.head for column in shown],
            [[column.cell(task, now_ns) for column in shown] for task in tasks],
        )
    else:
        click.echo("No tasks found.", err=True)
