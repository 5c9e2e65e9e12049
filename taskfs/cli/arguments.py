"""The arguments that several commands take: tasks, and a mountpoint."""

from collections.abc import Callable
from typing import Any, Final

import click

from taskfs.cli import completers
from taskfs.cli.options import parsed_by
from taskfs.support.parsing import parse_path


def _parse_task_id(text: str) -> str:
    from taskfs.cli.task_ids import parse_task_id

    return parse_task_id(text)


# The argument `task_id`: ID.
task_id_argument: Final = click.argument(
    "task_id",
    metavar="ID",
    callback=parsed_by(_parse_task_id),
    shell_complete=completers.complete_tasks(),
)
# The argument `mountpoint`, which may be absent.
mountpoint_argument: Final = click.argument(
    "mountpoint",
    required=False,
    callback=parsed_by(parse_path),
    shell_complete=completers.complete_directories,
)


def task_ids_argument(*, required: bool = False, active: bool = False) -> Callable[[Any], Any]:
    """Return the decorator that adds the argument `task_ids`; completion offers *active* tasks."""
    return click.argument(
        "task_ids",
        metavar="ID..." if required else "[ID]...",
        nargs=-1,
        required=required,
        callback=parsed_by(_parse_task_id),
        shell_complete=completers.complete_tasks(active=active),
    )
