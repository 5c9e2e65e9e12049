"""Reading on from the archive when the task has ended."""

import pytest

from taskfs.tasks.live_end import member_shift
from tests.live.test_live_file import World


def shift_of(world: World, member: bytes) -> int | None:
    snapshot = world.file.snapshot
    assert snapshot is not None
    return member_shift(snapshot, len(member), lambda offset, size: member[offset : offset + size])


@pytest.mark.parametrize(
    ("member", "shift"),
    [(b"one\ntwo\n", 0), (b"one\ntwo\nthree\n", 0), (b"one\ntw", None), (b"ONE\ntwo\n", None)],
)
def test_the_archive_continues_after_the_returned_bytes(member: bytes, shift: int | None) -> None:
    """L-9: reading goes on from the archive's member if that begins with what was handed out,
    else ESTALE."""
    world = World()
    world.write(b"one\ntwo\n")
    world.update()
    assert shift_of(world, member) == shift


def test_the_end_of_a_large_file_is_found_in_the_archive() -> None:
    """L-9: a `tail -f` gets the last lines."""
    world = World()
    content = b"".join(b"step %08d\n" % number for number in range(500_000))
    world.write(content)
    snapshot = world.update()
    member = content + b"the end\n"
    shift = shift_of(world, member)
    assert shift is not None
    assert member[snapshot.size + shift :] == b"\nthe end\n"
    assert shift_of(world, content[:-100]) is None
    assert shift_of(world, b"x" * len(member)) is None
    assert shift_of(world, member * 2) is None
