"""Where the tasks of each account are saved."""

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

from taskfs.cache.disk_cache import FORMAT, cache_key
from taskfs.config import Config
from taskfs.tasks.database_file import (
    DIRECTORY,
    DatabaseFile,
    host_suffix,
    make_directory,
    remove_database,
)
from taskfs.tasks.task_database import TaskDatabase

log = logging.getLogger(__name__)

SUFFIX: Final = ".db"
# Seconds after the last mount of an account until its tasks are removed from disk: 90 days.
UNUSED_S: Final = 90 * 86400.0
# The directory in which older versions saved finished tasks.
OLD_RECORDS: Final = Path(FORMAT, "records")


def open_tasks(config: Config) -> TaskDatabase:
    """Return the tasks of the account in the cache, which are read-only if *config* is offline."""
    if config.offline:
        return open_read_only(config.cache_dir, config.api_url, config.api_key)
    uses_disk = config.cache_size > 0 and not config.demo
    cache_dir = config.cache_dir if uses_disk else None
    return open_database(cache_dir, config.api_url, config.api_key)


def open_database(cache_dir: Path | None, api_url: str, api_key: str) -> TaskDatabase:
    """Return the tasks of the account of *api_key*; without a *cache_dir*, a temporary one.

    The account is identified by a digest of its key, and is the one used last from now on.
    """
    path = None
    if cache_dir is not None:
        try:
            directory = make_directory(cache_dir)
            path = directory / _file_name(api_url, api_key, directory)
        except OSError as exc:
            log.warning("the tasks are kept in a temporary file (%s): see --cache-dir", exc)
    database = TaskDatabase(DatabaseFile(path))
    if cache_dir is not None and path is not None:
        with contextlib.suppress(OSError):
            os.utime(path)
        _clean_up(cache_dir, path.parent)
    return database


def open_read_only(cache_dir: Path, api_url: str, api_key: str) -> TaskDatabase:
    """Return the saved tasks, read only: those of the account of *api_key*; without a key, those
    of the account that was last used with this API. They may be none."""
    directory = cache_dir / DIRECTORY
    if api_key:
        path = directory / _file_name(api_url, api_key, directory)
    else:
        found = list(directory.glob(f"{_api_name(api_url)}-*{host_suffix(directory)}{SUFFIX}"))
        path = max(found, key=_used_s, default=directory / "none")
    return TaskDatabase(DatabaseFile(path if path.is_file() else None, read_only=True))


def _api_name(api_url: str) -> str:
    return cache_key("api", api_url)[:16]


def _file_name(api_url: str, api_key: str, directory: Path) -> str:
    # `str`, because the repr of a key is the same for all keys.
    account = cache_key("account", api_url, str(api_key))
    return f"{_api_name(api_url)}-{account}{host_suffix(directory)}{SUFFIX}"


def _used_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _clean_up(cache_dir: Path, directory: Path) -> None:
    """Remove the databases of accounts that are no longer used, and the files of older versions."""
    shutil.rmtree(cache_dir / OLD_RECORDS, ignore_errors=True)
    for path in directory.glob(f"*{SUFFIX}"):
        if time.time() - _used_s(path) > UNUSED_S:
            remove_database(path)
