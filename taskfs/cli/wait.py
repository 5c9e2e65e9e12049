"""`taskfs wait`."""

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

import click

from taskfs.cli import completers
from taskfs.cli.api_session import open_session, task_must_exist
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.output import print_error
from taskfs.cli.status_line import StatusLine
from taskfs.cli.task_ids import parse_task_id, resolve_names
from taskfs.errors import (
    ArchiveLate,
    BadAnswer,
    TaskFSError,
    Unavailable,
    Unreachable,
    WaitTimeout,
)
from taskfs.model import Task, TaskStatus
from taskfs.support.formatting import format_count, format_elapsed
from taskfs.support.parsing import parse_positive_duration

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

T = TypeVar("T")

POLL_S: Final = 1.0  # seconds between two looks at the status


@click.command("wait", short_help="Wait until a task has ended.")
@click.argument(
    "task_id",
    metavar="ID",
    callback=parsed_by(parse_task_id),
    shell_complete=completers.complete_tasks(active=True),
)
@click.option(
    "--kill-on-interrupt",
    is_flag=True,
    help="On Ctrl+C, send the kill request before leaving.  [default: off]",
)
@click.option(
    "--timeout",
    "limit_s",
    callback=parsed_by(parse_positive_duration),
    metavar="SECONDS",
    help="Give up after this long, with exit status 1; the task goes on.  [default: never]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the task's record as JSON once it has ended, and everything else to standard "
    "error.  [default: off]",
)
@config_options("wait")
def command(
    settings: Settings,
    task_id: str,
    kill_on_interrupt: bool,
    limit_s: float | None,
    as_json: bool,
) -> int:
    """Wait until task ID has ended, showing its place in the queue, then its running time.

    A terminal shows one line, rewritten in place; elsewhere each change is a line. The exit status
    is 0 if the task ended as success, and then its outputs are there; else 1. Network failures do
    not end the wait. Ctrl+C ends it (status 130), and the task goes on.
    """
    line = StatusLine(sys.stderr if as_json else sys.stdout)
    try:
        with open_session(settings, timeout_s=limit_s) as (_, client):
            [task_id] = resolve_names(client, [task_id])
            return _Wait(client, task_id, line, limit_s, as_json).run()
    except KeyboardInterrupt:
        line.finish()
        if kill_on_interrupt:
            _kill(settings, task_id)
        else:
            print_error(f"task {task_id} goes on; `taskfs kill {task_id}` ends it")
        raise
    except BaseException:
        line.finish()
        raise


def _kill(settings: Settings, task_id: str) -> None:
    """Send a kill request and print the outcome."""
    try:
        with open_session(settings) as (_, client):
            client.kill_task(task_id)
    except TaskFSError as exc:
        print_error(f"the kill request for task {task_id} failed: {exc}")
    else:
        click.echo(f"Successfully sent kill request for task {task_id}.")


class _Wait:
    """Polls one task until it has ended."""

    def __init__(
        self,
        client: "TaskClient",
        task_id: str,
        line: StatusLine,
        limit_s: float | None,
        as_json: bool,
    ) -> None:
        self._client = client
        self._id = task_id
        self._line = line
        self._limit_s = limit_s
        self._as_json = as_json
        self._deadline = None if limit_s is None else time.monotonic() + limit_s
        self._task: Task | None = None

    def run(self) -> int:
        """Wait for the end of the task and return the exit status.

        Raises:
            NotFound: there is no such task.
            WaitTimeout: the limit has passed.
        """
        with task_must_exist(self._id):
            status: TaskStatus | None = self._client.get_status(self._id)
        while status is None or not status.is_terminated:
            if status is not None:
                self._show(status)
            self._pause(status.status if status else "without an answer")
            status = self._try(self._client.get_status)
        self._task = self._try(self._client.get_task) or self._task
        return self._report(status)

    def _show(self, status: TaskStatus) -> None:
        if self._task is None or self._task.status != status.status:
            self._task = self._try(self._client.get_task) or self._task
        words = status.status
        if status.tasks_ahead is not None:
            words += f", {format_count(status.tasks_ahead, 'task')} ahead in the queue"
        self._line.show(words, self._elapsed())

    def _elapsed(self) -> str:
        if self._task is None:
            return ""
        now_s = time.time() + (self._client.clock_offset_s or 0.0)
        return format_elapsed(self._task.computation_elapsed(int(now_s * 1e9)))

    def _report(self, status: TaskStatus) -> int:
        elapsed = self._elapsed()
        if status.status == "success":
            self._line.show_on_terminal("success, waiting for its outputs")
            self._await_outputs()
        self._line.clear()
        if self._as_json:
            click.echo(json.dumps(self._client.task_detail(self._id), indent=2))
        else:
            click.echo(f"{status.status}, {elapsed}" if elapsed else status.status)
        if status.status == "success":
            return 0
        reasons = (self._task.error_detail, self._task.executer_error) if self._task else ()
        reason = "; ".join(filter(None, reasons))
        print_error(f"task {self._id} ended as {status.status}" + (f": {reason}" if reason else ""))
        return 1

    def _await_outputs(self) -> None:
        """Return once the output archive exists, or is known to have been removed.

        An archive that exists but cannot be read ends the wait as well: `download` reports it.

        Raises:
            ArchiveLate: the archive did not appear in time.
        """
        from taskfs.download.archive_opener import ArchiveOpener
        from taskfs.tasks.archive_kind import ARCHIVE_GRACE_S, ArchiveKind

        opener = ArchiveOpener(self._client)
        while True:
            try:
                opener.open(self._id, ArchiveKind.OUTPUT, self._remaining_s(ARCHIVE_GRACE_S))
            except (ArchiveLate, Unreachable):
                raise
            except (Unavailable, BadAnswer) as exc:
                self._print_retry(exc)
                self._pause("success without its outputs")
                continue
            except TaskFSError as exc:
                self._line.clear()
                print_error(str(exc))
            return

    def _try(self, request: Callable[[str], T]) -> T | None:
        """Return the answer to a request about the task, None if it failed but may be retried."""
        try:
            return request(self._id)
        except (Unavailable, BadAnswer) as exc:
            self._print_retry(exc)
            return None

    def _print_retry(self, exc: Exception) -> None:
        self._line.clear()
        print_error(f"{exc}; trying again")

    def _remaining_s(self, max_s: float) -> float:
        """Return *max_s*, or the seconds left until the limit of --timeout if that is less."""
        if self._deadline is None:
            return max_s
        return max(0.0, min(max_s, self._deadline - time.monotonic()))

    def _pause(self, state: str) -> None:
        pause_s = self._remaining_s(POLL_S)
        if not pause_s:
            raise WaitTimeout(f"task {self._id} is still {state} after {self._limit_s:g} s")
        time.sleep(pause_s)
