"""The bytes that answers to `tail` stand for, and where appended bytes begin.

An answer is a list of lines without the last newline of the file; only an empty last element shows
that there was one. The *certain* bytes of an answer leave out a newline that is not shown, except
for the logs of the task runner, which are written in whole lines.
"""

import json
from typing import Any, Final

from taskfs.errors import BadResponse

# In bytes: an overlap of known and new text is trusted from this length on, if it occurs once in
# what is known. A log seldom repeats so much of its end within one poll.
EVIDENCE_BYTES: Final = 16 << 10
_SAMPLE_CHARS: Final = 64 << 10  # from which `wire_ratio` estimates


def lines_of(message: Any) -> list[str]:
    """Return the lines that an answer to `tail` holds; raise BadResponse for anything else."""
    if not isinstance(message, list) or not all(
        isinstance(line, str) and "\n" not in line for line in message
    ):
        raise BadResponse("the task's machine answered tail with something else than lines")
    return message


def certain_bytes(lines: list[str], *, whole_lines: bool) -> bytes:
    """Return the bytes that the lines stand for; see the module.

    *whole_lines*: the file is written in whole lines, so its last newline is certain.
    """
    if not lines:
        return b""
    text = "\n".join(lines)
    if whole_lines or lines[-1] == "":
        text += "\n"
    try:
        return text.encode()
    except UnicodeEncodeError as exc:  # the machine decodes strictly
        raise BadResponse("the task's machine answered tail with text that is no UTF-8") from exc


def wire_ratio(lines: list[str]) -> float:
    """Return how many bytes of a message one byte of the text takes, estimated from its end."""
    sample = "\n".join(lines[-1000:])[-_SAMPLE_CHARS:]
    size = len(sample.encode("utf-8", "replace"))
    return len(json.dumps(sample)) / size if size else 1.0


def count_last_lines(known: bytes | bytearray, window: int) -> int:
    """Return how many lines the last *window* bytes reach into."""
    return known.count(b"\n", max(0, len(known) - window)) + 1


def find_overlap(
    known: bytes | bytearray, end: bytes, evidence: int = EVIDENCE_BYTES
) -> int | None:
    """Return how many bytes of *end*, a file's last lines, are known already; None if unclear.

    *known* is what the file ended with before. The overlap is unclear where it is shorter than
    *evidence* bytes, where equal text occurs twice, and where there is none. So it is wrong only
    where the last *evidence* bytes of *known* were appended again, with at least as many bytes as
    *end* has, less *evidence*.
    """
    head = end[:evidence]
    if len(head) < evidence:
        return None
    first = known.find(head)
    if first < 0 or (first > 0 and known[first - 1 : first] != b"\n"):
        return None
    if known.find(head, first + 1) >= 0 or end.find(head, 1) >= 0:
        return None
    if not end.startswith(known[first:]) or _may_begin_later(known, end, first, evidence):
        return None
    return len(known) - first


def _may_begin_later(known: bytes | bytearray, end: bytes, first: int, evidence: int) -> bool:
    """Whether *end* may begin at a line of *known* after *first*, its overlap.

    Such a line counts where the bytes from *first* to it are fewer than *evidence*, because the new
    bytes would then repeat fewer than *evidence* known ones.
    """
    line = b"\n" + end[: len(known) - first - evidence + 1]
    at = known.find(line, first)
    while at >= 0:
        if end.startswith(known[at + 1 :]):
            return True
        at = known.find(line, at + 1)
    return False
