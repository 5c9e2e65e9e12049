"""Progress on standard error, if that is a terminal."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from taskfs.cli.output import is_terminal

if TYPE_CHECKING:
    from taskfs.download.run import ProgressCallback


@contextlib.contextmanager
def progress_bar(total: int) -> "Iterator[ProgressCallback]":
    """Yield the callback that counts bytes, with a bar if standard error is a terminal."""
    if not is_terminal(sys.stderr) or not total:
        yield lambda size: None
        return
    from taskfs.cli.progress_columns import make_progress_bar

    with make_progress_bar() as bar:
        task = bar.add_task("", total=total)
        yield lambda size: bar.advance(task, size)
