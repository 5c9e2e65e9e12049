"""`taskfs cache`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import click

from taskfs.cli.api_session import configure_logging
from taskfs.cli.arguments import task_ids_argument
from taskfs.cli.columns import Column
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import print_table
from taskfs.cli.task_ids import choose
from taskfs.config import Config
from taskfs.errors import ConfigError, NotFound
from taskfs.support.formatting import format_size

_COLUMNS: Final = (Column("Task"), Column("Size"), Column("Pinned", 1), Column("Project", 2))


@click.command("cache", short_help="Show, or clear, the disk cache.")
@task_ids_argument()
@click.option(
    "--clear",
    is_flag=True,
    help="Remove the cached files of these tasks, or of all, except pinned ones.  [default: off]",
)
@config_options("cache")
def command(settings: Settings, task_ids: tuple[str, ...], clear: bool) -> None:
    """Show where the disk cache is, how much it holds, and of which tasks.

    Files of unfinished tasks, of replaced archives and of other accounts count as `other`. --clear
    without an ID removes those too, and the directories that older versions of taskfs left. It is
    safe while mounts use the cache. No request is sent.
    """
    config = settings.load_without_requests()
    configure_logging(config)
    cache = _Cache(config, task_ids)
    if clear:
        click.echo(f"{format_size(cache.clear(everything=not task_ids))} removed")
    else:
        cache.show(everything=not task_ids)


class _Cache:
    """The files of the cache by task."""

    def __init__(self, config: Config, names: tuple[str, ...]) -> None:
        from taskfs.cache.disk_cache import FORMAT
        from taskfs.cache.pins import pinned_files
        from taskfs.tasks.accounts import open_tasks
        from taskfs.tasks.cached_tasks import files_by_task
        from taskfs.tasks.selection import Selection

        self._config = config
        self._root = config.cache_dir / FORMAT
        database = open_tasks(config)
        try:
            tasks = database.tasks(Selection())
        finally:
            database.close()
        self._files = files_by_task(self._root, config.api_url, tasks)
        self._projects = {task.id: task.project or "" for task in tasks}
        self._pinned = pinned_files(self._root)
        if names:
            chosen = {choose(name, list(self._projects)) for name in names}
            for task_id in sorted(chosen - set(self._files)):
                raise NotFound(f"the cache has no files of task {task_id}: see `taskfs cache`")
            self._files = {name: self._files[name] for name in chosen}

    def show(self, *, everything: bool) -> None:
        """Print the tasks by size, and the sum."""
        from taskfs.cache.eviction import used_bytes
        from taskfs.tasks.cached_tasks import size_on_disk

        sizes = {task_id: size_on_disk(files) for task_id, files in self._files.items()}
        rows = [
            (task_id, format_size(size), self._pinned_size(task_id), self._projects[task_id])
            for task_id, size in sorted(sizes.items(), key=lambda item: -item[1])
        ]
        if everything:
            total = used_bytes(self._root)
            other = max(0, total - sum(sizes.values()))
            rows.append(("other", format_size(other), "", ""))
            limit = format_size(self._config.cache_size)
            click.echo(f"{self._config.cache_dir}: {format_size(total)} of {limit}")
        print_table(_COLUMNS, rows)

    def clear(self, *, everything: bool) -> int:
        """Remove the files that are not pinned; return their bytes on disk."""
        from taskfs.cache.disk_cache import FORMAT
        from taskfs.cache.eviction import cached_files, is_lock_or_pin, remove_file
        from taskfs.cache.older_formats import remove_older_formats
        from taskfs.tasks.cached_tasks import size_on_disk

        files: Iterable[Path] = (path for each in self._files.values() for path in each)
        if everything:
            files = (path for _, _, path in cached_files(self._root) if not is_lock_or_pin(path))
            remove_older_formats(self._config.cache_dir, FORMAT, idle_s=0)
        removed = 0
        for path in files:
            if path not in self._pinned:
                removed += size_on_disk([path])
                remove_file(path)
        if not removed and not everything and self._pinned:
            raise ConfigError("these files are pinned: see `taskfs unpin`")
        return removed

    def _pinned_size(self, task_id: str) -> str:
        from taskfs.tasks.cached_tasks import size_on_disk

        pinned = size_on_disk(path for path in self._files[task_id] if path in self._pinned)
        return format_size(pinned) if pinned else ""
