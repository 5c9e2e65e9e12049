"""`taskfs watch`."""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click

from taskfs.cli.api_session import open_session
from taskfs.cli.keyboard import HangUp, unbuffered
from taskfs.cli.last_write import LastWrites, fetch_last_writes
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import describe_error, is_terminal, print_table
from taskfs.cli.signals import leave
from taskfs.cli.task_ids import kill_sent
from taskfs.cli.watch_screen import Action, Screen
from taskfs.cli.watch_tasks import COLUMNS, MAX_REQUESTS, Snapshot, UnfinishedTasks
from taskfs.errors import ConfigError, TaskFSError
from taskfs.tasks.filter_check import check_filter

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient

MIN_PERIOD_S: Final = 0.5  # seconds between two updates, if --status-cache-time is shorter
TICK_S: Final = 0.25  # seconds to wait for a key: how late the screen shows a new snapshot
NO_TERMINAL: Final = (
    "watch needs a terminal: --once prints its table once, --json prints the records"
)


@click.command("watch", short_help="Show the unfinished tasks, kept up to date.")
@click.option("--once", is_flag=True, help="Print the table once and exit.  [default: off]")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the records once as a JSON array, each with its position_in_queue and last_write, "
    "and exit.  [default: off]",
)
@config_options("watch")
def command(settings: Settings, once: bool, as_json: bool) -> None:
    """Show the unfinished tasks, kept up to date, and kill some.

    The table shows status, place in the queue, computation time, machine, estimated cost and, of a
    running task, how long ago it last wrote a file. It is updated every --status-cache-time.
    Tasks that end meanwhile stay, dimmed, with their result. The arrow keys, or j and k, choose a
    task; Enter shows what `taskfs info` prints; x asks whether to kill it; q or Ctrl+C leaves.
    Without a terminal, use --once or --json.
    """
    on_terminal = is_terminal(sys.stdout) and sys.stdin is not None and sys.stdin.isatty()
    if not (once or as_json or on_terminal):
        raise ConfigError(NO_TERMINAL)
    with open_session(settings) as (config, client):
        tasks = UnfinishedTasks(client, config.project, config.status)
        first = tasks.update(max_positions=None if once or as_json else MAX_REQUESTS)
        check_filter(client, config.project, config.status, first.tasks)
        if once or as_json:
            written = fetch_last_writes(config, client, first.tasks)
            _print_once(replace(first, written=written), as_json)
        else:
            from taskfs.remote import wait_notice

            wait_notice.set_notifier(None)  # the screen shows failures
            _LiveTable(config, client, tasks).run(first)


def _print_once(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([snapshot.record(task) for task in snapshot.tasks], indent=2))
    elif snapshot.tasks:
        now_ns = time.time_ns()
        print_table(COLUMNS, [snapshot.row(task, now_ns) for task in snapshot.tasks])
    else:
        click.echo("No unfinished tasks.", err=True)


