"""`taskfs wait`."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli.api_session import open_session
from taskfs.cli.arguments import task_ids_argument
from taskfs.cli.failure_report import console_lines
from taskfs.cli.notification import notify, parse_command, run_command
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.output import describe_error, print_error
from taskfs.cli.status_line import StatusLine
from taskfs.cli.task_choice import has_failed
from taskfs.cli.task_ids import kill_sent, resolve_names
from taskfs.cli.task_report import cost_line
from taskfs.cli.task_wait import TaskWait
from taskfs.errors import NotFound, TaskFSError, WaitTimeout
from taskfs.model import Task
from taskfs.support.parsing import parse_positive_duration

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient

EXIT_ENDED_BADLY: Final = 1
EXIT_NO_SUCH_TASK: Final = 3
EXIT_TIMED_OUT: Final = 124  # as timeout(1)


@click.command("wait", short_help="Wait until tasks have ended.")
@task_ids_argument(required=True, active=True)
@click.option(
    "--any/--all",
    "until_any",
    default=False,
    help="Wait for the first task that ends, or for all tasks.  [default: --all]",
)
@click.option(
    "--kill-on-interrupt",
    is_flag=True,
    help="On Ctrl+C, send the kill requests before leaving.  [default: off]",
)
@click.option(
    "--timeout",
    "limit_s",
    callback=parsed_by(parse_positive_duration),
    metavar="SECONDS",
    help="Give up after this long, with exit status 124; the tasks continue.  [default: never]",
)
@click.option(
    "--notify",
    "with_notification",
    is_flag=True,
    help="At the end, show a desktop notification (if there is a desktop and notify-send) and ring "
    "the terminal's bell.  [default: off]",
)
@click.option(
    "--exec",
    "exec_words",
    callback=parsed_by(parse_command),
    metavar="CMD",
    help="Run CMD, without a shell, when a task has ended; TASK_ID, TASK_STATUS, TASK_PROJECT, "
    "TASK_SIMULATOR and TASK_MACHINE are in its environment.  [default: nothing]",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the record of the task as JSON once it has ended (of several, an array), and "
    "everything else to standard error.  [default: off]",
)
@config_options("wait")
def command(
    settings: Settings,
    task_ids: tuple[str, ...],
    until_any: bool,
    kill_on_interrupt: bool,
    limit_s: float | None,
    with_notification: bool,
    exec_words: tuple[str, ...] | None,
    as_json: bool,
) -> int:
    """Wait until the tasks ID... have ended, and show their progress.

    A terminal shows one line, rewritten in place; elsewhere each change is a line. If a task
    failed, its error and the last lines of its output are printed. The exit status is 0 if the
    tasks ended as success, and then their outputs are there; 1 if one ended badly; 3 if there is no
    such task; 124 after --timeout. Network failures do not end the wait once the first status has
    arrived. Ctrl+C ends it (status 130), and the tasks continue.
    """
    line = StatusLine(sys.stderr if as_json else sys.stdout)
    wait: TaskWait | None = None
    try:
        with open_session(settings, timeout_s=limit_s) as (config, client):
            ids = list(dict.fromkeys(resolve_names(client, task_ids)))
            reporter = _Reporter(config, client, exec_words, to_stderr=as_json)
            wait = TaskWait(client, ids, line, limit_s, reporter.report)
            wait.run(until_any=until_any)
            if as_json:
                _print_records(client, reporter.ended, is_array=len(ids) > 1)
    except KeyboardInterrupt:
        line.finish()
        running = wait.task_ids if wait else task_ids
        _interrupted(settings, running, kill=kill_on_interrupt, to_stderr=as_json)
        raise
    except NotFound as exc:
        line.finish()
        print_error(describe_error(exc))
        return EXIT_NO_SUCH_TASK
    except WaitTimeout as exc:
        line.finish()
        print_error(str(exc))
        return EXIT_TIMED_OUT
    except BaseException:
        line.finish()
        raise
    if with_notification:
        notify("taskfs wait", reporter.summary())
    return 0 if all(task.status == "success" for task in reporter.ended) else EXIT_ENDED_BADLY


def _interrupted(
    settings: Settings, task_ids: Sequence[str], *, kill: bool, to_stderr: bool
) -> None:
    """Kill the tasks, or say that they continue."""
    if kill:
        for task_id in task_ids:
            _kill(settings, task_id, to_stderr=to_stderr)
    elif len(task_ids) == 1:
        print_error(f"task {task_ids[0]} continues; `taskfs kill {task_ids[0]}` ends it")
    elif task_ids:
        names = " ".join(task_ids)
        print_error(f"{len(task_ids)} tasks continue; `taskfs kill {names}` ends them")


def _kill(settings: Settings, task_id: str, *, to_stderr: bool) -> None:
    """Send a kill request and print the outcome."""
    try:
        with open_session(settings) as (_, client):
            client.kill_task(task_id)
    except TaskFSError as exc:
        print_error(f"the kill request for task {task_id} failed: {exc}")
    else:
        click.echo(kill_sent(task_id), err=to_stderr)


def _print_records(client: "TaskClient", ended: Sequence[Task], *, is_array: bool) -> None:
    records = [client.task_detail(task.id) for task in ended]
    click.echo(json.dumps(records if is_array else records[0], indent=2))


class _Reporter:
    """Prints how tasks have ended, and runs the command of --exec."""

    def __init__(
        self,
        config: "Config",
        client: "TaskClient",
        exec_words: Sequence[str] | None,
        *,
        to_stderr: bool,
    ) -> None:
        self.ended: list[Task] = []
        self._config = config
        self._client = client
        self._exec_words = exec_words
        self._to_stderr = to_stderr

    def report(self, task: Task, text: str) -> None:
        """Print the line *text* about a task's end, and why it failed if it did."""
        self.ended.append(task)
        if text and not self._to_stderr:
            click.echo(text)
        if task.status != "success":
            self._explain(task)
        sys.stdout.flush()
        if self._exec_words:
            run_command(self._exec_words, task, to_stderr=self._to_stderr)

    def _explain(self, task: Task) -> None:
        reason = "; ".join(filter(None, (task.error_detail, task.executer_error)))
        print_error(f"task {task.id} ended as {task.status}" + (f": {reason}" if reason else ""))
        if not has_failed(task):
            return
        lines = [*cost_line(task), *console_lines(self._config, self._client, task)]
        for each in lines:
            click.echo(each, err=self._to_stderr)

    def summary(self) -> str:
        """Return the text of a notification."""
        return ", ".join(f"{task.id}: {task.status}" for task in self.ended)
