"""`taskfs unpin`."""

from pathlib import Path

import click

from taskfs.cli.api_session import configure_logging
from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, path_argument
from taskfs.errors import ConfigError, NotFound


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
    from taskfs.cache.disk_cache import FORMAT

    root = config.cache_dir / FORMAT
    return for_each(paths, lambda path: _unpin(root, path))


def _unpin(root: Path, path: TaskPath) -> None:
    from taskfs.cache.pins import change_pins, pinned_tasks

    found = [task_id for task_id in pinned_tasks(root) if task_id.startswith(path.task)]
    if path.task in found:
        found = [path.task]
    if len(found) > 1:
        raise ConfigError(f"{path.task!r} begins the ids of {len(found)} pinned tasks: type more")
    if not found:
        raise NotFound(f"{path.task} has no pins: see `taskfs cache`")
    with change_pins(root, found[0]) as pins:
        if not path.path:
            pins.clear()
        elif pins.pop(path.path, None) is None and pins.pop(f"outputs/{path.path}", None) is None:
            known = ", ".join(sorted(name or "all of it" for name in pins))
            raise NotFound(f"{path.task}/{path.path} is not pinned, but {known}")
