"""What the mounted cloud holds, in every version that there ever was."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.zips import BZIP2, DEFLATED, LZMA, STORED, build, cheap_bytes, file

LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
Files = dict[str, bytes]


@dataclass
class Place:
    """One task's outputs. `versions` only grows; the last is what the store has now.

    *is_checked*: bytes may be flipped on their way to it, so it is only read from start to end,
    where every flip is found (U-1).
    """

    task: str
    is_replaced: bool = False
    is_checked: bool = False
    versions: list[Files] = field(default_factory=list)
    members_stop: int = 0  # where the members' bytes end in the archive


class World:
    """The tasks of a cloud. Safe for concurrent use: lists only grow, under one lock."""

    def __init__(self, cloud: FakeCloud, rng: random.Random) -> None:
        self.cloud = cloud
        self._rng = rng
        self._lock = threading.Lock()
        self.places = [Place(self._add()) for _ in range(4)]
        self.places += [Place(self._add(), is_replaced=True) for _ in range(2)]
        self.places += [Place(self._add(), is_replaced=True, is_checked=True) for _ in range(2)]
        for place in self.places:
            self.replace(place)
        self.running = [cloud.add_task(status="computation-started") for _ in range(20)]

    def _add(self) -> str:
        return self.cloud.add_task(end_time=LONG_AGO)

    def replace(self, place: Place) -> None:
        """Put another version of the place's archive into the store."""
        number = len(place.versions)
        scale = 1 if place.is_replaced else 4
        files = self._files(number, scale)
        methods = {"stored": STORED, "bzip2": BZIP2, "lzma": LZMA}
        entries = [
            file(name, body, method=methods.get(name, DEFLATED), level=1)
            for name, body in files.items()
        ]
        archive = build(entries)
        with self._lock:  # who reads the new one finds it among the versions
            place.versions.append(files)
            place.members_stop = int.from_bytes(archive[-6:-2], "little")
            self.cloud.put_object(f"{place.task}/output.zip", archive)

    def _files(self, number: int, scale: int) -> Files:
        seed = self._rng.randrange(1 << 30)
        files = {
            "stored": random.Random(seed).randbytes(300_000 * scale + 17),
            "deflated": cheap_bytes(500_000 * scale + 123, seed),
            "bzip2": cheap_bytes(40_000 * scale, seed + 1),
            "lzma": cheap_bytes(40_000 * scale, seed + 2),
            "empty": b"",
        }
        for index in range(10 * scale):
            head = b"version %d of %d, %d\n" % (number, seed, index)
            files[f"small/{index % 4}/{index}"] = head * (1 + index * 3)
        return files

    def start_one(self) -> str:
        """Add a task that runs, to be killed; return its id."""
        return self.cloud.add_task(status="computation-started")


def _flip(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as opened:
        size = path.stat().st_size
        for _ in range(20):
            at = rng.randrange(max(1, size))
            opened.seek(at)
            byte = opened.read(1) or b"\0"
            opened.seek(at)
            opened.write(bytes([byte[0] ^ 1 << rng.randrange(8)]))


def _cut(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as opened:
        opened.truncate(rng.randrange(path.stat().st_size + 1))


DAMAGES: Final[tuple[Callable[[Path, random.Random], None], ...]] = (
    _flip,
    _cut,
    lambda path, rng: path.unlink(),
)


def damage_cache(directory: Path, rng: random.Random) -> str:
    """Do some harm to the cache; return what it was."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    if not files:
        return "cache: nothing to damage"
    if rng.randrange(20) == 0:
        shutil.rmtree(directory, ignore_errors=True)
        return "cache: deleted"
    for path in rng.sample(files, min(len(files), 5)):
        try:
            rng.choice(DAMAGES)(path, rng)
        except FileNotFoundError:
            continue  # the daemon made room
    return "cache: damaged"
