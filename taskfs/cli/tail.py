"""`taskfs tail`."""

import sys
import time
from typing import TYPE_CHECKING, Final, Protocol

import click

from taskfs.cli.head import CHUNK_BYTES, Headings, line_count_option
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import print_error, terminal_notifier
from taskfs.cli.task_ids import TaskPath
from taskfs.cli.tree_command import for_each, for_each_node, open_file, open_tree, path_argument
from taskfs.cli.tree_paths import Found, TreeFinder, is_live_file
from taskfs.errors import BadResponse, NotFound, Unavailable

if TYPE_CHECKING:
    from taskfs.support.buffers import Buffer
    from taskfs.tree.handles import Handle

POLL_S: Final = 2.0  # seconds between two polls with -f: the lifetime of a status in the cache


@click.command("tail", short_help="Print the last lines of files, without a mount.")
@path_argument()
@line_count_option
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Print what is appended, until the task has ended. A file that does not exist yet is "
    "waited for.  [default: off]",
)
@config_options("tail")
def command(settings: Settings, paths: tuple[TaskPath, ...], count: int, follow: bool) -> int:
    """Print the last lines of the files ID/PATH...; of a stored file only the end is fetched.

    Several files have headings, as with tail(1). See `taskfs ls --help` for the forms of ID/PATH.
    """
    if follow and len(paths) > 1:
        raise click.UsageError("-f follows one file: leave out the others")
    with open_tree(settings, paths) as tree:
        if follow:
            _Follower(tree, paths[0], count).run()
            return 0
        headings = Headings(len(paths) > 1)
        return for_each(paths, lambda path: _print_all(tree, path, count, headings))


def _print_all(tree: TreeFinder, path: TaskPath, count: int, headings: Headings) -> int:
    files = tree.find(path)

    def show(found: Found) -> None:
        with open_file(found) as handle:
            headings.print(found, several=len(files) > 1)
            _print_from(handle, find_tail(handle, count))
        sys.stdout.buffer.flush()

    return for_each_node(files, show)


class Readable(Protocol):
    """An open file of a known size."""

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, size: int) -> "Buffer": ...


def find_tail(handle: Readable, count: int) -> int:
    """Return the offset of the last *count* lines of an open file."""
    stop = handle.size
    newlines = 0
    while stop and count:
        start = max(0, stop - CHUNK_BYTES)
        chunk = bytes(handle.read_at(start, stop - start))
        position = len(chunk)
        if stop == handle.size and chunk.endswith(b"\n"):
            position -= 1  # the newline that ends the last line
        while (position := chunk.rfind(b"\n", 0, position)) >= 0:
            newlines += 1
            if newlines == count:
                return start + position + 1
        stop = start
    return stop if count else handle.size


def _print_from(handle: "Handle", offset: int) -> int:
    """Print the bytes from *offset* on and return the offset of the end."""
    from taskfs.support.chunks import read_chunks

    for chunk in read_chunks(handle.read_at, offset, handle.size):
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()
    return max(offset, handle.size)


class _Follower:
    """Prints what is appended to one file, which need not exist yet."""

    def __init__(self, tree: TreeFinder, path: TaskPath, count: int) -> None:
        self._tree = tree
        self._id = tree.task_id(path.task)
        self._path = TaskPath(self._id, path.path)
        self._count = count
        self._offset: int | None = None
        self._is_wait_noted = False
        # An open file of a running task continues from the archive once the task has ended.
        self._live: Handle | None = None

    def run(self) -> None:
        """Follow the file until its task has ended.

        Raises:
            NotFound: the task has ended without the file.
        """
        while True:
            has_ended = self._has_ended()  # asked first, so that the end of the file is not missed
            try:
                if has_ended and self._live is not None:
                    self._tree.await_outputs(self._id)
                self._print_new()
            except NotFound as exc:
                if has_ended:
                    raise
                self._note_wait(exc)
            except (Unavailable, BadResponse) as exc:
                if has_ended:
                    raise
                print_error(f"{exc}; trying again")
            if has_ended:
                return
            time.sleep(POLL_S)

    def _note_wait(self, exc: NotFound) -> None:
        """Say on a terminal, once, why nothing is printed."""
        if not self._is_wait_noted and (notify := terminal_notifier()) is not None:
            notify(f"{exc}; waiting for it until the task ends")
        self._is_wait_noted = True

    def _has_ended(self) -> bool:
        try:
            return self._tree.reload(self._id)
        except (Unavailable, BadResponse) as exc:
            print_error(f"{exc}; trying again")
            return False

    def _print_new(self) -> None:
        if self._live is not None:
            self._print_live(self._live)
            return
        found = self._find()
        if is_live_file(found.node):
            self._live = found.node.open(writing=False)
            self._offset = find_tail(self._live, self._count)
            self._print_live(self._live)
            return
        with open_file(found) as handle:
            if self._offset is None:
                self._offset = find_tail(handle, self._count)
            elif handle.size < self._offset:
                print_error(f"{found.path} is shorter than before: printing it from its start")
                self._offset = 0
            self._offset = _print_from(handle, self._offset)

    def _print_live(self, handle: "Handle") -> None:
        """Print from the offset on; a read at the end asks for what was appended."""
        assert self._offset is not None
        while chunk := handle.read_at(self._offset, CHUNK_BYTES):
            sys.stdout.buffer.write(chunk)
            self._offset += len(chunk)
        sys.stdout.buffer.flush()

    def _find(self) -> Found:
        files = self._tree.find(self._path)
        if len(files) > 1:
            raise click.UsageError(f"-f follows one file, and {len(files)} match")
        return files[0]
