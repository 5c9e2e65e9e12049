"""One text file of a running task: exact bytes from answers without size and offset."""

import time
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from taskfs.errors import BadResponse, NotFound, StaleObject, TooLarge, Unavailable, Unsupported
from taskfs.remote.live_messages import LS, Answer, Question, SilenceProbe, tail
from taskfs.tasks.live_text import (
    EVIDENCE_BYTES,
    certain_bytes,
    count_last_lines,
    find_overlap,
    lines_of,
    wire_ratio,
)
from taskfs.tasks.live_tree import name_text

# In seconds: an overlap is trusted this long after the last answer; then the whole is asked for.
OVERLAP_S: Final = 10.0
# A file of several MiB is followed by overlaps alone until their answers together are this many
# times as long as the file. Then the whole file is asked for, because a file that repeats its own
# end can deceive an overlap.
OVERLAP_FACTOR: Final = 8
# Bytes. The end of a large file is shown after a hole of this size, because its true offset is
# unknown. No real log is as long, so the offset cannot be mistaken for a true one.
HOLE_BYTES: Final = 1 << 40
# Lines to ask for, in turn, after the answer "not a text file". The machine gives it for a text
# too, if the first block that it reads begins within a character. With another number of lines that
# block may begin elsewhere.
RETRY_LINES: Final = (0, 4, 16, 64, 256)
MAX_RETRIES: Final = len(RETRY_LINES)
# In seconds: pause before the last try, because a character may be half written.
HALF_CHARACTER_S: Final = 0.25
# A machine sends no answer about an empty file. For a file that was empty before, a shorter wait is
# enough; a large answer needs a longer one.
FIRST_SILENCE_PROBE: Final = SilenceProbe(LS, after_s=0.4, silence_s=1.5)
NEXT_SILENCE_PROBE: Final = SilenceProbe(LS, after_s=0.3, silence_s=0.1)
LARGE_SILENCE_PROBE: Final = SilenceProbe(LS, after_s=3.0, silence_s=1.5)
# Steps in which a whole file is read, and by how much one may be longer than the one before. The
# number of lines at least doubles with each step, so twelve reach any answer that is accepted.
MAX_STEPS: Final = 12
MAX_STEP_FACTOR: Final = 16
NOT_FOUND: Final = "File not found: "
NOT_TEXT: Final = "File is not a text file: "


class Limits(NamedTuple):
    """Sizes in bytes that bound the cost of one file.

    *answer*: largest message that a question aims at; the time to reassemble one is quadratic.
    *enough*: an answer of this size, below the aim because line lengths vary, shows a large file.
    *steps*: the sizes of the first answers when a whole file is read, so that a small file costs
        little.
    *small*: a known file up to this size is asked for as a whole each time.
    *evidence*: see `find_overlap`.
    *kept*: beyond this size, the beginning of a followed file is dropped.
    """

    answer: int = 4 << 20
    enough: int = 3 << 20
    steps: tuple[int, ...] = (64 << 10, 512 << 10)
    small: int = 64 << 10
    evidence: int = EVIDENCE_BYTES
    kept: int = 16 << 20


LIMITS: Final = Limits()


class Ask(Protocol):
    """Puts a question to the file's machine; see `LiveMachine.ask`."""

    def __call__(
        self, question: Question, silence_probe: SilenceProbe | None = None
    ) -> Answer | None: ...


class _Text:
    """Bytes of one generation of a file from offset *start* on. They are only ever appended to."""

    def __init__(self, start: int, content: bytes) -> None:
        self.start = start
        self.content = bytearray(content)

    @property
    def size(self) -> int:
        return self.start + len(self.content)


