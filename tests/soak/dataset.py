"""The tasks of the mounted cloud, with every version of their files, and damage to the cache."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO
from tests.zips import BZIP2, DEFLATED, LZMA, STORED, build, cheap_bytes, file

Files = dict[str, bytes]


@dataclass
class TaskFiles:
    """The outputs of one task. `versions` only grows; the last one is the store's current version.

    *is_damaged*: the injector flips bytes of its archive in transit. Readers then read whole files
    only, because the CRC-32 covers whole files.
    """

    id: str
    is_replaced: bool = False
    is_damaged: bool = False
    versions: list[Files] = field(default_factory=list)
    members_stop: int = 0  # offset in the archive where the members end


class Dataset:
    """The tasks of a cloud. Safe for concurrent use: the lists only grow, under one lock."""

    def __init__(self, cloud: FakeCloud, rng: random.Random, others: int = 0) -> None:
        self.cloud = cloud
        self._rng = rng
        self._lock = threading.Lock()
        self.tasks = [TaskFiles(self._add()) for _ in range(4)]
        self.tasks += [TaskFiles(self._add(), is_replaced=True) for _ in range(2)]
        self.tasks += [TaskFiles(self._add(), is_replaced=True, is_damaged=True) for _ in range(2)]
        for task in self.tasks:
            self.replace(task)
        # Finished tasks that are only listed; they shrink before a task is removed from the cloud.
        self.others = [cloud.add_task(end_time=LONG_AGO) for _ in range(others)]
        self.running = [cloud.add_task(status="computation-started") for _ in range(20)]

    def _add(self) -> str:
        return self.cloud.add_task(end_time=LONG_AGO)

    def replace(self, task: TaskFiles) -> None:
        """Store a new version of the task's archive."""
        number = len(task.versions)
        scale = 1 if task.is_replaced else 4
        files = self._files(number, scale)
        methods = {"stored": STORED, "bzip2": BZIP2, "lzma": LZMA}
        entries = [
            file(name, body, method=methods.get(name, DEFLATED), level=1)
            for name, body in files.items()
        ]
        archive = build(entries)
        with self._lock:  # add the version first: a reader may see it at once
            task.versions.append(files)
            task.members_stop = int.from_bytes(archive[-6:-2], "little")
            self.cloud.put_object(f"{task.id}/output.zip", archive)

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

    def remove_other(self) -> None:
        """Remove one of the other tasks."""
        with self._lock:
            task_id = self.others.pop(self._rng.randrange(len(self.others))) if self.others else ""
        if task_id:
            self.cloud.remove_task(task_id)

    def start_task(self) -> str:
        """Add a running task and return its id."""
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
    """Damage, truncate or delete files of the cache; return a description."""
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
            continue  # the daemon evicted the file
    return "cache: damaged"
