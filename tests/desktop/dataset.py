"""The mounted cloud: one task with 300 VTK files and pictures, and the cost of all requests."""

from __future__ import annotations

import array
import io
import random
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from taskfs.demo.sources import BytesSource
from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO

TASK: Final = "i4ir3kvv62odsfrhko4y8w2an"
FILES: Final = 300
PICTURES: Final = 24
POINTS: Final = 20_000
TIMEOUT_S: Final = 60.0
# Seconds without a request after which the background work of a manager has ended: thumbnailers and
# type detection never pause this long.
IDLE_S: Final = 1.5
_POLL_S: Final = 0.1
_OTHERS: Final = ("success", "failed", "computation-started", "submitted")


@dataclass(frozen=True, slots=True)
class Cost:
    """Numbers of requests and of bytes in the bodies of their answers."""

    store: int = 0
    store_bytes: int = 0
    api: int = 0
    api_bytes: int = 0

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.store - other.store,
            self.store_bytes - other.store_bytes,
            self.api - other.api,
            self.api_bytes - other.api_bytes,
        )


class Dataset:
    """A cloud with the task; `members` has its outputs by name."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.cloud = cloud
        self.members = _members()
        archive = _archive(self.members)
        self.archive_size = len(archive)
        self.directory_size = int.from_bytes(archive[-10:-6], "little")  # APPNOTE 4.3.16
        metrics = {
            "output_total_files": len(self.members),
            "output_zipped_size_bytes": len(archive),
        }
        for status in _OTHERS:
            cloud.add_task(status=status)
        cloud.add_task(TASK, metrics=metrics, end_time=LONG_AGO)
        cloud.put_object(f"{TASK}/output.zip", BytesSource(archive))

    def cost(self) -> Cost:
        """Return the cost of all requests so far."""
        sides: dict[str, list[int]] = {"store": [], "api": []}
        for record in self.cloud.requests:
            sides[record.side].append(record.bytes_sent)
        store, api = sides["store"], sides["api"]
        return Cost(len(store), sum(store), len(api), sum(api))

    def cost_when_idle(self) -> Cost:
        """Wait until the store has had no request for `IDLE_S`; return the cost of all requests."""
        cost, since = self.cost(), time.monotonic()
        deadline = since + TIMEOUT_S
        while time.monotonic() < min(since + IDLE_S, deadline):
            time.sleep(_POLL_S)
            now = self.cost()
            if now.store_bytes != cost.store_bytes:
                since = time.monotonic()
            cost = now
        return cost


def wait_for(what: str, condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until *condition* is true; raise TimeoutError with *what* after *timeout_s*."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {timeout_s:.0f} s")
        time.sleep(_POLL_S)


def _members() -> dict[str, bytes]:
    rng = random.Random(5)
    points = array.array("f", (rng.gauss(0, 1) for _ in range(POINTS * 3)))
    points.byteswap()  # the legacy format's binary numbers are big-endian
    body = points.tobytes()
    members = {
        "stdout.txt": b"".join(b"step %d: residual %.3e\n" % (n, 0.9**n) for n in range(400)),
        "stderr.txt": b"",
    }
    for number in range(FILES):
        head = (
            f"# vtk DataFile Version 3.0\nframe {number}\nBINARY\nDATASET POLYDATA\n"
            f"POINTS {POINTS} float\n"
        )
        turn = number * 12 * 61
        members[f"vtk/Particles_{number:03}.vtk"] = head.encode() + body[turn:] + body[:turn]
    for number in range(PICTURES):
        members[f"frames/frame_{number:02}.png"] = _picture(number, rng)
    return members


def _picture(number: int, rng: random.Random) -> bytes:
    """Return a PNG (RFC 2083) of 320 by 240 grey pixels, with noise so that it has some size."""
    width, height = 320, 240
    noise = rng.randbytes(width * height)
    rows = bytearray()
    for y in range(height):
        rows.append(0)
        rows += bytes(
            ((x * 3 + y * number) % 200) + (noise[y * width + x] >> 3) for x in range(width)
        )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def _archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(f"artifacts/{name}", content)
    return buffer.getvalue()
