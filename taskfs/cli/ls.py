"""`taskfs ls`."""

import sys
from collections.abc import Iterable

import click

from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import align, is_terminal
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder, children, is_directory
from taskfs.support.formatting import escape_controls, format_local_time


@click.command("ls", short_help="List tasks and their files, without a mount.")
@path_argument(required=False)
@click.option(
    "-l", "--long", is_flag=True, help="Show sizes in bytes and times too.  [default: off]"
)
@click.option(
    "-R", "--recursive", is_flag=True, help="List directories recursively.  [default: off]"
)
@config_options("ls")
def command(settings: Settings, paths: tuple[TaskPath, ...], long: bool, recursive: bool) -> int:
    """List the tasks, or the files of a task, as `ls` does in a mount.

    ID is an id, the beginning of one, or `latest`, the newest task. PATH may contain globs: * ? []
    within a name, ** across directories. A PATH that is not in the task's directory is looked up in
    its outputs: ID/vtk means ID/outputs/vtk. A path below a mount works too.
    """
    with open_tree(settings, paths) as tree:
        lister = _Lister(tree, long, recursive, show_paths=recursive or len(paths) > 1)
        if not paths:
            return lister.show([tree.root])
        return for_each(paths, lambda path: lister.show(tree.find(path)))


class _Lister:
    """Prints directories and files in one format."""

    def __init__(self, tree: TreeFinder, long: bool, recursive: bool, *, show_paths: bool) -> None:
        self._long = long
        self._recursive = recursive
        self._show_paths = show_paths
        self._printed = False
        self._escape = is_terminal(sys.stdout)

    def show(self, found: list[Found]) -> int:
        """Print the files of *found* first, then the contents of its directories.

        Return the exit status: 1 if a directory beneath cannot be read.
        """
        files = [entry for entry in found if not is_directory(entry.node)]
        if files:
            self._print_entries((entry.path, entry) for entry in files)
        return self._print_directories(found, show_path=self._show_paths or len(found) > 1)

    def _print_directories(self, entries: list[Found], *, show_path: bool) -> int:
        directories = [entry for entry in entries if is_directory(entry.node)]
        return for_each_node(
            directories, lambda each: self._print_directory(each, show_path=show_path)
        )

    def _print_directory(self, found: Found, *, show_path: bool) -> int:
        entries = list(children(found)) if self._long or self._recursive else None
        if show_path and found.path:
            if self._printed:
                click.echo()
            click.echo(f"{self._text(found.path)}:")
            self._printed = True
        if entries is None:
            self._print_names(found)
            return 0
        self._print_entries((entry.path.rpartition("/")[2], entry) for entry in entries)
        return self._print_directories(entries, show_path=True) if self._recursive else 0

    def _print_names(self, found: Found) -> None:
        for entry in children(found):
            click.echo(self._text(entry.path.rpartition("/")[2]))
            self._printed = True

    def _print_entries(self, entries: Iterable[tuple[str, Found]]) -> None:
        rows = [self._row(name, entry) for name, entry in entries]
        for line in align(rows) if self._long and rows else (row[-1] for row in rows):
            click.echo(line)
            self._printed = True

    def _row(self, name: str, found: Found) -> tuple[str, ...]:
        if not self._long:
            return (self._text(name),)
        attrs = found.node.attrs()
        size = "-" if is_directory(found.node) else str(attrs.size)
        return (size.rjust(12), format_local_time(attrs.mtime_ns), self._text(name))

    def _text(self, name: str) -> str:
        return escape_controls(name) if self._escape else name