class _LiveTable:
    """The live table on a terminal.

    The main thread draws and reads keys, `taskfs-follow` fetches snapshots, and `taskfs-ask` sends
    kill requests and fetches details. They exchange snapshots through a queue, and the results of
    requests through futures.
    """

    def __init__(self, config: "Config", client: "TaskClient", tasks: UnfinishedTasks) -> None:
        self._config = config
        self._client = client
        self._tasks = tasks
        self._last_writes = LastWrites(config, client)
        self._period_s = max(MIN_PERIOD_S, config.status_cache_time_s)
        self._screen = Screen(f" of {config.project}" if config.project else "")
        self._snapshots: queue.SimpleQueue[Snapshot | TaskFSError] = queue.SimpleQueue()
        self._update_now = threading.Event()
        self._requests = ThreadPoolExecutor(2, thread_name_prefix="taskfs-ask")
        self._details: Future[list[str]] | None = None
        self._kills: dict[Future[Any], str] = {}
        self._kill_outcomes: list[str] = []

    def run(self, first: Snapshot) -> None:
        """Show *first* and later snapshots until the user leaves; then print the kill outcomes."""
        if not self._config.log_file:
            from taskfs.support import logs

            logs.log_nowhere()
        self._screen.show(first)
        threading.Thread(target=self._follow, name="taskfs-follow", daemon=True).start()
        try:
            while self._show() == "suspend":
                os.kill(0, signal.SIGTSTP)  # the whole job, as the terminal does on Ctrl+Z
            self._collect_kills(wait=True)
        finally:
            self._last_writes.close()
            for line in self._kill_outcomes:
                click.echo(line)
        raise SystemExit(0)  # do not wait for requests of the other threads

    def _follow(self) -> None:
        while True:
            self._update_now.wait(self._period_s)
            self._update_now.clear()
            try:
                snapshot = self._tasks.update()
                written = self._last_writes.known(self._screen.shown)
                self._snapshots.put(replace(snapshot, written=written))
            except TaskFSError as exc:
                self._snapshots.put(exc)

    def _show(self) -> str:
        """Draw until the user leaves or suspends; return `leave` or `suspend`."""
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with (
            _exit_on_signals(),
            unbuffered(sys.stdin.fileno()) as keyboard,
            Live(console=console, screen=True, auto_refresh=False) as live,
            contextlib.suppress(HangUp),
        ):
            drawn: tuple[object, ...] = ()
            while True:
                self._screen.clock_offset_s = self._client.clock_offset_s or 0.0
                now = (console.size, int(time.time()))
                if drawn != now:
                    live.update(self._screen.render(*console.size), refresh=True)
                    drawn = now
                for key in keyboard.read(TICK_S):
                    drawn = ()
                    action = self._screen.press(key)
                    if action is not None and not action.task_id:
                        return action.name
                    if action is not None:
                        self._request(action)
                if self._take_snapshots() | self._collect_kills() | self._take_details():
                    drawn = ()
        return "leave"

    def _request(self, action: Action) -> None:
        if action.name == "kill":
            future = self._requests.submit(self._client.kill_task, action.task_id)
            self._kills[future] = action.task_id
        else:
            self._details = self._requests.submit(self._fetch_details, action.task_id)

    def _fetch_details(self, task_id: str) -> list[str]:
        from taskfs.cli.failure_report import console_lines
        from taskfs.cli.task_report import report_lines, task_of

        record = self._client.task_detail(task_id)
        console = list(console_lines(self._config, self._client, task_of(record)))
        return [*report_lines(record, time.time_ns()), *([""] if console else []), *console]

    def _take_details(self) -> bool:
        """Show the fetched details of a task; return whether there were any."""
        if self._details is None or not self._details.done():
            return False
        future, self._details = self._details, None
        exc = future.exception()
        if exc is None:
            self._screen.show_info(future.result())
        else:
            text = describe_error(exc) if isinstance(exc, TaskFSError) else repr(exc)
            self._screen.message = " ".join(text.split())
        return True

    def _take_snapshots(self) -> bool:
        """Show the queued snapshots or errors; return whether there were any."""
        taken = False
        with contextlib.suppress(queue.Empty):
            while True:
                news = self._snapshots.get_nowait()
                taken = True
                if isinstance(news, Snapshot):
                    self._screen.show(news)
                else:
                    reason = " ".join(describe_error(news).split())
                    self._screen.failure = f"not up to date, trying again: {reason}"
        return taken

    def _collect_kills(self, *, wait: bool = False) -> bool:
        """Report the answered kill requests; with *wait*, wait for all. Return whether any."""
        answered = [future for future in self._kills if wait or future.done()]
        for future in answered:
            task_id = self._kills.pop(future)
            exc = future.exception()
            if exc is None:
                outcome = kill_sent(task_id)
            else:
                reason = describe_error(exc) if isinstance(exc, TaskFSError) else repr(exc)
                outcome = f"task {task_id} was not killed: {' '.join(reason.split())}"
            self._screen.message = outcome
            self._kill_outcomes.append(outcome)
            self._update_now.set()
        return bool(answered)


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that the terminal is restored."""
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
