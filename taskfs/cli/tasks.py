"""`taskfs list`, `taskfs info` and `taskfs kill`."""

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from taskfs.cli import columns
from taskfs.cli import completers as candidates
from taskfs.cli.console import (
    complain,
    known_task,
    local_time,
    open_reading,
    open_session,
    print_table,
    with_fix,
)
from taskfs.cli.options import Settings, config_options, reads
from taskfs.errors import (
    AlreadyTerminated,
    BadAnswer,
    ConfigError,
    NotFound,
    TaskFSError,
    Unavailable,
)
from taskfs.model import Task, TaskStatus, format_elapsed
from taskfs.options import parse_positive_duration, parse_text
from taskfs.tasks.filter_check import check_filter, statuses_explained

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

KILL_POLL_S = 1.0
MAX_ID = 255  # characters: an id is the name of a directory
LISTED_BY_DEFAULT = 10  # as `inductiva tasks list`
COLUMNS = (
    *(columns.ID, columns.SIMULATOR, columns.STATUS),
    *(columns.SUBMITTED, columns.COMPUTATION_TIME, columns.MACHINE),
)


def parse_task_id(text: str) -> str:
    """Return the id of a task, of which nothing more is asked than that it can be one."""
    task_id = parse_text(text).strip().rstrip("/")  # as the shell completes a task's directory
    if not task_id or "/" in task_id or task_id.startswith(".") or len(task_id) > MAX_ID:
        shown = text if len(text) <= MAX_ID else f"{text[:40]}..."
        raise ConfigError(f"{shown!r} is not the id of a task: see `taskfs list`")
    return task_id


@click.command("list", short_help="List tasks, the newest first.")
@click.option(
    "-n",
    "--last",
    "count",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the newest N tasks, as many as `inductiva tasks list` shows.  "
    f"[default: {LISTED_BY_DEFAULT}]",
)
@click.option("-a", "--all", "everything", is_flag=True, help="All tasks.  [default: off]")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the records as a JSON array.  [default: off]"
)
@config_options("list")
def list_tasks(settings: Settings, count: int | None, everything: bool, as_json: bool) -> None:
    """List tasks, the newest first.

    A table on a terminal, which leaves out the least important columns where it is narrow; else
    plain lines with all columns, aligned. Nothing is ever cut. Times are local. The computation
    time of a task that still computes counts up to now.
    """
    if count and everything:
        raise click.UsageError("-n and --all exclude each other")
    limit = None if everything else count or LISTED_BY_DEFAULT
    with open_reading(settings) as (config, client):
        with statuses_explained(config.status):
            tasks = _matching(client, config, limit)
        check_filter(client, config.project, config.status, tasks)
    if as_json:
        click.echo(json.dumps([json.loads(task.record) for task in tasks], indent=2))
    elif tasks:
        print_table(COLUMNS, [_row(task) for task in tasks])
    else:
        click.echo("No tasks found.", err=True)


def _matching(client: "TaskClient | OfflineAPI", config: "Config", limit: int | None) -> list[Task]:
    """Return the newest *limit* tasks of the project that have one of the statuses."""
    found = [
        task
        for status in config.status or (None,)
        for task in client.list_tasks(project=config.project, status=status, last=limit)
    ]
    if len(config.status) > 1:  # each listing is sorted, several together are not
        unique = {task.id: task for task in found}
        found = sorted(unique.values(), key=lambda task: task.create_ns or 0, reverse=True)
    return found[:limit]


def _row(task: Task) -> tuple[str, ...]:
    return (
        task.id,
        task.simulator or "",
        task.status,
        local_time(task.input_submit_ns or task.create_ns),
        format_elapsed(task.computation_elapsed(time.time_ns())),
        task.machine_type,
    )


@click.command("info", short_help="Show a task's record and timeline.")
@click.argument(
    "task_id",
    metavar="ID",
    callback=reads(parse_task_id),
    shell_complete=candidates.tasks(),
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the record as the API gave it, as JSON.  [default: off]",
)
@config_options("info")
def show(settings: Settings, task_id: str, as_json: bool) -> None:
    """Show what the record of task ID says, with its timeline."""
    with open_reading(settings) as (_, client), known_task(task_id):
        record = client.task_detail(task_id)
    if as_json:
        click.echo(as_json_text(record))
        return
    from taskfs.cli.report import report

    click.echo("\n".join(report(record, time.time_ns())))


