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
    config = settings.load(need_key=False)
    configure_logging(config)

    def unpin(path: TaskPath) -> None:
        if path.task == LATEST:
            path = path._replace(task=_latest_task(settings))
        _unpin(config, path)

    return for_each(paths, unpin)


def _unpin(config: Config, path: TaskPath) -> None:
    from taskfs.cache.disk_cache import FORMAT
    from taskfs.cache.pins import change_pins, pinned_tasks

    root = config.cache_dir / FORMAT
    pinned = sorted(pinned_tasks(root))
    task_id = choose(path.task, pinned)
    if task_id not in pinned:
        raise NotFound(f"{task_id} has no pins: see `taskfs cache`")
    with change_pins(root, task_id) as pins:
        if not path.path:
            pins.clear()
        elif pins.pop(path.path, None) is None and pins.pop(f"outputs/{path.path}", None) is None:
            known = ", ".join(sorted(name or "all of it" for name in pins))
            raise NotFound(f"{task_id}/{path.path} is not pinned, but {known}")


def _latest_task(settings: Settings) -> str:
    """Return the id of the newest task in the cache. The key selects the account."""
    from taskfs.tasks.accounts import open_tasks
    from taskfs.tasks.selection import Selection

    with closing(open_tasks(settings.load_without_requests())) as database:
        for task_id in database.ids(Selection()):
            return task_id
    raise NotFound("no task is in the cache: name the id of the latest")
