"""The bar of `taskfs download`: the rates and times that it shows."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.progress import Progress, TaskID

from taskfs.cli.progress_columns import RateColumn, RemainingColumn

MB = 10**6


class Download:
    """A bar with a clock of the test's own."""

    def __init__(self, total: int) -> None:
        self.now_s = 1000.0
        clock: Callable[[], float] = lambda: self.now_s  # noqa: E731
        self.progress = Progress(auto_refresh=False, get_time=clock, disable=True)
        self.task: TaskID = self.progress.add_task("", total=total)

    def advance(self, size: int, after_s: float) -> None:
        self.now_s += after_s
        self.progress.advance(self.task, size)

    def shown(self, column: Any) -> str:
        return str(column.render(self.progress.tasks[0]))


def test_the_first_rate_is_not_that_of_a_burst() -> None:
    """The progress bar shows a rate once it means something."""
    download = Download(1000 * MB)
    assert download.shown(RateColumn()) == "?"
    for _ in range(3):
        download.advance(MB, 0.0001)  # a rate of 10 GB/s
        assert download.shown(RateColumn()) == "?"
        assert download.shown(RemainingColumn()) == "-:--:--"
    for _ in range(8):
        download.advance(MB, 0.25)
    rate = re.fullmatch(r"([\d.]+) MB/s", download.shown(RateColumn()))
    assert rate is not None
    assert 3.5 < float(rate[1]) < 6
    assert download.shown(RemainingColumn()) != "-:--:--"


def test_the_rate_of_a_finished_download_is_that_of_the_whole() -> None:
    """A download shorter than a second has a rate."""
    download = Download(2 * MB)
    download.advance(MB, 0.4)
    download.advance(MB, 0.1)
    assert download.shown(RateColumn()) == "4.0 MB/s"


@pytest.mark.parametrize("size", [-MB, 0])
def test_a_file_that_is_read_once_more(size: int) -> None:
    """Bytes that did not count make no negative rate."""
    download = Download(10 * MB)
    download.advance(MB, 0.5)
    download.advance(size, 0.5)
    download.advance(size, 0.5)
    assert download.shown(RateColumn()) in ("?", "0 bytes/s")
