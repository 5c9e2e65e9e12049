"""`taskfs top`."""

import click

from taskfs.cli.arguments import task_id_argument
from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import open_tree


@click.command("top", short_help="Show the processes on a running task's machine.")
@task_id_argument
@config_options("top")
def command(settings: Settings, task_id: str) -> None:
    """Show the processes on the machine of task ID, which must be running, as top(1) prints them.

    Needs the extra `live`; `taskfs doctor` says whether it is installed.
    """
    with open_tree(settings, [TaskPath(task_id)]) as tree:
        click.echo(tree.live_files(tree.task_id(task_id)).top().rstrip("\n"))
