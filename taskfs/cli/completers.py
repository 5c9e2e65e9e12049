"""Completion candidates: tasks, projects, mounts, statuses.

Each completer has click's signature: a context, a parameter and the text typed so far. On any
error it returns no candidates.
"""

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click
from click.shell_completion import CompletionItem

from taskfs.config import Config, load_config
from taskfs.errors import TaskFSError
from taskfs.fuse.mount_table import our_mounts
from taskfs.model import KNOWN_STATUSES
from taskfs.options import BY_NAME, ENGINES, LOG_LEVELS, Option
from taskfs.support.parsing import parse_path

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

MAX_TASKS: Final = 500  # tasks: the listing that one request returns
# Shells insert candidates into the command line unquoted, so candidates with other characters,
# which a shell would interpret, are left out.
_SAFE: Final = re.compile(r"\w[\w.@%+=:,/-]*")


def complete_tasks(*, active: bool = False) -> Completer:
    """Return a completer of task ids, the newest first; with *active*, of unfinished tasks."""

    def fetch(client: "TaskClient") -> Iterable[CompletionItem]:
        for task in client.list_tasks(active=active, last=MAX_TASKS):
            words = (task.status, task.simulator, task.project)
            shown = " ".join(filter(None, words))
            yield CompletionItem(task.id, help=shown if shown.isprintable() else None)

    return _complete_from_api(fetch)


def _fetch_projects(client: "TaskClient") -> Iterable[CompletionItem]:
    for project in client.list_projects():
        yield CompletionItem(str(project["name"]))


def complete_mounts(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the mountpoints of taskfs, or directories if none matches."""
    found = [CompletionItem(path) for path in our_mounts() if path.startswith(incomplete)]
    return found or complete_directories(ctx, param, incomplete)


def complete_directories(
    _: click.Context, __: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a directory."""
    return [CompletionItem(incomplete, type="dir")]


def complete_files(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete a file."""
    return [CompletionItem(incomplete, type="file")]


# The settings whose values are words of a list.
_WORDS: Final[Mapping[str, Iterable[str]]] = {
    "engine": ENGINES,
    "log_level": LOG_LEVELS,
    "status": KNOWN_STATUSES,
}


def completer_of(option: Option) -> Completer | None:
    """Return the completer of a setting's value, None if its values cannot be listed."""
    if option.parse is parse_path:
        return complete_directories if option.metavar == "DIR" else complete_files
    if (words := _WORDS.get(option.name)) is not None:
        return _complete_words(words)
    return _complete_from_api(_fetch_projects) if option.name == "project" else None


def _complete_words(words: Iterable[str]) -> Completer:
    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return complete


def _complete_from_api(fetch: Callable[["TaskClient"], Iterable[CompletionItem]]) -> Completer:
    """Return a completer that runs *fetch* for at most `completion_timeout`."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        fetched: list[CompletionItem] = []
        try:
            config = _load_config(ctx)
        except TaskFSError:
            return []

        def work() -> None:
            with contextlib.suppress(Exception), closing(_open_client(config)) as client:
                fetched.extend(list(fetch(client)))

        # A thread, because a host name lookup has no timeout.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(config.completion_timeout_s)
        given = {value for each in ctx.params.values() if isinstance(each, tuple) for value in each}
        return [
            item
            for item in list(fetched)
            if _SAFE.fullmatch(item.value)
            and item.value.startswith(incomplete)
            and item.value not in given
        ]

    return complete


def _load_config(ctx: click.Context) -> Config:
    """Return the configuration with the flags typed so far; raise ConfigError if it is wrong."""
    flags = {name: ctx.params.get(name) for name in BY_NAME}
    return load_config(flags, file=ctx.params.get("config_file"))


def _open_client(config: Config) -> "TaskClient":
    from taskfs.first_listing import open_client
    from taskfs.support import logs

    logs.log_nowhere()
    return open_client(
        replace(config, timeout_s=min(config.completion_timeout_s, config.timeout_s))
    )
