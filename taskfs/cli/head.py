"""`taskfs head`."""

import sys
from typing import TYPE_CHECKING, Final

import click

from taskfs.cli.options import Settings, config_options
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_file, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder

if TYPE_CHECKING:
    from taskfs.tree.handles import Handle

DEFAULT_LINES: Final = 10  # as head(1) and tail(1)
# Bytes per read: about one block of the cache, because ten lines rarely need more.
CHUNK_BYTES: Final = 64 << 10

line_count_option = click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(min=0),
    default=DEFAULT_LINES,
    metavar="N",
    help=f"The number of lines.  [default: {DEFAULT_LINES}]",
)


@click.command("head", short_help="Print the first lines of files, without a mount.")
@path_argument()
@line_count_option
@config_options("head")
def command(settings: Settings, paths: tuple[TaskPath, ...], count: int) -> int:
    """Print the first lines of the files ID/PATH...; only their bytes are fetched.

    Several files have headings, as with head(1). See `taskfs ls --help` for the forms of ID/PATH.
    """
    with open_tree(settings, paths) as tree:
        headings = Headings(len(paths) > 1)
        return for_each(paths, lambda path: _print_all(tree, path, count, headings))


class Headings:
    """Prints a heading before each of several files."""

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._is_first = True

    def print(self, found: Found, *, several: bool) -> None:
        """Print the heading of *found* if there are *several* files."""
        if self._enabled or several:
            start = "" if self._is_first else "\n"
            heading = f"{start}==> {found.path} <==\n"
            sys.stdout.buffer.write(heading.encode("utf-8", "surrogateescape"))
        self._is_first = False


def _print_all(tree: TreeFinder, path: TaskPath, count: int, headings: Headings) -> int:
    files = tree.find(path)

    def show(found: Found) -> None:
        with open_file(found) as handle:
            headings.print(found, several=len(files) > 1)
            _print_head(handle, count)
        sys.stdout.buffer.flush()

    return for_each_node(files, show)


def _print_head(handle: "Handle", count: int) -> None:
    offset = 0
    while count and offset < handle.size:
        chunk = bytes(handle.read_at(offset, min(CHUNK_BYTES, handle.size - offset)))
        if not chunk:
            return
        offset += len(chunk)
        lines = chunk.split(b"\n")
        if len(lines) > count:
            sys.stdout.buffer.write(b"\n".join(lines[:count]) + b"\n")
            return
        sys.stdout.buffer.write(chunk)
        count -= len(lines) - 1
