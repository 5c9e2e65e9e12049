"""`taskfs du`."""

import click

from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder, children, is_below_live, is_directory
from taskfs.support.formatting import escape_controls, format_size


@click.command("du", short_help="Print the sizes of directories, without a mount.")
@path_argument()
@click.option("-s", "--summarize", is_flag=True, help="Print only the sums.  [default: off]")
@click.option("-b", "--bytes", "in_bytes", is_flag=True, help="Print bytes.  [default: off]")
@config_options("du")
def command(
    settings: Settings, paths: tuple[TaskPath, ...], summarize: bool, in_bytes: bool
) -> int:
    """Print the size of each directory in ID/PATH..., and of ID/PATH itself.

    The sizes are those of the files after decompression. A task counts with its outputs and inputs,
    but without live/, because its machine reports no sizes. See `taskfs ls --help` for the forms of
    ID/PATH.
    """

    def show(found: Found) -> None:
        lines: list[str] = []
        total = _measure(found, lines if not summarize else None, in_bytes)
        lines.append(_line(found, total, in_bytes))
        click.echo("\n".join(lines))

    with open_tree(settings, paths) as tree:
        return for_each(paths, lambda path: for_each_node(_find(tree, path), show))


def _find(tree: TreeFinder, path: TaskPath) -> list[Found]:
    """Return what *path* names; of several nodes those that are not below `live/`."""
    found = tree.find(path)
    return found if len(found) == 1 else [each for each in found if not is_below_live(each.path)]


def _measure(found: Found, lines: "list[str] | None", in_bytes: bool) -> int:
    """Return the size of *found*; append a line per directory beneath to *lines*."""
    if not is_directory(found.node):
        return found.node.attrs().size
    is_task = "/" not in found.path
    total = 0
    for child in children(found):
        if is_task and is_below_live(child.path):
            continue  # its machine reports no sizes
        if is_directory(child.node):
            size = _measure(child, lines, in_bytes)
            if lines is not None:
                lines.append(_line(child, size, in_bytes))
            total += size
        elif not is_task:  # the texts of a task are rendered, and stored nowhere
            total += child.node.attrs().size
    return total


def _line(found: Found, size: int, in_bytes: bool) -> str:
    shown = str(size) if in_bytes else format_size(size)
    return f"{shown}\t{escape_controls(found.path)}"
