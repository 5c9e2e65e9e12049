"""`taskfs.tree.held_texts`: a text whose size was reported is served, for a bounded time."""

import pytest

from taskfs.tree.held_texts import HeldTexts, Text
from tests.unit.fakes import Clock


class Source:
    """A text that counts how often it was rendered; `age_s` is the age of its content."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.count = 0
        self.age_s: float | None = None

    def __call__(self) -> Text:
        self.count += 1
        text = Text(b"%d" % self.count, self.count)
        if self.age_s is not None:
            text.as_of_s = self._clock() - self.age_s
        return text


@pytest.fixture
def source(clock: Clock) -> Source:
    return Source(clock)


@pytest.fixture
def held_texts(clock: Clock) -> HeldTexts:
    return HeldTexts(1.0, 2.0, clock)


def test_an_open_serves_the_text_that_a_stat_reported(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """T-10: An open within the attribute timeout serves the text that was reported."""
    assert held_texts.report("t/status", source).body == b"1"
    for _ in range(4):
        clock.tick(0.25)
        assert held_texts.serve("t/status", source).body == b"1"
    clock.tick(1.0)
    assert held_texts.serve("t/status", source).body == b"2"


def test_an_fstat_after_an_open_reports_the_same_text(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """T-10: The fstat after an open reports the same size."""
    assert held_texts.serve("t/status", source).body == b"1"
    clock.tick(0.5)
    assert held_texts.report("t/status", source).body == b"1"
    assert held_texts.serve("t/status", source).body == b"1"


def test_repeated_stats_do_not_pin_a_text_for_ever(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """F-2: Repeated `stat`s do not keep an old text for ever."""
    source.age_s = 1.5
    reported = []
    for _ in range(20):
        reported.append(int(held_texts.report("t/status", source).body[:]))
        clock.tick(0.25)
    assert source.count >= 6
    assert reported == sorted(reported)


def test_a_reported_text_is_at_most_as_old_as_allowed(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """F-2: A reported text is at most as old as it may be."""
    source.age_s = 1.9
    text = held_texts.report("t/status", source)
    assert clock() - text.as_of_s == pytest.approx(1.9)
    clock.tick(0.2)
    source.age_s = 0
    assert held_texts.report("t/status", source).as_of_s == clock()


def test_a_text_that_never_ages_stays_held_between_stats(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """T-10: A text that does not age stays held while it is asked for."""
    held_texts.report("t/status", source)
    clock.tick(1.0)
    assert held_texts.report("t/status", source).body == b"1"
    clock.tick(1.2)
    assert held_texts.report("t/status", source).body == b"2"


def test_a_kill_releases_the_pins_of_its_task_only(
    held_texts: HeldTexts, clock: Clock, source: Source
) -> None:
    """T-11: A kill releases the texts of its own task only."""
    for path in ("t/status", "t/info.json", "t2/status"):
        held_texts.report(path, source)
    held_texts.release("t/")
    assert held_texts.serve("t/status", source).body == b"4"
    assert held_texts.serve("t/info.json", source).body == b"5"
    assert held_texts.serve("t2/status", source).body == b"3"


def test_a_pin_may_expire_during_release(source: Source) -> None:
    """T-11, K-2: Releasing a text that expires at the same moment does not fail the kill."""

    class Running(Clock):
        def __call__(self) -> float:
            self.now_s += 0.4
            return self.now_s

    held_texts = HeldTexts(1.0, 2.0, Running())
    for number in range(8):
        held_texts.report(f"t/{number}", source)
    held_texts.release("t/")


def test_a_failure_is_not_held(held_texts: HeldTexts, source: Source) -> None:
    """F-15: A failure is not held."""

    def fail() -> Text:
        raise OSError

    with pytest.raises(OSError):
        held_texts.report("t/status", fail)
    assert held_texts.report("t/status", source).body == b"1"


def test_the_held_texts_are_bounded(
    clock: Clock, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-20: Beyond the bound the oldest text is dropped, and the others stay."""
    monkeypatch.setattr("taskfs.tree.held_texts.MAX_TEXTS", 20)
    held_texts = HeldTexts(1.0, 2.0, clock)
    bodies = {
        f"t{number}/status": held_texts.report(f"t{number}/status", source).body
        for number in range(21)
    }
    assert held_texts.serve("t20/status", source).body == bodies["t20/status"]
    assert held_texts.serve("t1/status", source).body == bodies["t1/status"]
    assert held_texts.serve("t0/status", source).body != bodies["t0/status"]
