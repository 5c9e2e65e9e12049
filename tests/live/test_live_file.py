"""Exact bytes of a machine's file from answers to `tail`."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taskfs.errors import NotFound, TooLarge, Unsupported
from taskfs.tasks.live_file import Limits, LiveFile, Snapshot
from tests.live.machine_model import Clock, ModelMachine

HOLE = 1 << 40  # L-6
# Small, so that short files go through every way of asking.
TINY = Limits(
    answer=24 << 10, enough=18 << 10, steps=(2048, 8192), small=3000, evidence=600, kept=96 << 10
)


class World:
    def __init__(self, name: bytes = b"run.log", limits: Limits = Limits()) -> None:  # noqa: B008
        self.clock = Clock()
        self.machine = ModelMachine(self.clock)
        self.name = name.decode()
        self.file = LiveFile(
            name,
            whole_lines=name == b"stdout.txt",
            clock=self.clock,
            sleep=self.clock.sleep,
            limits=limits,
        )

    def write(self, content: bytes) -> None:
        self.machine.files.write(self.name, content)

    def append(self, content: bytes) -> None:
        self.machine.files.append(self.name, content)

    def update(self, after_s: float = 1.0) -> Snapshot:
        self.clock.now_s += after_s
        return self.file.update(self.machine)


def content_of(snapshot: Snapshot) -> bytes:
    return snapshot.read(snapshot.hole, snapshot.size)


def test_the_last_newline_of_the_runners_logs_is_returned_at_once() -> None:
    """L-4: The last newline is handed out at once for the runner's own `stdout.txt`."""
    world = World(b"stdout.txt")
    world.write(b"one\ntwo\n")
    assert content_of(world.update()) == b"one\ntwo\n"
    world.append(b"\n -------\n")
    assert content_of(world.update()) == b"one\ntwo\n\n -------\n"


def test_the_last_newline_of_other_files_is_returned_once_something_follows() -> None:
    """L-4: … for other files once something follows; none is ever invented."""
    world = World()
    world.write(b"one\ntwo")
    assert content_of(world.update()) == b"one\ntwo"
    world.append(b"\n")
    assert content_of(world.update()) == b"one\ntwo"
    world.append(b"thr")
    assert content_of(world.update()) == b"one\ntwo\nthr"
    world.append(b"ee\n\n")
    assert content_of(world.update()) == b"one\ntwo\nthree\n\n"


@pytest.mark.parametrize("content", [b"\n", b"\n\n", b"a\r\n\0b", "é\n日本\n".encode()])
def test_odd_text_is_exact(content: bytes) -> None:
    """L-4: Exact bytes."""
    world = World(b"stdout.txt")
    world.write(content)
    whole = content if content.endswith(b"\n") else content + b"\n"
    assert content_of(world.update()) == whole


def test_an_empty_file_grows() -> None:
    """L-7: a file counts as empty only where a one-block probe stays silent."""
    world = World()
    world.write(b"")
    before = world.update()
    assert before.size == 0
    assert world.machine.questions[0].args["lines"] == -1
    world.append(b"x\ny")
    after = world.update()
    assert (content_of(after), after.generation) == (b"x\ny", before.generation)


def test_a_rewritten_file_is_another_generation() -> None:
    """L-4: A file rewritten under an open handle is ESTALE there, and new for the next open."""
    world = World()
    world.write(b"one\ntwo\nthree\n")
    before = world.update()
    world.write(b"one\nTWO\nthree\nfour\n")
    after = world.update()
    assert after.generation != before.generation
    assert content_of(after) == b"one\nTWO\nthree\nfour"
    assert content_of(before) == b"one\ntwo\nthree"
    world.write(b"")
    assert world.update().generation != after.generation


def test_text_whose_block_begins_within_a_character_is_read() -> None:
    """L-7: Binary or not UTF-8 is EOPNOTSUPP, and text is read, although the machine calls it
    binary where its block begins within a character."""
    world = World()
    content = "".join(f"Schritt {i}: größer, 日本語 {i * 7919}\n" for i in range(9000)).encode()
    world.write(content)
    assert content_of(world.update()) == content[:-1]
    world.append("größer\n".encode())
    assert content_of(world.update()) == content + "größer".encode()


