"""`taskfs.remote.wait_notice`: when the notice of a late response is due."""

from types import SimpleNamespace

import pytest

from taskfs.remote import wait_notice
from tests.unit.fakes import Clock


@pytest.mark.parametrize(("pauses_s", "count"), [([0.9, 1.0], 0), ([0.9, 1.0, 0.5], 1)])
def test_the_notice_is_due_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, pauses_s: list[float], count: int
) -> None:
    """C-28: The notice comes after 2 s, so a response within them comes without one."""
    monkeypatch.setattr(wait_notice, "time", SimpleNamespace(monotonic=clock, sleep=clock.tick))
    notices: list[tuple[float, str]] = []
    began_s = clock()
    monkeypatch.setattr(
        wait_notice, "_notify", lambda text: notices.append((round(clock() - began_s, 3), text))
    )
    for pause_s in pauses_s:
        wait_notice.pause_before_retry(pause_s, began_s, 20, "GET /tasks: no response (refused)")
    assert clock() - began_s == pytest.approx(sum(pauses_s))
    assert notices == [(2.0, "no response yet (refused), trying until 20 s")] * count
