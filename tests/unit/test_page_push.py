"""`PagePush`: pushes into the page cache cannot deadlock with reads."""

import contextlib
import threading
from typing import cast

import pytest

from taskfs.fuse.kernel.page_push import PagePush
from taskfs.support.wait_hook import call_before_waits
from taskfs.tree.handles import PushableHandle


def write_pages(nodeid: int, offset: int, piece: object) -> None:
    """Push nothing."""


@pytest.mark.parametrize(
    ("reads", "pushed"),
    [
        ([], range(100, 200)),
        ([(0, 100)], range(100, 200)),
        ([(0, 101)], range(100, 100)),
        ([(150, 160)], range(100, 150)),
        ([(199, 300), (120, 130)], range(100, 120)),
        ([(200, 300)], range(100, 200)),
    ],
)
def test_no_push_overlaps_a_read_in_flight(reads: list[tuple[int, int]], pushed: range) -> None:
    """R-10: Nothing is pushed where a read is in flight."""
    pushes = PagePush(write_pages)
    with contextlib.ExitStack() as stack:
        for start, stop in reads:
            stack.enter_context(pushes.read(7, start, stop))
        stack.enter_context(pushes.read(8, 100, 200))  # of another file
        with pushes.push(7, lambda: range(100, 200)) as ready:
            assert ready == pushed
    with pushes.push(7, lambda: range(100, 200)) as ready:
        assert ready == range(100, 200)


def test_two_reads_of_the_same_bytes_both_count() -> None:
    """R-10: Two reads of the same bytes both count until they have ended."""
    pushes = PagePush(write_pages)
    with pushes.read(7, 0, 10):
        with pushes.read(7, 0, 10):
            pass
        with pushes.push(7, lambda: range(20)) as ready:
            assert not ready


def test_a_read_during_the_preparation_of_a_push_counts() -> None:
    """R-10, R-18: A read that arrives while a push is prepared does not wait for it, and is left
    out of the push."""
    pushes = PagePush(write_pages)
    with contextlib.ExitStack() as stack:

        def claim() -> range:
            reader = threading.Thread(target=lambda: stack.enter_context(pushes.read(7, 5, 8)))
            reader.start()
            reader.join(30)
            assert not reader.is_alive()
            return range(10)

        with pushes.push(7, claim) as ready:
            assert ready == range(5)


def test_the_number_of_pushes_is_bounded() -> None:
    """R-10: At most four push at once."""
    pushes, asked = PagePush(write_pages), []

    def claim() -> range:
        asked.append(1)
        return range(10)

    with contextlib.ExitStack() as stack:
        for _ in range(4):
            assert stack.enter_context(pushes.push(7, claim))
        assert not stack.enter_context(pushes.push(7, claim))
        assert len(asked) == 4
    with pushes.push(7, claim) as ready:
        assert ready


def test_a_push_at_open_needs_a_closed_file() -> None:
    """R-10, R-40: Only the first of a file's open files is pushed to, so that no push at an open
    waits for a read."""
    pushes = PagePush(write_pages)
    assert pushes.note_open(7) and pushes.note_open(8)
    assert not pushes.note_open(7)
    pushes.note_release(7)
    assert not pushes.note_open(7)
    pushes.note_release(7)
    pushes.note_release(7)
    assert pushes.note_open(7)


class OpenFile:
    """An open file with one piece to push."""

    def __init__(self) -> None:
        self.ready = [range(10, 20), range(0)]

    def take_pushable(self) -> range:
        return self.ready.pop(0)

    def read_for_push(self, offset: int, size: int) -> bytes:
        return bytes(size)


def test_a_push_announces_its_wait() -> None:
    """R-40, R-10: A push after a read may wait in the kernel, so another thread reads the requests
    meanwhile. Without bytes to push, and at an open, there is no wait."""
    done: list[str] = []
    pushes = PagePush(lambda nodeid, offset, piece: done.append("push"))
    call_before_waits(lambda: done.append("wait"))
    try:
        handle = cast(PushableHandle, OpenFile())
        pushes.push_after_read(7, handle)
        assert done == ["wait", "push"]
        cast(OpenFile, handle).ready = [range(0)]
        pushes.push_after_read(7, handle)
        pushes.push_at_open(7, cast(PushableHandle, OpenFile()))
        assert done == ["wait", "push", "push"]
    finally:
        call_before_waits(lambda: None)
