"""`taskfs cat`."""

import sys

import click

from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_file, open_tree, path_argument
from taskfs.cli.tree_paths import Found


@click.command("cat", short_help="Print files, without a mount.")
@path_argument()
@config_options("cat")
def command(settings: Settings, paths: tuple[TaskPath, ...]) -> int:
    """Print the files ID/PATH... to standard output, one after the other.

    Only the bytes that are printed are fetched, and `taskfs cat ID/large | head` ends early. See
    `taskfs ls --help` for the forms of ID/PATH.
    """
    with open_tree(settings, paths) as tree:
        return for_each(paths, lambda path: for_each_node(tree.find(path), _print))


def _print(found: Found) -> None:
    from taskfs.support.chunks import read_chunks

    with open_file(found) as handle:
        for chunk in read_chunks(handle.read_at, 0, handle.size):
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
