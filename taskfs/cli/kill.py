"""`taskfs kill`."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli import completers
from taskfs.cli.api_session import missing_task, open_session
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.output import describe_error, print_error
from taskfs.cli.task_ids import parse_task_id, resolve_names
from taskfs.errors import AlreadyTerminated, BadAnswer, NotFound, TaskFSError, Unavailable
from taskfs.model import TaskStatus
from taskfs.support.parsing import parse_positive_duration

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

POLL_S: Final = 1.0  # seconds between two looks at the statuses with --wait


@click.command("kill", short_help="Kill tasks.")
@click.argument(
    "task_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    callback=parsed_by(parse_task_id),
    shell_complete=completers.complete_tasks(active=True),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.  [default: off]")
@click.option(
    "-w",
    "--wait",
    "limit_s",
    callback=parsed_by(parse_positive_duration),
    metavar="SECONDS",
    help="Wait at most this long for the tasks to end, and print the outcome of each.  "
    "[default: only send the requests]",
)
@config_options("kill")
def command(settings: Settings, task_ids: tuple[str, ...], yes: bool, limit_s: float | None) -> int:
    """List the tasks ID..., ask, and kill them.

    The answer is read from standard input. Anything but y or yes, and the end of the input, kills
    nothing. A task that does not exist or has ended is reported. The exit status is 0 if a kill
    request was sent for each task (with --wait: if each task was killed), else 1. Only tasks are
    killed: machines keep running.
    """
    with open_session(settings) as (_, client):
        requested = list(dict.fromkeys(resolve_names(client, task_ids)))
        killable = [task_id for task_id in requested if _is_killable(client, task_id)]
        if not killable:
            return 1
        if not (yes or _confirm(killable)):
            print_error("nothing was killed")
            return 1
        sent = [task_id for task_id in killable if _send_kill(client, task_id)]
        succeeded = sent if limit_s is None else _await_kills(client, sent, limit_s)
    return 0 if succeeded == requested else 1


def _is_killable(client: "TaskClient", task_id: str) -> bool:
    try:
        status = client.get_status(task_id)
    except NotFound:
        print_error(missing_task(task_id))
        return False
    except TaskFSError as exc:
        print_error(f"task {task_id}: {describe_error(exc)}")
        return False
    if status.is_terminated:
        print_error(f"task {task_id} has ended: it is {status.status}, and cannot be killed")
    return not status.is_terminated


def _confirm(task_ids: Sequence[str]) -> bool:
    click.echo("You are about to kill the following tasks:")
    for task_id in task_ids:
        click.echo(f"  - {task_id}")
    click.echo("Are you sure you want to proceed (y/[N])? ", nl=False)
    sys.stdout.flush()
    answer = sys.stdin.readline() if sys.stdin else ""  # None where descriptor 0 is closed
    if not (answer.endswith("\n") and sys.stdin.isatty()):
        click.echo()  # end the prompt's line, which no typed newline ended
    return answer.strip().lower() in {"y", "yes"}


def _send_kill(client: "TaskClient", task_id: str) -> bool:
    try:
        client.kill_task(task_id)
    except AlreadyTerminated as exc:
        print_error(f"{exc}: it ended before the kill request")
    except TaskFSError as exc:
        print_error(f"task {task_id}: {describe_error(exc)}")
    else:
        click.echo(f"Successfully sent kill request for task {task_id}.")
        return True
    return False


def _await_kills(client: "TaskClient", task_ids: Sequence[str], limit_s: float) -> list[str]:
    """Wait at most *limit_s* seconds until the tasks have ended; return those that were killed."""
    deadline = time.monotonic() + limit_s
    statuses = {task_id: "pending-kill" for task_id in task_ids}  # of the tasks still waited for
    killed = set()
    while statuses:
        for task_id in list(statuses):
            status = _try_status(client, task_id)
            if status is None:
                continue
            statuses[task_id] = status.status
            if not status.is_terminated:
                continue
            del statuses[task_id]
            if status.status == "killed":
                killed.add(task_id)
                click.echo(f"Successfully killed task {task_id}.")
            else:
                print_error(f"task {task_id} was not killed: it ended as {status.status}")
        remaining_s = deadline - time.monotonic()
        if not statuses or remaining_s <= 0:
            break
        sys.stdout.flush()
        time.sleep(min(POLL_S, remaining_s))
    for task_id, word in statuses.items():
        print_error(
            f"task {task_id} is still {word} after {limit_s:g} s: see `taskfs info {task_id}`"
        )
    return [task_id for task_id in task_ids if task_id in killed]


def _try_status(client: "TaskClient", task_id: str) -> TaskStatus | None:
    """Return the task's status, None if this request failed in a way that may pass."""
    try:
        return client.get_status(task_id)
    except (Unavailable, BadAnswer):
        return None
