"""`taskfs list`."""

import json
import time
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli import columns
from taskfs.cli.api_session import open_reader
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import format_local_time, print_table
from taskfs.model import Task
from taskfs.support.formatting import format_elapsed
from taskfs.tasks.filter_check import check_filter, statuses_explained

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

DEFAULT_COUNT: Final = 10  # tasks, as `inductiva tasks list` shows
COLUMNS: Final = (
    *(columns.ID, columns.SIMULATOR, columns.STATUS),
    *(columns.SUBMITTED, columns.COMPUTATION_TIME, columns.MACHINE),
)


@click.command("list", short_help="List tasks, the newest first.")
@click.option(
    "-n",
    "--last",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Only the newest N tasks.  [default: {DEFAULT_COUNT}, as `inductiva tasks list` shows]",
)
@click.option("-a", "--all", "everything", is_flag=True, help="All tasks.  [default: off]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as a JSON array.  [default: off]"
)
@config_options("list")
def command(settings: Settings, count: int | None, everything: bool, as_json: bool) -> None:
    """List tasks, the newest first.

    On a narrow terminal the table leaves out the least important columns. Elsewhere all columns are
    printed as plain, aligned lines. Cells are never cut. Times are local. The computation time of a
    running task counts up to now.
    """
    if count and everything:
        raise click.UsageError("-n and --all exclude each other")
    limit = None if everything else count or DEFAULT_COUNT
    with open_reader(settings) as (config, client):
        with statuses_explained(config.status):
            tasks = _select(client, config, limit)
        check_filter(client, config.project, config.status, tasks)
    if as_json:
        click.echo(json.dumps([json.loads(task.record) for task in tasks], indent=2))
    elif tasks:
        print_table(COLUMNS, [_row(task) for task in tasks])
    else:
        click.echo("No tasks found.", err=True)


def _select(client: "TaskClient | OfflineAPI", config: "Config", limit: int | None) -> list[Task]:
    """Return the newest *limit* tasks that match the project and one of the statuses."""
    found = [
        task
        for status in config.status or (None,)
        for task in client.list_tasks(project=config.project, status=status, last=limit)
    ]
    if len(config.status) > 1:  # each listing is sorted, their concatenation is not
        unique = {task.id: task for task in found}
        found = sorted(unique.values(), key=lambda task: task.create_ns or 0, reverse=True)
    return found[:limit]


def _row(task: Task) -> tuple[str, ...]:
    return (
        task.id,
        task.simulator or "",
        task.status,
        format_local_time(task.input_submit_ns or task.create_ns),
        format_elapsed(task.computation_elapsed(time.time_ns())),
        task.machine_type,
    )