def test_a_half_written_character_does_not_break_a_follower() -> None:
    """L-5: `tail -f` sees a new line; a character in two halves is no error."""
    world = World()
    world.write("é\n".encode() * 10)
    before = world.update()
    world.append("caf\u00e9".encode()[:-1])
    assert world.update().size == before.size
    world.append("é\n".encode()[1:])
    assert content_of(world.update()).endswith("é\ncafé".encode())


def test_a_binary_file_is_refused_by_name() -> None:
    """L-7: Binary or not UTF-8: EOPNOTSUPP by name."""
    world = World()
    world.write(random.Random(1).randbytes(200_000))
    with pytest.raises(Unsupported, match=r"run\.log"):
        world.update()
    assert world.machine.bytes_sent < 10_000


def test_a_missing_file_is_not_found() -> None:
    world = World()
    with pytest.raises(NotFound):
        world.update()


def test_following_costs_the_new_bytes() -> None:
    """L-5: Following costs the new bytes, not the whole file."""
    world = World()
    lines = [b"step %06d residual %09d\n" % (i, i * 7919 % 10**9) for i in range(60_000)]
    world.write(b"".join(lines))
    first = world.update()
    cost = world.machine.bytes_sent
    for number in range(10):
        world.append(b"step %06d residual %09d\n" % (60_000 + number, number))
        world.update()
    assert world.machine.bytes_sent - cost < 10 * 100_000
    last = world.file.snapshot
    assert last is not None and last.generation == first.generation
    assert content_of(last) == (world.machine.files.read("run.log") or b"")[:-1]


def test_one_block_is_probed_before_anything_large() -> None:
    """L-6: probe one block before asking for anything large."""
    world = World()
    world.write(b"a line of the log\n" * 100_000)
    world.update()
    asked = [question.args["lines"] for question in world.machine.questions]
    assert asked[0] == -1
    assert asked[1] < 1024


def test_the_end_of_a_large_file_is_behind_a_hole() -> None:
    """L-6: the end is served behind a hole; reading the start is EFBIG."""
    world = World()
    lines = [b"step %08d residual %012d\n" % (i, i * 7919) for i in range(200_000)]
    world.write(b"".join(lines))
    before = world.update()
    assert before.hole == HOLE
    whole = b"".join(lines)[:-1]
    assert 3 << 20 <= before.size - before.hole <= 4 << 20
    assert whole.endswith(content_of(before))
    with pytest.raises(TooLarge):
        before.read(0, 10)
    world.append(b"the last line\nand more")
    after = world.update(60.0)
    assert after.generation == before.generation
    assert after.read(before.size, 1000) == b"\nthe last line\nand more"


def test_constant_lines_are_counted() -> None:
    """L-4: where equal lines make the overlap ambiguous, ask for more."""
    world = World()
    world.write(b"same\n" * 40_000)
    world.update()
    world.append(b"same\n" * 12_345)
    assert world.update().size == 5 * 52_345 - 1


@pytest.mark.parametrize("more", [b"", b"the end\n"])
def test_a_repeated_end_is_noticed(more: bytes) -> None:
    """U-11, L-4: Where a file repeats more of its end than an overlap shows, the bytes are missed
    until the whole file is asked for, which happens in time. Where others followed, open handles
    are ESTALE then."""
    world = World()
    table = b"".join(b"row %06d %09d\n" % (n, n * 7919 % 10**9) for n in range(2000))
    world.write(b"".join(b"step %06d\n" % n for n in range(8000)) + table)
    before = world.update()
    world.append(table)
    cost = world.machine.bytes_sent
    assert world.update().size == before.size  # no answer shows the growth
    world.append(more)
    whole = (world.machine.files.read("run.log") or b"")[:-1]
    polls, cost_of_one = 0, world.machine.bytes_sent - cost
    while content_of(world.update()) != whole:
        polls += 1
        assert polls < 50
    assert world.update().generation == before.generation + (more != b"")
    # The whole file costs a fraction of what the requests before it did.
    assert world.machine.bytes_sent - cost < 1.4 * cost_of_one * (polls + 3)


