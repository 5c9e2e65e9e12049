"""`taskfs info`."""

import time

import click

from taskfs.cli.api_session import open_reader
from taskfs.cli.arguments import task_id_argument
from taskfs.cli.failure_report import console_lines
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import format_json
from taskfs.cli.task_ids import resolve_names, task_must_exist
from taskfs.model import LIVE_STATUSES


@click.command("info", short_help="Show a task's record and timeline.")
@task_id_argument
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the API's record as JSON, of a running task with its last_write.  [default: off]",
)
@config_options("info")
def command(settings: Settings, task_id: str, as_json: bool) -> None:
    """Show the record of task ID: its state, timeline, metrics and cost.

    Of a task that failed, the last lines of stderr.txt and stdout.txt follow.
    """
    with open_reader(settings) as (config, client):
        [task_id] = resolve_names(client, [task_id])
        with task_must_exist(task_id):
            record = client.task_detail(task_id)
        from taskfs.cli.last_write import describe_last_write, fetch_last_writes
        from taskfs.cli.task_report import report_lines, task_of

        task = task_of(record)
        writes = fetch_last_writes(config, client, [task])
        if as_json:
            written = writes.get(task_id)
            if task.status in LIVE_STATUSES:
                record = {**record, "last_write": written.to_json() if written else None}
            click.echo(format_json(record))
            return
        click.echo("\n".join(report_lines(record, time.time_ns())))
        for written in writes.values():
            click.echo(f"\nLast write: {describe_last_write(written) or 'nothing yet'}")
        for number, line in enumerate(console_lines(config, client, task)):
            click.echo(line if number else f"\n{line}")