class Snapshot(NamedTuple):
    """A file as it was at one moment: *size* bytes, of which those before *hole* are unknown.

    Two snapshots of one *generation* are the same file, of which the later one is longer. A file
    that was rewritten is another generation.
    """

    generation: int
    size: int
    hole: int
    text: _Text

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size) as far as there are any.

        Raises:
            TooLarge: the range begins in the hole (EFBIG).
        """
        if offset >= self.size or size <= 0:
            return b""
        if offset < self.hole:
            raise TooLarge("only the end of this file can be read while its task runs")
        start = self.text.start
        return bytes(self.text.content[offset - start : min(offset + size, self.size) - start])


class LiveFile:
    """The known content of one file. Not safe for concurrent use; snapshots are, and never change.

    *whole_lines* says that the file is written in whole lines, as the task runner does.
    """

    def __init__(
        self,
        name: bytes,
        *,
        whole_lines: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        limits: Limits = LIMITS,
    ) -> None:
        self._name = name_text(name)
        self._whole_lines = whole_lines
        self._clock = clock
        self._sleep = sleep
        self._limits = limits
        self._text: _Text | None = None
        self._generation = 0
        self._growth = 0
        self._overlapped = 0  # bytes of answers since the whole file was asked for
        self._asked_at_s = float("-inf")

    @property
    def snapshot(self) -> Snapshot | None:
        """The latest snapshot, None before the first `update` and after `forget`."""
        text = self._text
        if text is None:
            return None
        return Snapshot(self._generation, text.size, text.start, text)

    @property
    def age_s(self) -> float:
        """The seconds since the latest snapshot was asked for."""
        return self._clock() - self._asked_at_s

    @property
    def kept_bytes(self) -> int:
        return len(self._text.content) if self._text else 0

    def forget(self) -> None:
        """Drop the content; snapshots keep theirs, and the next one is another generation."""
        self._text = None

    def update(self, ask: Ask) -> Snapshot:
        """Ask for what changed, and return the new snapshot.

        Raises:
            NotFound: the machine says so; check the task's status before trusting it.
            Unsupported: the file is not UTF-8 text.
            BadResponse: an answer makes no sense.
            TaskFSError: what *ask* raises. What was known before stays known.
        """
        asked_at_s = self._clock()
        text = self._text
        try:
            if text is None or not text.content or not self._is_extended(text, ask):
                self._read_whole(ask)
        except Unsupported:
            # A character may be half written: the next question is likely to find it whole.
            if self.snapshot is None or self.age_s > OVERLAP_S:
                raise
            return self.snapshot
        self._asked_at_s = asked_at_s
        self._trim()
        snapshot = self.snapshot
        assert snapshot is not None
        return snapshot

    # Appended text.

    def _is_extended(self, text: _Text, ask: Ask) -> bool:
        try:
            return self._extend(text, ask)
        except Unsupported:  # the whole file has no block that begins within a character
            return False

    def _extend(self, text: _Text, ask: Ask) -> bool:
        """Append what is new to *text*; return False where only the whole file shows it."""
        limits = self._limits
        is_small = text.start == 0 and len(text.content) <= limits.small
        if is_small:
            window = len(text.content)
        elif text.size > limits.answer or (
            self.age_s <= OVERLAP_S and self._overlapped <= OVERLAP_FACTOR * text.size
        ):
            window = 2 * limits.evidence + 2 * self._growth
        else:
            return False
        lines = count_last_lines(text.content, window)
        if is_small:
            lines += max(16, lines // 4)  # room for new lines, so that the whole file comes
        while True:
            found, lines = self._tail_text(ask, lines)
            if found is None:
                return False
            end = certain_bytes(found, whole_lines=self._whole_lines)
            if len(found) < lines:
                self._commit(end)
                return True
            overlap = None if is_small else find_overlap(text.content, end, limits.evidence)
            self._overlapped += len(end)
            if overlap is not None:
                self._append(text, end[overlap:])
                return True
            if MAX_STEP_FACTOR * len(end) * wire_ratio(found) > limits.answer:
                return False
            lines *= MAX_STEP_FACTOR

    # The whole file.

    def _read_whole(self, ask: Ask) -> None:
        """Read the whole file, or the end of a large one, in steps that grow."""
        self._overlapped = 0
        found, lines = self._probe(ask), 0
        if found is None:
            self._commit(b"")
            return
        steps = iter(self._limits.steps)
        for _ in range(MAX_STEPS):
            size = sum(map(len, found)) + len(found)
            aim = next(steps, self._limits.answer * 15 // 16) / wire_ratio(found)
            before = max(lines, len(found), 1)
            # Line lengths vary: a step that trusts the last block too far could be huge.
            wanted = int(aim * len(found) / max(1, size))
            lines = max(2 * before, min(wanted, MAX_STEP_FACTOR * before))
            answer, lines = self._tail_text(ask, lines)
            if answer is None:
                self._commit_silence(ask)
                return
            found = answer
            end = certain_bytes(found, whole_lines=self._whole_lines)
            if len(found) < lines:
                self._commit(end)
                return
            if len(end) * wire_ratio(found) >= self._limits.enough:
                break
        self._commit_end(end)

    def _commit_silence(self, ask: Ask) -> None:
        """Take the file for empty if a question for its last block gets no answer either."""
        if self._probe(ask) is not None:
            raise Unavailable("the task's machine does not send so large an answer")
        self._commit(b"")

    def _probe(self, ask: Ask) -> list[str] | None:
        """Return the lines of the last block, or some more; None where the file is empty."""
        is_known_empty = self._text is not None and not self._text.content
        silence_probe = NEXT_SILENCE_PROBE if is_known_empty else FIRST_SILENCE_PROBE
        try:
            found = self._tail(ask, -1, silence_probe)
        except Unsupported:
            return self._probe_again(ask)
        if found == []:  # one line fills the block: there is no bounded question about it
            found = self._tail(ask, 0, LARGE_SILENCE_PROBE)
        return found

    def _probe_again(self, ask: Ask) -> list[str] | None:
        for lines in RETRY_LINES:
            try:
                return self._tail(ask, lines, LARGE_SILENCE_PROBE)
            except Unsupported:
                continue
        self._sleep(HALF_CHARACTER_S)
        return self._tail(ask, RETRY_LINES[-1], LARGE_SILENCE_PROBE)

    def _tail_text(self, ask: Ask, lines: int) -> tuple[list[str] | None, int]:
        """Return the answer to `tail` of *lines* lines or some more, and that number."""
        for _ in range(MAX_RETRIES):
            try:
                return self._tail(ask, lines, LARGE_SILENCE_PROBE), lines
            except Unsupported:
                lines += max(min(lines, 256), lines // 16)
        return self._tail(ask, lines, LARGE_SILENCE_PROBE), lines

    def _tail(self, ask: Ask, lines: int, silence_probe: SilenceProbe) -> list[str] | None:
        """Return the answer to one `tail`; None where the machine fails at it."""
        answer = ask(tail(self._name, lines), silence_probe)
        if answer is None:
            return None
        if answer.status == "success":
            return lines_of(answer.message)
        if answer.message == NOT_FOUND + self._name:
            raise NotFound(f"the task's machine says: no file {self._name!r}")
        if answer.message == NOT_TEXT + self._name:
            raise Unsupported(f"{self._name!r} is not UTF-8 text: read it once its task has ended")
        raise BadResponse("the task's machine refused tail for no known reason")

    # Known text.

    def _commit(self, content: bytes) -> None:
        """Let the file be *content*, from its beginning on."""
        text = self._text
        if text is not None and text.start < HOLE_BYTES:
            size = text.size
            if len(content) >= size and content.startswith(text.content, text.start):
                self._append(text, content[size:])
                return
        self._replace(_Text(0, content))

    def _commit_end(self, end: bytes) -> None:
        """Let a large file end with *end*; its offsets stay if *end* overlaps what is known."""
        text, evidence = self._text, self._limits.evidence
        if text is not None:
            overlap = find_overlap(text.content, end, evidence)
            if overlap is not None:
                self._append(text, end[overlap:])
                return
        self._replace(_Text(HOLE_BYTES, end))

    def _append(self, text: _Text, new: bytes) -> None:
        self._growth = len(new)
        text.content += new

    def _replace(self, text: _Text) -> None:
        self._generation += 1
        self._growth = 0
        self._text = text

    def _trim(self) -> None:
        text = self._text
        if text is not None and len(text.content) > self._limits.kept:
            dropped = len(text.content) // 2
            self._text = _Text(text.start + dropped, bytes(text.content[dropped:]))


def check_generation(before: Snapshot, after: Snapshot) -> None:
    """Raise StaleObject if the file was rewritten between two snapshots."""
    if before.generation != after.generation:
        raise StaleObject("the file was rewritten since it was opened")
