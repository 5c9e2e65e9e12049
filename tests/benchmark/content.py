"""The content of the archives: text and floats like a simulation's, the same on every machine.

A content is a sequence of frames: a line with the content's name and the frame's number, then a
body that is the same in all frames. The body is larger than DEFLATE's window, so the repetition
does not compress better. The numbered lines reveal reads at a wrong offset.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final

_BODY_BYTES: Final = 4 << 20
_HEADER: Final = "# %-28.28s frame %08d\n"
_HEADER_BYTES: Final = len(_HEADER % ("", 0))
_PIECE_BYTES: Final = 4 << 20


@cache
def _text_body() -> bytes:
    """Return lines of numbers, which DEFLATE compresses to about 41 %."""
    draw = random.Random(20250612)
    lines, size, step = [], 0, 0
    while size < _BODY_BYTES:
        angle = step * 0.0125
        line = (
            f"{step % 400_000:7d} {math.sin(angle) * 2 + draw.random() * 0.1:.9e} "
            f"{math.cos(angle) * 3 + draw.random() * 0.1:.9e} {draw.gauss(0, 1):.8e} "
            f"{draw.random():.6e} {draw.gauss(101_325, 40):.4f}\n"
        )
        lines.append(line)
        size += len(line)
        step += 1
    return "".join(lines).encode()


@cache
def _binary_body() -> bytes:
    return random.Random(7).randbytes(_BODY_BYTES - 12_345)


_BODIES: Final = {"text": _text_body, "binary": _binary_body}


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one member; *phase* is the offset in the body at which frames begin."""

    label: str
    size: int
    body: str = "text"
    phase: int = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes [offset, offset + size), fewer only at the end."""
        stop = min(offset + size, self.size)
        body = _BODIES[self.body]()
        length = _HEADER_BYTES + len(body)
        pieces = []
        while offset < stop:
            frame, within = divmod(offset, length)
            if within < _HEADER_BYTES:
                piece = (_HEADER % (self.label, frame)).encode()[within:]
            else:
                start = (within - _HEADER_BYTES + self.phase) % len(body)
                piece = body[start : start + length - within]
            pieces.append(piece[: stop - offset])
            offset += len(pieces[-1])
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """Yield the whole content in pieces of `_PIECE_BYTES`."""
        for offset in range(0, self.size, _PIECE_BYTES):
            yield self.read(offset, _PIECE_BYTES)
