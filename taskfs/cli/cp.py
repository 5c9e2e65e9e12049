"""`taskfs cp`."""

import contextlib
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from taskfs.cli import completers
from taskfs.cli.options import Settings, config_options, parsed_by
from taskfs.cli.progress import progress_bar
from taskfs.cli.signals import exit_on_signals
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_file, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder, children, is_directory
from taskfs.errors import ConfigError, IsADirectory
from taskfs.support.parsing import parse_path

if TYPE_CHECKING:
    from taskfs.download.run import ProgressCallback


@click.command("cp", short_help="Copy files of tasks to this machine, without a mount.")
@path_argument()
@click.argument(
    "destination",
    metavar="DEST",
    callback=parsed_by(parse_path),
    shell_complete=completers.complete_files,
)
@click.option("-r", "--recursive", is_flag=True, help="Copy directories too.  [default: off]")
@config_options("cp")
def command(
    settings: Settings, paths: tuple[TaskPath, ...], destination: Path, recursive: bool
) -> int:
    """Copy the files ID/PATH... to the file or into the directory DEST.

    A file appears when it is complete and its checksum has been verified, with its time, and
    replaces an existing one. Several files need a directory as DEST. For all outputs of a task,
    `taskfs download` is faster and continues where it was interrupted. See `taskfs ls --help` for
    the forms of ID/PATH.
    """
    with open_tree(settings, paths) as tree:
        copier = _Copier(tree, destination, recursive, is_single=len(paths) == 1)
        exit_on_signals()
        with contextlib.closing(copier):
            return for_each(paths, copier.copy)


class _File(NamedTuple):
    """A file to copy: its node, its copy, and its bytes."""

    found: Found
    target: Path
    size: int

    @property
    def path(self) -> str:
        """The path of the file in the tree."""
        return self.found.path


class _Copier:
    """Copies files and directories to one destination."""

    def __init__(
        self, tree: TreeFinder, destination: Path, recursive: bool, *, is_single: bool
    ) -> None:
        from taskfs.download.run import DownloadRun

        self._tree = tree
        self._destination = destination
        self._recursive = recursive
        self._is_single = is_single
        self._advance: ProgressCallback = lambda size: None
        self._run = DownloadRun(lambda size: self._advance(size))

    def close(self) -> None:
        """Remove unfinished files."""
        self._run.stop()

    def copy(self, path: TaskPath) -> int:
        """Copy what *path* names, print what cannot be read, and return the exit status.

        Raises:
            ConfigError: DEST must be a directory, and is none.
        """
        found = self._tree.find(path)
        into_directory = self._destination.is_dir()
        if not into_directory and not (self._is_single and len(found) == 1):
            raise ConfigError(f"{self._destination} is not a directory: create it with mkdir -p")
        files: list[_File] = []

        def add(each: Found) -> int:
            name = each.path.rpartition("/")[2]
            target = self._destination / name if into_directory else self._destination
            return self._add_files(each, target, files)

        status = for_each_node(found, add)
        with progress_bar(sum(file.size for file in files)) as self._advance:
            return for_each_node(files, self._copy_file) or status

    def _add_files(self, found: Found, target: Path, files: "list[_File]") -> int:
        if not is_directory(found.node):
            files.append(_File(found, target, found.node.attrs().size))
            return 0
        if not self._recursive:
            raise IsADirectory(f"{found.path} is a directory: add -r")
        return for_each_node(
            children(found),
            lambda child: self._add_files(child, target / child.path.rpartition("/")[2], files),
        )

    def _copy_file(self, file: "_File") -> None:
        from taskfs.download.destination import Destination, file_name
        from taskfs.support.chunks import read_chunks

        found, target, _ = file
        if target.is_symlink() or (target.exists() and not target.is_file()):
            hint = f"`taskfs cat {found.path}` writes to any file"
            raise ConfigError(f"{target} is not a regular file, and is not replaced: {hint}")
        with open_file(found) as handle:

            def fill(stream: FileIO) -> None:
                for chunk in read_chunks(handle.read_at, 0, handle.size):
                    self._run.write(stream, chunk)
                self._run.set_time(stream, found.node.attrs().mtime_ns)

            with Destination(target.parent).folder("", create=True) as folder:
                self._run.create_file(folder, file_name(target.name), fill, has_case_variant=False)
