"""`taskfs.tasks.task_walk`: what makes a walk over tasks, and how far it is prefetched."""

import random
import tracemalloc
from collections.abc import Iterable, Sequence

import pytest

from taskfs.errors import BadResponse
from taskfs.remote.signed_url import SignedBatch
from taskfs.tasks.archive_kind import ArchiveKind
from taskfs.tasks.task_walk import MAX_MEMBERS, TaskWalk, Walked
from tests.archive_harness import run_threads
from tests.unit.fakes import task_of

STREAK = 4  # a walk counts from this task on
BY_NAME = [f"task{number:03}" for number in range(200)]
BY_AGE = random.Random(5).sample(BY_NAME, len(BY_NAME))


class Walk:
    """A walk over 200 tasks; `prefetched` lists the tasks in the order of their requests."""

    def __init__(self, ids: Sequence[str] = BY_AGE) -> None:
        self.prefetched: list[str] = []
        self.batches = 0
        ids = tuple(ids)
        self._walk = TaskWalk(lambda: ids, self._prefetch)

    def _prefetch(self, ids: Sequence[str], walked: Walked) -> None:
        self.prefetched += ids
        self.batches += 1

    def visit(self, names: Iterable[str], kind: ArchiveKind = ArchiveKind.OUTPUT) -> "Walk":
        for name in names:
            self._walk.note(task_of(name, "success"), kind)
        return self


@pytest.mark.parametrize("order", [BY_NAME, BY_AGE, BY_NAME[::-1], BY_AGE[::-1]])
def test_a_walk_has_all_that_follow_prefetched(order: list[str]) -> None:
    """R-29: Each later task of a walk is prefetched, once and before it is needed."""
    walk = Walk()
    for number, name in enumerate(order):
        if number > STREAK:
            assert name in walk.prefetched
        walk.visit([name, name])
    assert walk.prefetched == order[STREAK:]
    assert walk.batches < len(order) / 10 + 5


def test_prefetch_is_at_most_twice_what_was_met() -> None:
    """R-29: At most twice as many tasks are prefetched as the walk has met."""
    for length in range(1, 60):
        count = len(Walk().visit(BY_NAME[:length]).prefetched) - max(0, length - STREAK)
        assert count <= min(2 * length, 32)
        assert (count > 0) == (length >= STREAK)


def test_both_archives_of_one_task_in_turn() -> None:
    """R-20, R-29: A program that compares the outputs of one task with its inputs leaves no notes
    behind, and is no walk."""
    walk = Walk()
    tracemalloc.start()
    try:
        for _ in range(10_000):
            for kind in (ArchiveKind.OUTPUT, ArchiveKind.INPUT):
                walk.visit(BY_NAME[:1], kind)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 100_000
    assert walk.visit(BY_NAME[1:3]).prefetched == []
    assert walk.visit(BY_NAME[3:5]).prefetched


def test_tasks_in_random_order_prefetch_nothing() -> None:
    """R-29: Three tasks, in order or not, and many in random order cause no request."""
    assert Walk().visit(BY_NAME[50:53]).prefetched == []
    chosen = random.Random(1)
    for _ in range(50):
        assert Walk().visit(chosen.sample(BY_NAME, 3)).prefetched == []
    assert Walk().visit(chosen.choices(BY_NAME, k=300)).prefetched == []


def test_a_few_tasks_of_a_large_account_cost_no_sort() -> None:
    """R-29: Three tasks do not make the order of all names; a walk needs it once."""
    read = []

    class Ids(tuple[str, ...]):
        def __getitem__(self, position: object) -> str:  # type: ignore[override]
            read.append(position)
            return tuple.__getitem__(self, position)  # type: ignore[call-overload, no-any-return]

    ids = Ids(BY_AGE)
    walk = TaskWalk(lambda: ids, lambda ids, walked: None)
    for name in BY_NAME[:3]:
        walk.note(task_of(name, "success"), ArchiveKind.OUTPUT)
    assert read == []
    for name in BY_NAME[3:40]:
        walk.note(task_of(name, "success"), ArchiveKind.OUTPUT)
    assert len(BY_NAME) <= len(read) < 5 * len(BY_NAME)


def test_a_walk_through_a_view_whose_tasks_lie_scattered() -> None:
    """R-29: The order of the view that was listed last counts as well."""
    prefetched: list[str] = []
    ids = tuple(BY_AGE)
    walk = TaskWalk(lambda: ids, lambda ids, walked: prefetched.extend(ids))
    view = BY_AGE[::9]
    walk.note_view(view)
    for name in sorted(view):
        walk.note(task_of(name, "success"), ArchiveKind.OUTPUT)
    assert set(sorted(view)[STREAK:]) <= set(prefetched)
    assert len(prefetched) < 2 * len(view)


