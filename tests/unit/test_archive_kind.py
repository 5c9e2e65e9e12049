"""`taskfs.tasks.archive_kind`: how long a missing archive counts as late."""

import time
from typing import Any

import pytest

from taskfs.tasks.archive_kind import ArchiveKind, remaining_grace_s
from tests.unit.fakes import task_of


def grace_s(
    since_end_s: float | None,
    *,
    status: str = "success",
    kind: ArchiveKind = ArchiveKind.OUTPUT,
    clock_offset_s: float | None = None,
) -> Any:
    """Return the remaining grace, in whole seconds, as `approx`."""
    end_ns = None if since_end_s is None else int((time.time() - since_end_s) * 1e9)
    task = task_of("t", status, output_path="t/output.zip", end_ns=end_ns)
    return pytest.approx(remaining_grace_s(task, kind, clock_offset_s), abs=1)


def test_the_output_archive_of_a_success_may_be_late_for_a_minute() -> None:
    """F-13: The output archive of a success may be late for 60 s."""
    assert grace_s(0) == 60
    assert grace_s(50) == 10
    assert grace_s(61) == 0
    assert grace_s(7200) == 0


def test_no_other_archive_is_late() -> None:
    """F-13: No other archive is waited for."""
    assert grace_s(0, status="failed") == 0
    assert grace_s(0, status="started") == 0
    assert grace_s(0, kind=ArchiveKind.INPUT) == 0


def test_without_an_end_time_no_archive_is_late() -> None:
    """F-13: Without an end time, which may be a year ago, neither a read nor a download waits."""
    assert grace_s(None) == 0


@pytest.mark.parametrize(("offset_s", "left_s"), [(-3600, 60), (-20, 50), (20, 10), (40, 0)])
def test_the_end_is_compared_with_the_clock_that_wrote_it(offset_s: float, left_s: int) -> None:
    """F-16: The 60 s go by the API's clock."""
    assert grace_s(30, clock_offset_s=offset_s) == left_s
