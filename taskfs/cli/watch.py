"""`taskfs watch`."""

import contextlib
import json
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import click

from taskfs.cli.console import is_terminal, open_session, print_table, with_fix
from taskfs.cli.keyboard import HangUp, unbuffered
from taskfs.cli.options import Settings, config_options
from taskfs.cli.watch_tasks import COLUMNS, MAX_ASKED, Snapshot, Unfinished
from taskfs.cli.watchscreen import Screen
from taskfs.errors import ConfigError, TaskFSError
from taskfs.tasks.filter_check import check_filter

if TYPE_CHECKING:
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient

MIN_PERIOD_S: Final = 0.5
TICK_S: Final = 0.25
NO_TERMINAL: Final = (
    "watch needs a terminal: --once prints its table once, --json prints the records"
)


@click.command(short_help="Show the unfinished tasks, kept up to date.")
@click.option("--once", is_flag=True, help="Print the table once, and end.  [default: off]")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the records once as a JSON array, each with its position_in_queue, and end.  "
    "[default: off]",
)
@config_options("watch")
def watch(settings: Settings, once: bool, as_json: bool) -> None:
    """Show the unfinished tasks, kept up to date, and kill some.

    A table of their status, place in the queue, computation time, machine and estimated cost, asked
    for anew every --status-cache-time. The arrow keys choose a task; k asks whether to kill it; q
    or Ctrl+C leaves. Without a terminal, --once or --json print what there is.
    """
    on_terminal = is_terminal(sys.stdout) and sys.stdin is not None and sys.stdin.isatty()
    if not (once or as_json or on_terminal):
        raise ConfigError(NO_TERMINAL)
    with open_session(settings) as (config, client):
        tasks = Unfinished(client, config.project, config.status)
        first = tasks.refresh(max_asked=None if once or as_json else MAX_ASKED)
        check_filter(client, config.project, config.status, first.tasks)
        if once or as_json:
            _print_once(first, as_json)
        else:
            from taskfs.support import wait_notice

            wait_notice.tell_with(None)  # the screen is drawn: it shows a failure itself
            _Watch(config, client, tasks).until_left(first)


def _print_once(snapshot: Snapshot, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([snapshot.record(task) for task in snapshot.tasks], indent=2))
    elif snapshot.tasks:
        now_ns = time.time_ns()
        print_table(COLUMNS, [snapshot.row(task, now_ns) for task in snapshot.tasks])
    else:
        click.echo("No unfinished tasks.", err=True)


class _Watch:
    """The live table. This thread has the terminal; another one asks the API, a third one kills."""

    def __init__(self, config: "Config", client: "TaskClient", tasks: Unfinished) -> None:
        self._config = config
        self._client = client
        self._tasks = tasks
        self._period_s = max(MIN_PERIOD_S, config.status_cache_time_s)
        self._screen = Screen(f" of {config.project}" if config.project else "")
        self._news: queue.SimpleQueue[Snapshot | TaskFSError] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._kills: dict[Future[Any], str] = {}
        self._outcomes: list[str] = []

    def until_left(self, first: Snapshot) -> None:
        """Show *first* and later ones until the user leaves; then print what the kills did."""
        if not self._config.log_file:
            from taskfs.support import logs

            logs.log_nowhere()
        self._screen.show(first)
        threading.Thread(target=self._follow, name="taskfs-watch", daemon=True).start()
        killing = ThreadPoolExecutor(1, thread_name_prefix="taskfs-kill")
        try:
            self._show(lambda task_id: killing.submit(self._client.kill_task, task_id))
            self._note_kills(wait=True)
        finally:
            for line in self._outcomes:
                click.echo(line)
        raise SystemExit(0)  # at once: what the other threads still ask for is nobody's any more

    def _follow(self) -> None:
        while True:
            self._hurry.wait(self._period_s)
            self._hurry.clear()
            try:
                self._news.put(self._tasks.refresh())
            except TaskFSError as exc:
                self._news.put(exc)

    def _show(self, kill: Callable[[str], "Future[Any]"]) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with (
            _ended_by_signals(),
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
                    answer = self._screen.press(key)
                    if answer == "leave":
                        return
                    if answer is not None:
                        self._kills[kill(answer)] = answer
                if self._take_news() or self._note_kills():
                    drawn = ()

    def _take_news(self) -> bool:
        """Show what the other thread learnt; return whether there was anything."""
        taken = False
        with contextlib.suppress(queue.Empty):
            while True:
                news = self._news.get_nowait()
                taken = True
                if isinstance(news, Snapshot):
                    self._screen.show(news)
                else:
                    reason = " ".join(with_fix(news).split())
                    self._screen.failure = f"not up to date, trying again: {reason}"
        return taken

    def _note_kills(self, *, wait: bool = False) -> bool:
        """Say what became of the kill requests that are answered; with *wait*, of all.

        Return whether there were any.
        """
        answered = [future for future in self._kills if wait or future.done()]
        for future in answered:
            task_id = self._kills.pop(future)
            exc = future.exception()
            if exc is None:
                said = f"Successfully sent kill request for task {task_id}."
            else:
                reason = with_fix(exc) if isinstance(exc, TaskFSError) else repr(exc)
                said = f"task {task_id} was not killed: {' '.join(reason.split())}"
            self._screen.message = said
            self._outcomes.append(said)
            self._hurry.set()
        return bool(answered)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP end the program by way of what restores the terminal."""

    def end(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
