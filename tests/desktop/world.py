"""The mounted cloud: one task of 300 VTK files and pictures, and what was asked for."""

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

TASK: Final = "i4ir3kvv62odsfrhko4y8w2an"
LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
FILES: Final = 300
PICTURES: Final = 24
POINTS: Final = 20_000
PATIENCE_S: Final = 60.0
QUIET_S: Final = 1.5  # thumbnailers and sniffers go on in the background; they do not rest so long
_POLL_S: Final = 0.1
_OTHERS: Final = ("success", "failed", "computation-started", "submitted")


@dataclass(frozen=True, slots=True)
class Cost:
    """Requests and the bytes of their answers' bodies."""

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


class World:
    """A cloud with the task in it; *members* are its outputs by name."""

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
        """Return what all requests so far cost."""
        sides: dict[str, list[int]] = {"store": [], "api": []}
        for record in self.cloud.requests:
            sides[record.side].append(record.bytes_sent)
        store, api = sides["store"], sides["api"]
        return Cost(len(store), sum(store), len(api), sum(api))

    def settle(self) -> Cost:
        """Return what all requests cost, once nothing came to the store for a while."""
        cost, since = self.cost(), time.monotonic()
        deadline = since + PATIENCE_S
        while time.monotonic() < min(since + QUIET_S, deadline):
            time.sleep(_POLL_S)
            now = self.cost()
            if now.store_bytes != cost.store_bytes:
                since = time.monotonic()
            cost = now
        return cost


def wait_for(what: str, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return once *condition* holds.

    Raises:
        TimeoutError: it does not within *patience_s*; says *what* did not come.
    """
    deadline = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {patience_s:.0f} s")
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
    """Return a PNG (RFC 2083) of 320 by 240 grey pixels, noisy enough to be of some size."""
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