def block(kind: int) -> bytes:
    return b"".join(b"block %d line %02d\n" % (kind, n) for n in range(6 + 9 * kind))


def blocks_of(kinds: str) -> list[bytes]:
    return [block(int(kind)) for kind in kinds]


blocks = st.integers(0, 4).map(block)


@settings(max_examples=300, deadline=None)
@given(st.lists(blocks, min_size=14, max_size=24), st.lists(st.lists(blocks, max_size=12)))
# The end occurs twice; the appended bytes repeat it again, from within the known ones on.
@example(blocks_of("00000000000000"), [blocks_of("33"), blocks_of("340034")])
def test_only_a_repeated_end_deceives(known: list[bytes], appended: list[list[bytes]]) -> None:
    """U-11, L-4: Bytes are exact in all other cases: where the text repeats itself, more is asked
    for, at the end the whole."""
    world = World(limits=TINY)
    world.write(b"".join(known))
    before = world.update()
    for piece in appended:
        new = b"".join(piece)
        world.append(new)
        last, before = before, world.update()
        true = world.machine.files.read("run.log") or b""
        if before.hole == HOLE:  # too large to be asked for as a whole
            assert true[:-1].endswith(content_of(before))
            return
        if content_of(before) != true[:-1]:
            assert content_of(last)[-TINY.evidence :] in new
            return


pieces = st.one_of(
    st.text("ab\n", max_size=12),
    st.text("aé日\n\r\0", max_size=12),
    st.sampled_from(["\n", "\n\n", "a\n", " -------\n", "x" * 1500 + "\n", "é" * 700]),
)
actions = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "many", "rewrite", "same", "empty", "grow"]),
        pieces,
        st.integers(0, 400),
        st.sampled_from([0.6, 2.0, 30.0]),
    ),
    max_size=14,
)


@settings(max_examples=400, deadline=None)
@given(actions, st.booleans(), st.randoms(use_true_random=False))
def test_never_a_wrong_byte(
    steps: list[tuple[str, str, int, float]], is_runner: bool, rng: random.Random
) -> None:
    """L-4: Exact bytes, whatever is appended, rewritten or repeated between two looks."""
    world = World(b"stdout.txt" if is_runner else b"run.log", TINY)
    world.write(b"")
    counter = 0
    for kind, piece, count, pause_s in [("append", "", 0, 1.0), *steps]:
        text = piece
        if kind == "many":
            text = "".join(f"step {counter + i:06d} {rng.random():.5f}\n" for i in range(count))
            counter += count
        elif kind == "same":
            text = piece * (count // 10)
        if is_runner and text and not text.endswith("\n"):
            text += "\n"
        if kind == "rewrite":
            world.write(text.encode())
        elif kind == "empty":
            world.write(b"")
        else:
            world.append(text.encode())
        before = world.file.snapshot
        try:
            after = world.update(pause_s)
        except Unsupported:
            continue
        if world.file.age_s > 0:  # a block began within a character: the snapshot is one of before
            assert before is not None and after.size == before.size
            continue
        true = world.machine.files.read(world.name) or b""
        shown = content_of(after)
        if after.hole == 0 or after.hole < HOLE:
            assert after.size in (len(true), len(true) - 1)
            assert true[after.hole : after.size] == shown
            assert true[after.size :] in (b"", b"\n")
        else:
            assert true.removesuffix(b"\n").endswith(shown.removesuffix(b"\n"))
        if before is not None and before.generation == after.generation:
            assert after.size >= before.size
            common = max(before.hole, after.hole)
            assert before.read(common, 1 << 50) == after.read(common, before.size - common)
        assert true[-1:] != b"\n" or not is_runner or shown.endswith(b"\n")
