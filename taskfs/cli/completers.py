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
from taskfs.model import KNOWN_STATUSES, PAGE_TASKS
from taskfs.options import BY_NAME, ENGINES, LOG_LEVELS, Option
from taskfs.support.parsing import parse_path

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]

# Shells insert candidates into the command line unquoted, so candidates with other characters,
# which a shell would interpret, are left out.
_SAFE: Final = re.compile(r"\w[\w.@%+=:,/-]*")


def complete_tasks(*, active: bool = False) -> Completer:
    """Return a completer of task ids, the newest first; with *active*, of unfinished tasks."""

    def fetch(client: "TaskClient") -> Iterable[CompletionItem]:
        for task in client.list_tasks(active=active, last=PAGE_TASKS):
            words = (task.status, task.simulator, task.project)
            shown = " ".join(filter(None, words))
            yield CompletionItem(task.id, help=shown if shown.isprintable() else None)

    return _complete_from_api(fetch)


def complete_paths(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete ID/PATH: the ids of tasks, then the names in their directories."""
    if "/" not in incomplete:
        return complete_tasks()(ctx, param, incomplete)
    directory, _, _ = incomplete.rpartition("/")
    return _run_limited(ctx, lambda config: _list_names(config, directory, incomplete), incomplete)


def complete_members(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the names of files in the outputs, or with --inputs the inputs, of a task."""
    # click leaves the arguments unparsed if the value of the option is still missing.
    task_ids = ctx.params.get("task_ids") or ctx.args
    if not task_ids:
        return []
    base = f"{task_ids[0]}/{'inputs' if ctx.params.get('inputs') else 'outputs'}/"

    def fetch(config: Config) -> Iterable[CompletionItem]:
        directory = (base + incomplete).rpartition("/")[0]
        for item in _list_names(config, directory, base + incomplete):
            yield CompletionItem(item.value.removeprefix(base))

    return _run_limited(ctx, fetch, incomplete)


def _list_names(config: Config, directory: str, incomplete: str) -> Iterable[CompletionItem]:
    """Yield the paths in *directory* that begin with *incomplete*, directories with a slash.

    A single directory is followed by its own entries, because shells put a blank after a single
    candidate.
    """
    from taskfs.cli.task_ids import parse_task_path
    from taskfs.cli.tree_paths import list_completions
    from taskfs.core import open_core

    core = open_core(replace(config, read_only=True))
    with closing(core):
        names = list(list_completions(core, parse_task_path(directory), directory))
        names = [name for name in names if name.startswith(incomplete)]
        if len(names) == 1 and names[0].endswith("/"):
            inner = names[0].rstrip("/")
            names += list_completions(core, parse_task_path(inner), inner)
        yield from (CompletionItem(name) for name in names)


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

    def fetch_all(config: Config) -> Iterable[CompletionItem]:
        with closing(_open_client(config)) as client:
            return list(fetch(client))

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _run_limited(ctx, fetch_all, incomplete)

    return complete


def _run_limited(
    ctx: click.Context, fetch: Callable[[Config], Iterable[CompletionItem]], incomplete: str
) -> list[CompletionItem]:
    """Return the candidates that *fetch* finds within `completion_timeout`."""
    fetched: list[CompletionItem] = []
    try:
        config = _load_config(ctx)
    except TaskFSError:
        return []
    timeout_s = min(config.completion_timeout_s, config.timeout_s)

    def work() -> None:
        from taskfs.support import logs

        logs.log_nowhere()
        with contextlib.suppress(Exception):
            fetched.extend(fetch(replace(config, timeout_s=timeout_s)))

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


def _load_config(ctx: click.Context) -> Config:
    """Return the configuration with the flags typed so far; raise ConfigError if it is wrong."""
    flags = {name: ctx.params.get(name) for name in BY_NAME}
    return load_config(flags, file=ctx.params.get("config_file"))


def _open_client(config: Config) -> "TaskClient":
    from taskfs.first_listing import open_client

    return open_client(config)
