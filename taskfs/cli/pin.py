"""`taskfs pin`."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli.options import Settings, config_options
from taskfs.cli.progress import progress_bar
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder, join
from taskfs.errors import ConfigError, NotFound, Unavailable
from taskfs.support.formatting import format_size

if TYPE_CHECKING:
    from pathlib import Path

    from taskfs.tree.archive_nodes import ArchiveRange

# Part of the cache's size that pins may take: the rest must do for everything else.
MAX_SHARE: Final = 0.8
# Bytes that are fetched together: four of the longest requests.
PIECE: Final = 16 << 20
# Seconds to wait at the end for blocks that are still written to the disk.
WRITE_TIMEOUT_S: Final = 10.0


@click.command("pin", short_help="Fetch files of tasks now, and keep them in the cache.")
@path_argument()
@config_options("pin")
def command(settings: Settings, paths: tuple[TaskPath, ...]) -> int:
    """Fetch ID/PATH... now, and keep them in the cache until `taskfs unpin`.

    ID alone stands for all outputs and inputs. Pinned files are never evicted, and are there with
    --offline. A pin that was interrupted continues when the command runs again. See `taskfs ls
    --help` for the forms of ID/PATH. Only tasks that have ended can be pinned.
    """
    config = settings.load(need_key=False)  # a key from a pipe can be read only once
    if config.offline or not config.cache_size:
        raise ConfigError("pin needs the API and the disk cache: unset offline, set cache_size")
    max_bytes = int(config.cache_size * MAX_SHARE)
    with open_tree(settings, paths) as tree:
        return for_each(paths, lambda path: _pin_all(tree, path, max_bytes))


def _pin_all(tree: TreeFinder, path: TaskPath, max_bytes: int) -> int:
    return for_each_node(
        tree.find(path), lambda found: _pin(found, list(_archive_ranges(tree, found)), max_bytes)
    )


def _pin(found: Found, ranges: "list[ArchiveRange]", max_bytes: int) -> None:
    from taskfs.cache.pins import change_pins

    task_id, _, path = found.path.partition("/")
    if not ranges:
        raise NotFound(f"{found.path} has no files in an archive: pin ID, or files in ID/outputs")
    if not all(each.task.is_terminated for each in ranges):
        raise ConfigError(f"task {task_id} has not ended, and its files may change: wait for it")
    for each in ranges:
        if each.archive.index_error is not None:  # offline mode could not open it
            raise each.archive.index_error
    names = sorted({name for each in ranges for name in each.archive.disk_files(each.part)})
    disk = ranges[0].archive.resources.disk
    total = sum(len(each.part) for each in ranges)
    if disk is None or not any(name.startswith("blocks/") for name in names):
        raise ConfigError(f"{found.path} cannot be cached: its store sends no entity tags")
    _check_room(disk.root, names, total, max_bytes)
    with change_pins(disk.root, task_id) as pins:  # first, so that nothing is evicted meanwhile
        pins[path] = names
    with progress_bar(total) as advance:
        for each in ranges:
            for start in range(each.part.start, each.part.stop, PIECE):
                size = min(PIECE, each.part.stop - start)
                each.archive.read_raw(start, size)
                advance(size)
    _await_on_disk(found.path, ranges, [disk.root / name for name in names])
    click.echo(f"{found.path} is pinned: {format_size(total)}")


def _check_room(root: "Path", names: list[str], total: int, max_bytes: int) -> None:
    from taskfs.cache.pins import pinned_files
    from taskfs.tasks.cached_tasks import size_on_disk

    pinned = size_on_disk(pinned_files(root).difference(root / name for name in names))
    if pinned + total > max_bytes:
        raise ConfigError(
            f"{format_size(total)} more would be pinned, and {format_size(pinned)} are: the cache "
            f"holds {format_size(max_bytes)} of pinned files: choose a larger --cache-size"
        )


def _await_on_disk(name: str, ranges: "list[ArchiveRange]", files: "list[Path]") -> None:
    deadline_s = time.monotonic() + WRITE_TIMEOUT_S
    for each in ranges:
        while not each.archive.is_on_disk(each.part):
            if time.monotonic() > deadline_s:
                raise Unavailable(f"the cache could not be written: {name} is not all there")
            time.sleep(0.01)
    if not all(file.exists() for file in files):  # an index, which another mount has evicted
        raise Unavailable(f"the index of {name} is not in the cache: pin it again")


def _archive_ranges(tree: TreeFinder, found: Found) -> "Iterator[ArchiveRange]":
    """Yield where the files beneath *found* lie; a task and its `outputs` are whole archives."""
    from taskfs.tree.archive_nodes import MemberNode
    from taskfs.tree.nodes import Directory
    from taskfs.tree.raw_archive_node import RawArchiveNode

    task_id, _, path = found.path.partition("/")
    archives = {"": ("output.zip", "input.zip"), "outputs": ("output.zip",)}
    archives["inputs"] = ("input.zip",)
    if path in archives:
        for name in archives[path]:
            try:
                [whole] = tree.find(TaskPath(task_id, name))
            except NotFound:
                continue
            yield from _archive_ranges(tree, whole)
    elif isinstance(found.node, MemberNode | RawArchiveNode):
        if found.node.archive_range.part:
            yield found.node.archive_range
    elif isinstance(found.node, Directory):
        for entry in found.node.children():
            child = Found(join(found.path, entry.name), found.node.lookup(entry.name))
            yield from _archive_ranges(tree, child)