def as_json_text(record: object) -> str:
    """Return *record* as indented JSON: in ASCII, unless standard output is UTF-8 and can hold it.

    JSON is UTF-8 (RFC 8259), and a replaced character would be lost.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False)
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    try:
        text.encode("utf-8" if is_utf8 else "ascii")
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return json.dumps(record, indent=2)
    return text


@click.command(short_help="Kill tasks.")
@click.argument(
    "task_ids",
    metavar="ID...",
    nargs=-1,
    required=True,
    callback=reads(parse_task_id),
    shell_complete=candidates.tasks(active=True),
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.  [default: off]")
@click.option(
    "-w",
    "--wait",
    "limit_s",
    callback=reads(parse_positive_duration),
    metavar="SECONDS",
    help="Wait so long until they are killed, and say what became of each.  "
    "[default: only send the requests]",
)
@config_options("kill")
def kill(settings: Settings, task_ids: tuple[str, ...], yes: bool, limit_s: float | None) -> int:
    """Kill the tasks ID..., after listing them and asking.

    The answer is read from standard input; anything but y or yes, and the end of the input, kills
    nothing. A task that does not exist, or has ended, is reported. The exit status is 0 if every
    task named was asked to end (with --wait: if every one is killed), else 1. Machines stay as
    they are: only tasks are killed.
    """
    with open_session(settings) as (_, client):
        wanted = list(dict.fromkeys(task_ids))
        killable = [task_id for task_id in wanted if _is_killable(client, task_id)]
        if not killable:
            return 1
        if not (yes or _confirmed(killable)):
            complain("nothing was killed")
            return 1
        sent = [task_id for task_id in killable if _send_kill(client, task_id)]
        ended = sent if limit_s is None else _await_kills(client, sent, limit_s)
    return 0 if ended == wanted else 1


def _is_killable(client: "TaskClient", task_id: str) -> bool:
    try:
        status = client.get_status(task_id)
    except NotFound:
        complain(f"there is no task {task_id}: see `taskfs list --all`")
        return False
    except TaskFSError as exc:
        complain(f"task {task_id}: {with_fix(exc)}")
        return False
    if status.is_terminated:
        complain(f"task {task_id} has ended: it is {status.status}, and cannot be killed")
    return not status.is_terminated


def _confirmed(task_ids: Sequence[str]) -> bool:
    click.echo("You are about to kill the following tasks:")
    for task_id in task_ids:
        click.echo(f"  - {task_id}")
    click.echo("Are you sure you want to proceed (y/[N])? ", nl=False)
    sys.stdout.flush()
    answer = sys.stdin.readline() if sys.stdin else ""  # None where descriptor 0 is closed
    if not (answer.endswith("\n") and sys.stdin.isatty()):
        click.echo()  # nobody typed the end of this line
    return answer.strip().lower() in {"y", "yes"}


def _send_kill(client: "TaskClient", task_id: str) -> bool:
    try:
        client.kill_task(task_id)
    except AlreadyTerminated as exc:
        complain(f"{exc}: it ended before the kill request")
    except TaskFSError as exc:
        complain(f"task {task_id}: {with_fix(exc)}")
    else:
        click.echo(f"Successfully sent kill request for task {task_id}.")
        return True
    return False


def _await_kills(client: "TaskClient", task_ids: Sequence[str], limit_s: float) -> list[str]:
    """Wait until the tasks are terminal, at most *limit_s* seconds; return those killed."""
    deadline = time.monotonic() + limit_s
    waiting = {task_id: "pending-kill" for task_id in task_ids}
    killed = set()
    while waiting:
        for task_id in list(waiting):
            status = _look(client, task_id)
            if status is None:
                continue
            waiting[task_id] = status.status
            if not status.is_terminated:
                continue
            del waiting[task_id]
            if status.status == "killed":
                killed.add(task_id)
                click.echo(f"Successfully killed task {task_id}.")
            else:
                complain(f"task {task_id} was not killed: it ended as {status.status}")
        remaining_s = deadline - time.monotonic()
        if not waiting or remaining_s <= 0:
            break
        sys.stdout.flush()
        time.sleep(min(KILL_POLL_S, remaining_s))
    for task_id, word in waiting.items():
        complain(f"task {task_id} is still {word} after {limit_s:g} s: see `taskfs info {task_id}`")
    return [task_id for task_id in task_ids if task_id in killed]


def _look(client: "TaskClient", task_id: str) -> TaskStatus | None:
    """Return the task's status, None where the API gave no usable answer this time."""
    try:
        return client.get_status(task_id)
    except (Unavailable, BadAnswer):
        return None
