"""`taskfs kill`."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli import completers
from taskfs.cli.api_session import open_session
from taskfs.cli.arguments import task_ids_argument
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.output import align, describe_error, print_error
from taskfs.cli.task_choice import TaskChoice
from taskfs.cli.task_ids import kill_sent, missing_task, resolve_names
from taskfs.errors import AlreadyTerminated, BadResponse, NotFound, TaskFSError, Unavailable
from taskfs.model import Task
from taskfs.options import BY_NAME
from taskfs.support.formatting import escape_controls, format_age
from taskfs.support.parsing import parse_positive_duration, parse_words

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

POLL_S: Final = 1.0  # seconds between two requests for the statuses with --wait


@click.command("kill", short_help="Kill tasks.")
@task_ids_argument(active=True)
@click.option(
    "-p",
    "--project",
    metavar="NAME",
    shell_complete=completers.completer_of(BY_NAME["project"]),
    help="Kill the unfinished tasks of this project.  [default: only ID...]",
)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    shell_complete=completers.completer_of(BY_NAME["status"]),
    help="Kill the unfinished tasks with this status; may be given several times.  "
    "[default: only ID...]",
)
@click.option(
    "-a", "--all", "everything", is_flag=True, help="Kill all unfinished tasks.  [default: off]"
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
def command(
    settings: Settings,
    task_ids: tuple[str, ...],
    project: str | None,
    statuses: tuple[str, ...],
    everything: bool,
    yes: bool,
    limit_s: float | None,
) -> int:
    """List the tasks ID..., or the unfinished ones that the options choose, ask, and kill them.

    The answer is read from standard input. Anything but y or yes, and the end of the input, kills
    nothing. A task that does not exist or has ended is reported. The exit status is 0 if a kill
    request was sent for each task (with --wait: if each task was killed), else 1. Only tasks are
    killed: machines keep running.
    """
    is_choice = bool(project or statuses or everything)
    if bool(task_ids) == is_choice:
        raise click.UsageError("name tasks, or choose them with --project, --status or --all")
    if everything and (project or statuses):
        raise click.UsageError("--all kills all: leave out --project and --status")
    with open_session(settings) as (_, client):
        if is_choice:
            words = [word for text in statuses for word in parse_words(text)]
            choice = TaskChoice(project, words, running=True)
            killable = choice.select(client, None)
            requested = [task.id for task in killable]
        else:
            requested = list(dict.fromkeys(resolve_names(client, task_ids)))
            found = (_find_killable(client, task_id) for task_id in requested)
            killable = [task for task in found if task is not None]
        if not killable:
            if is_choice:
                print_error("no unfinished task matches: see `taskfs list --running`")
            return 1
        if is_choice or not yes:
            _print_tasks(killable)
        if not (yes or _confirm()):
            return 1
        sent = [task.id for task in killable if _send_kill(client, task.id)]
        succeeded = sent if limit_s is None else _await_kills(client, sent, limit_s)
    return 0 if succeeded == requested else 1


def _find_killable(client: "TaskClient", task_id: str) -> Task | None:
    """Return the task; print why and return None if it cannot be killed."""
    try:
        task = client.get_task(task_id)
    except NotFound:
        print_error(missing_task(task_id))
        return None
    except TaskFSError as exc:
        print_error(f"task {task_id}: {describe_error(exc)}")
        return None
    if task.is_terminated:
        print_error(f"task {task_id} cannot be killed: it has ended ({task.status})")
        return None
    return task


def _print_tasks(tasks: Sequence[Task]) -> None:
    """Print each task with its status, simulator, project and age."""
    click.echo("You are about to kill the following tasks:")
    now_ns = time.time_ns()
    rows = []
    for task in tasks:
        created_ns = task.input_submit_ns or task.create_ns
        age = "" if created_ns is None else f"{format_age((now_ns - created_ns) / 1e9)} old"
        words = (task.id, task.status, task.simulator or "", task.project or "", age)
        rows.append([escape_controls(word) for word in words])
    for line in align(rows):
        click.echo(f"  - {line}")


def _confirm() -> bool:
    """Ask whether to kill the tasks that were printed; say so if the answer is not yes."""
    click.echo("Are you sure you want to proceed (y/[N])? ", nl=False)
    sys.stdout.flush()
    answer = sys.stdin.readline() if sys.stdin else ""  # None where descriptor 0 is closed
    if not (answer.endswith("\n") and sys.stdin.isatty()):
        click.echo()  # end the prompt's line, which no typed newline ended
    if answer.strip().lower() in {"y", "yes"}:
        return True
    why = "" if answer else ": standard input has no answer; -y kills without asking"
    print_error(f"nothing was killed{why}")
    return False


def _send_kill(client: "TaskClient", task_id: str) -> bool:
    try:
        client.kill_task(task_id)
    except AlreadyTerminated as exc:
        print_error(f"{exc}: it ended before the kill request")
    except TaskFSError as exc:
        print_error(f"task {task_id}: {describe_error(exc)}")
    else:
        click.echo(kill_sent(task_id))
        return True
    return False


def _await_kills(client: "TaskClient", task_ids: Sequence[str], limit_s: float) -> list[str]:
    """Wait at most *limit_s* seconds until the tasks have ended; return those that were killed."""
    deadline = time.monotonic() + limit_s
    statuses = {task_id: "pending-kill" for task_id in task_ids}  # of the tasks still waited for
    killed = set()
    while statuses:
        for task_id in list(statuses):
            try:
                status = client.get_status(task_id)
            except (Unavailable, BadResponse):  # it may pass
                continue
            except TaskFSError as exc:
                del statuses[task_id]
                print_error(f"task {task_id}: {describe_error(exc)}")
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
