"""What a shell may complete: tasks, projects, mounts, statuses. Quick, or silently nothing.

Each function has the form that click asks for: a context, a parameter and what is typed so far.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from taskfs.config import Config, load_config
from taskfs.errors import TaskFSError
from taskfs.fuse.mountpoint import our_mounts
from taskfs.model import KNOWN_STATUSES
from taskfs.options import BY_NAME, LOG_LEVELS, Option, parse_level, parse_path

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

Candidates = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

MAX_TASKS: Final = 500  # what one request brings
# Shells put a candidate on the command line as it is: one that they would read otherwise is none.
_PLAIN: Final = re.compile(r"\w[\w.@%+=:,/-]*")


def tasks(*, active: bool = False) -> Candidates:
    """Return what completes the ids of tasks, the newest first; *active*, of unfinished ones."""

    def ask(client: "TaskClient") -> Iterable[CompletionItem]:
        for task in client.list_tasks(active=active, last=MAX_TASKS):
            words = (task.status, task.simulator, task.project)
            shown = " ".join(filter(None, words))
            yield CompletionItem(task.id, help=shown if shown.isprintable() else None)

    return _asked(ask)


def _projects(client: "TaskClient") -> Iterable[CompletionItem]:
    for project in client.list_projects():
        yield CompletionItem(str(project["name"]))


def mounts(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the places where taskfs is mounted, or directories where there are none such."""
    found = [CompletionItem(place) for place in our_mounts() if place.startswith(incomplete)]
    return found or directories(_, __, incomplete)


def directories(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a directory."""
    return [CompletionItem(incomplete, type="dir")]


def files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a file."""
    return [CompletionItem(incomplete, type="file")]


def of_option(option: Option) -> Candidates | None:
    """Return what completes the value of a setting, None where nobody can know it."""
    if option.parse is parse_path:
        return directories if option.metavar == "DIR" else files
    if option.parse is parse_level:
        return _words(LOG_LEVELS)
    if option.name == "status":
        return _words(KNOWN_STATUSES)
    return _asked(_projects) if option.name == "project" else None


def _words(words: Iterable[str]) -> Candidates:
    def candidates(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return candidates


def _asked(ask: Callable[["TaskClient"], Iterable[CompletionItem]]) -> Candidates:
    """Return what asks the API within `completion_timeout`: whatever goes wrong, there are none."""

    def candidates(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        answers: list[CompletionItem] = []
        try:
            config = _config(ctx)
        except TaskFSError:
            return []

        def work() -> None:
            with contextlib.suppress(Exception), closing(_client(config)) as client:
                answers.extend(list(ask(client)))

        # A thread, since looking up a host's name knows no timeout.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(config.completion_timeout_s)
        given = {value for each in ctx.params.values() if isinstance(each, tuple) for value in each}
        return [
            item
            for item in list(answers)
            if _PLAIN.fullmatch(item.value)
            and item.value.startswith(incomplete)
            and item.value not in given
        ]

    return candidates


def _config(ctx: click.Context) -> Config:
    """Return the configuration as the command line so far says it; ConfigError where it is none."""
    flags = {name: ctx.params.get(name) for name in BY_NAME}
    return load_config(flags, file=ctx.params.get("config_file"))


def _client(config: Config) -> "TaskClient":
    from taskfs.first_listing import open_client
    from taskfs.support import logs

    logs.log_nowhere()
    return open_client(
        replace(config, timeout_s=min(config.completion_timeout_s, config.timeout_s))
    )
