"""`taskfs unpin`."""

from contextlib import closing

import click

from taskfs.cli.api_session import configure_logging
from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import LATEST, TaskPath, choose
from taskfs.cli.tree_command import for_each, path_argument
from taskfs.config import Config
from taskfs.errors import NotFound


@click.command("unpin", short_help="End the pins of files: the cache may evict them.")
@path_argument()
@config_options("unpin")
def command(settings: Settings, paths: tuple[TaskPath, ...]) -> int:
    """End the pins of `taskfs pin`, so that the cache may evict these files.

    ID alone ends all pins of the task, ID/PATH the pin of that path. Nothing is removed, and no
    request is sent.
    """
    config = settings.load_without_requests()
    configure_logging(config)
    return for_each(paths, lambda path: _unpin(config, path))


def _unpin(config: Config, path: TaskPath) -> None:
    from taskfs.cache.disk_cache import FORMAT
    from taskfs.cache.pins import change_pins, pinned_tasks

    root = config.cache_dir / FORMAT
    pinned = sorted(pinned_tasks(root))
    task_id = choose(path.task, _known_tasks(config) if path.task == LATEST else pinned)
    if task_id not in pinned:
        raise NotFound(f"{task_id} has no pins: see `taskfs cache`")
    with change_pins(root, task_id) as pins:
        if not path.path:
            pins.clear()
        elif pins.pop(path.path, None) is None and pins.pop(f"outputs/{path.path}", None) is None:
            known = ", ".join(sorted(name or "all of it" for name in pins))
            raise NotFound(f"{task_id}/{path.path} is not pinned, but {known}")


def _known_tasks(config: Config) -> list[str]:
    """Return the ids of the tasks in the cache, newest first."""
    from taskfs.tasks.accounts import open_tasks
    from taskfs.tasks.selection import Selection

    with closing(open_tasks(config)) as database:
        return list(database.ids(Selection()))