def test_a_walk_goes_on_while_tasks_come() -> None:
    """R-29: A task that is added moves all others by one place, and the walk goes on."""
    listing = [tuple(BY_AGE)]
    prefetched: list[str] = []
    walk = TaskWalk(lambda: listing[0], lambda ids, walked: prefetched.extend(ids))
    for number, name in enumerate(BY_NAME):
        if number % 15 == 14:
            listing[0] = (f"new{number}", *listing[0])
        walk.note(task_of(name, "success"), ArchiveKind.OUTPUT)
    assert set(BY_NAME[STREAK:]) <= set(prefetched)


def test_a_walk_that_skips_tasks_goes_on() -> None:
    """R-29: A view leaves out tasks of another status."""
    chosen = [name for number, name in enumerate(BY_NAME) if number % 4 != 1]
    assert set(chosen[10:]) <= set(Walk().visit(chosen).prefetched)


def test_a_walk_that_turns_back() -> None:
    """R-29: A walk that turns is prefetched in the other direction, after some tasks."""
    walk = Walk().visit(BY_NAME[50:60])
    ahead = walk.prefetched[-1]
    walk.visit(BY_NAME[58:30:-1])
    assert max(walk.prefetched) == ahead
    assert set(BY_NAME[20:40]) <= set(walk.prefetched)


def test_several_readers_share_a_walk() -> None:
    """R-29: Readers that are a few tasks apart are one walk."""
    order = list(BY_NAME)
    for start in range(0, len(order), 4):
        order[start : start + 4] = random.Random(start).sample(order[start : start + 4], 4)
    assert len(set(order[40:]) - set(Walk().visit(order).prefetched)) < 40


def test_outputs_and_inputs_are_walks_of_their_own() -> None:
    """R-29: A program that looks into both directories of each task is a walk over both."""
    walk = Walk()
    for name in BY_NAME[:20]:
        walk.visit([name], ArchiveKind.OUTPUT).visit([name], ArchiveKind.INPUT)
    assert walk.prefetched.count(BY_NAME[20]) == 2


def test_a_task_outside_of_the_listing_changes_nothing() -> None:
    """R-29: A task that the listing does not show belongs to no walk."""
    walk = Walk().visit(["unknown"]).visit(BY_NAME[:3]).visit(["zzz"])
    assert walk.prefetched == []
    assert Walk([]).visit(BY_NAME).prefetched == []


def test_a_batch_is_signed_in_one_request() -> None:
    """R-30: All first URLs come from one request, later ones are signed alone."""
    asked: list[list[str]] = []

    def sign_all(paths: Sequence[str]) -> list[str]:
        asked.append(list(paths))
        return [f"url of {path}" for path in paths]

    batch = SignedBatch("abc", sign_all, lambda path: f"new url of {path}")
    run_threads([lambda: batch.sign("a"), lambda: batch.sign("b")])
    assert batch.sign("c") == "url of c"
    assert asked == [["a", "b", "c"]]
    assert batch.sign("a") == "new url of a"


def test_a_batch_that_fails_is_signed_one_by_one() -> None:
    """R-30: One path that the API refuses does not cost the others their URLs."""

    def refuse(paths: Sequence[str]) -> list[str]:
        raise BadResponse("422")

    batch = SignedBatch("abc", refuse, lambda path: f"url of {path}")
    assert [batch.sign(path) for path in "abc"] == ["url of a", "url of b", "url of c"]
    short = SignedBatch("abc", lambda paths: ["one"], lambda path: f"url of {path}")
    assert short.sign("b") == "url of b"


def test_a_member_is_prefetched_in_as_many_tasks_as_were_read() -> None:
    """R-45: A member is prefetched in at most as many tasks as it was read in, and each once."""
    prefetched: list[str] = []
    walk = TaskWalk(lambda: BY_NAME, lambda ids, walked: prefetched.extend(ids))
    log = Walked(ArchiveKind.OUTPUT, "log")
    for number, name in enumerate(BY_NAME[:60]):
        walk.note_member(name, log, 16)
        ahead = len(prefetched) - max(0, number + 1 - STREAK)
        assert (ahead > 0) == (number + 1 >= STREAK)
        assert ahead <= min(16, number + 1)
    assert prefetched == BY_NAME[STREAK : STREAK + len(prefetched)]


def test_members_are_walks_of_their_own() -> None:
    """R-45: Several members of each task are followed; of many, those that were read last."""
    prefetched: list[str] = []
    walk = TaskWalk(lambda: BY_NAME, lambda ids, walked: prefetched.append(walked.path))
    for name in BY_NAME[:10]:
        for member in ("a", "b"):
            walk.note_member(name, Walked(ArchiveKind.OUTPUT, member), 16)
    assert {"a", "b"} == set(prefetched)
    prefetched.clear()
    for name in BY_NAME[50:60]:
        for number in range(MAX_MEMBERS + 1):
            walk.note_member(name, Walked(ArchiveKind.OUTPUT, str(number)), 16)
    assert prefetched == []
