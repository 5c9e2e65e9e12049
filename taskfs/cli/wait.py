"""`taskfs wait`."""

import errno
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from taskfs.cli import completers as candidates
from taskfs.cli.console import StatusLine, complain, known_task, open_session
from taskfs.cli.options import Settings, config_options, reads
from taskfs.cli.tasks import parse_task_id
from taskfs.errors import BadAnswer, TaskFSError, Unavailable, Unreachable
from taskfs.model import Task, TaskStatus, format_elapsed
from taskfs.options import parse_positive_duration

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

POLL_S = 1.0


class TimeIsUp(TaskFSError):
    """The limit that the user set has passed."""

    errno = errno.ETIMEDOUT


@click.command(short_help="Wait until a task has ended.")
@click.argument(
    "task_id",
    metavar="ID",
    callback=reads(parse_task_id),
    shell_complete=candidates.tasks(active=True),
)
@click.option(
    "--kill-on-interrupt",
    is_flag=True,
    help="On Ctrl+C, send the kill request before leaving.  [default: off]",
)
@click.option(
    "--timeout",
    "limit_s",
    callback=reads(parse_positive_duration),
    metavar="SECONDS",
    help="Give up after this long, with exit status 1; the task goes on.  [default: never]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the task's record as JSON once it has ended; what goes before, on standard error.  "
    "[default: off]",
)
@config_options("wait")
def wait(
    settings: Settings,
    task_id: str,
    kill_on_interrupt: bool,
    limit_s: float | None,
    as_json: bool,
) -> int:
    """Wait until task ID has ended, showing its place in the queue, then its running time.

    On a terminal one line is kept up to date; otherwise there is a line for each change. The exit
    status is 0 for a task that ended as success, whose outputs are there by then, else 1. Failures
    of the network do not end the waiting. Ctrl+C does (130), and the task goes on.
    """
    line = StatusLine(sys.stderr if as_json else sys.stdout)
    try:
        with open_session(settings, timeout_s=limit_s) as (_, client):
            return _Watch(client, task_id, line, limit_s, as_json).until_ended()
    except KeyboardInterrupt:
        line.end()
        if kill_on_interrupt:
            _kill_now(settings, task_id)
        else:
            complain(f"task {task_id} goes on; `taskfs kill {task_id}` ends it")
        raise
    except BaseException:
        line.end()
        raise


def _kill_now(settings: Settings, task_id: str) -> None:
    """Send the kill request and say so; a failure is said, too: the interrupt goes on."""
    try:
        with open_session(settings) as (_, client):
            client.kill_task(task_id)
    except TaskFSError as exc:
        complain(f"the kill request for task {task_id} failed: {exc}")
    else:
        click.echo(f"Successfully sent kill request for task {task_id}.")


class _Watch:
    """One task, looked at until it has ended."""

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

    def until_ended(self) -> int:
        """Return the exit status once the task has ended; Unavailable when the time is up."""
        with known_task(self._id):
            status: TaskStatus | None = self._client.get_status(self._id)
        while status is None or not status.is_terminated:
            if status is not None:
                self._show(status)
            self._pause(status.status if status else "without an answer")
            status = self._transient_is_none(self._client.get_status)
        self._task = self._transient_is_none(self._client.get_task) or self._task
        return self._report(status)

    def _show(self, status: TaskStatus) -> None:
        if self._task is None or self._task.status != status.status:
            self._task = self._transient_is_none(self._client.get_task) or self._task
        words = status.status
        if status.tasks_ahead is not None:
            plural = "" if status.tasks_ahead == 1 else "s"
            words += f", {status.tasks_ahead} task{plural} ahead in the queue"
        self._line.show(words, self._elapsed())

    def _elapsed(self) -> str:
        now_s = time.time() + (self._client.clock_offset_s or 0.0)
        return (
            format_elapsed(self._task.computation_elapsed(int(now_s * 1e9))) if self._task else ""
        )

    def _report(self, status: TaskStatus) -> int:
        elapsed = self._elapsed()
        if status.status == "success":
            self._line.note("success, waiting for its outputs")
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
        complain(f"task {self._id} ended as {status.status}" + (f": {reason}" if reason else ""))
        return 1

    def _await_outputs(self) -> None:
        """Return once the archive is there, or has been gone for long; ArchiveLate if it is late.

        An archive that cannot be read is there: `download` will say what is wrong with it.
        """
        from taskfs.download.plan import ARCHIVE_GRACE_S, ArchiveLate, Archives
        from taskfs.tasks.archives import ArchiveKind

        archives = Archives(self._client)
        while True:
            try:
                archives.wait_for(self._id, ArchiveKind.OUTPUT, self._remaining_s(ARCHIVE_GRACE_S))
            except (ArchiveLate, Unreachable):
                raise
            except (Unavailable, BadAnswer) as exc:
                self._complain_of(exc)
                self._pause("success without its outputs")
                continue
            except TaskFSError as exc:
                self._line.clear()
                complain(str(exc))
            return

    def _transient_is_none(self, call: Any) -> Any:
        """Return what *call* says of the task, None where the API gave no usable answer."""
        try:
            return call(self._id)
        except (Unavailable, BadAnswer) as exc:
            self._complain_of(exc)
            return None

    def _complain_of(self, exc: Exception) -> None:
        self._line.clear()
        complain(f"{exc}; trying again")

    def _remaining_s(self, most_s: float) -> float:
        """Return how long to wait: *most_s*, or less where the user's limit comes first."""
        if self._deadline is None:
            return most_s
        return max(0.0, min(most_s, self._deadline - time.monotonic()))

    def _pause(self, state: str) -> None:
        pause_s = self._remaining_s(POLL_S)
        if not pause_s:
            raise TimeIsUp(f"task {self._id} is still {state} after {self._limit_s:g} s")
        time.sleep(pause_s)
