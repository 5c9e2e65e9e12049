"""The configuration and the API client of one run of a command."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from taskfs.cli.options import Settings
from taskfs.cli.output import terminal_notifier
from taskfs.config import Config
from taskfs.errors import ConfigError

if TYPE_CHECKING:
    from taskfs.model import Task
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI


@contextlib.contextmanager
def open_session(
    settings: Settings, *, timeout_s: float | None = None
) -> "Iterator[tuple[Config, TaskClient]]":
    """Yield the configuration and an API client.

    *timeout_s* lowers the configured time limit of each call.

    Raises:
        ConfigError: the configuration is wrong, or it says `offline`.
    """
    config = settings.load()
    if config.offline:
        raise ConfigError("this command needs the API, and offline is set: set TASKFS_OFFLINE=no")
    if timeout_s is not None:
        config = replace(config, timeout_s=min(timeout_s, config.timeout_s))
    configure_logging(config)
    with contextlib.closing(open_client_of(config)) as client:
        yield config, client


def open_client_of(config: Config) -> "TaskClient":
    """Return an API client that prints a notice on a terminal while it waits for the API."""
    from taskfs.first_listing import open_client
    from taskfs.remote import wait_notice

    wait_notice.set_notifier(terminal_notifier())
    return open_client(config)


@contextlib.contextmanager
def open_reader(settings: Settings) -> "Iterator[tuple[Config, TaskClient | OfflineAPI]]":
    """Yield the configuration and a source of task records: the cache where `offline` is set."""
    config = settings.load()
    if not config.offline:
        with open_session(settings) as session:
            yield session
        return
    configure_logging(config)
    from taskfs.core import open_offline

    offline = open_offline(config)
    offline.check()
    yield config, offline


def open_account(
    config: Config, client: "TaskClient | OfflineAPI"
) -> "Callable[[str | None, str | None], list[Task]] | None":
    """Return a function that lists the tasks of a project and status by what has changed; None if
    *config* is offline."""
    if config.offline:
        return None

    def list_all(project: str | None, status: str | None) -> "list[Task]":
        from taskfs.tasks.account_reader import AccountReader
        from taskfs.tasks.accounts import open_tasks

        with contextlib.closing(open_tasks(config)) as database:
            return AccountReader(client, database).list_all(project, status)

    return list_all


def configure_logging(config: Config) -> None:
    """Log to the configured file, or to standard error, with secrets redacted."""
    from taskfs.support import logs

    if config.log_file:
        logs.log_to_file(config.log_file, config.log_level)
    else:
        logs.log_to_stderr(config.log_level)


def find_cache_problem(path: Path) -> str:
    """Create the cache directory *path* if it is missing.

    Return why it cannot be used, with the fix, or an empty string if it can.
    """
    fix = "choose another with --cache-dir"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        return f"{path} cannot be made ({exc.strerror}): {fix}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"{path} cannot be written to: {fix}"
    return ""
