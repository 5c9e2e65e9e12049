"""Checkpoints of a deflated member serve mounts, commands and workers that share a cache."""

import os
import random
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.filesystem.conftest import NewFs
from tests.mounts import eventually
from tests.outputs import add_finished_task, put_outputs
from tests.zips import cheap_bytes

STRETCH: Final = 8 << 20
BODY: Final = cheap_bytes(6 * STRETCH + 1_234_567, 9)
LATE: Final = len(BODY) * 9 // 10
TIMEOUT_S: Final = 60.0
# Reads 4 KiB at an offset, and saves each checkpoint that it passes; prints how many bytes were
# decoded, and what was read.
READER: Final = """
import sys, zlib
from concurrent.futures import wait
import fsspec
from taskfs.archive import isal
from taskfs.archive.checkpoint_writer import CheckpointWriter
decoded = 0
decode = isal.BlockDecoder.decode
def count(self, out):
    global decoded
    done = decode(self, out)
    decoded += done
    return done
isal.BlockDecoder.decode = count
# On a busy machine the decoder might be far ahead of the thread that saves checkpoints.
note = CheckpointWriter.note
def note_and_save(self, cursor, output):
    note(self, cursor, output)
    wait(list(self._saving.values()))
CheckpointWriter.note = note_and_save
path, offset = sys.argv[1], int(sys.argv[2])
body = fsspec.filesystem("taskfs").cat_file(path, offset, offset + 4096)
print(decoded, zlib.crc32(body), flush=True)
"""


def start_reader(path: str, offset: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", READER, path, str(offset)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def decoded_by(reader: "subprocess.Popen[str]", offset: int) -> int:
    """Return how many bytes the reader decoded, after a check of what it read."""
    out, _ = reader.communicate(timeout=TIMEOUT_S)
    decoded, crc = out.split()
    assert int(crc) == zlib.crc32(BODY[offset : offset + 4096])
    return int(decoded)


def checkpoint_files(cache: Path) -> list[Path]:
    return [path for path in (cache / "v1" / "blocks").rglob("*-c*-*") if path.is_file()]


def slow_down(cloud: FakeCloud, seconds: float) -> None:
    """Delay each answer of the store."""
    cloud.faults.add("stall", side="store", times=None, seconds=seconds)


def test_another_process_continues_where_the_first_got_to(by_environment: FakeCloud) -> None:
    """R-36: A process decodes one stretch, without a request, where another decoded before."""
    path = f"{add_finished_task(by_environment, {'a': BODY})}/outputs/a"
    first = decoded_by(start_reader(path, LATE), LATE)
    assert first >= LATE
    before = len(by_environment.requests)
    for offset in (LATE, 100, 3 * STRETCH):
        decoded = decoded_by(start_reader(path, offset), offset)
        assert decoded <= 2 * STRETCH
    later = by_environment.requests[before:]
    assert not [record for record in later if record.side == "store"]


def test_two_processes_at_once_decode_each_stretch_once(by_environment: FakeCloud) -> None:
    """R-37: If two processes jump to a late byte of a slow store, only one decodes up to it."""
    path = f"{add_finished_task(by_environment, {'a': BODY})}/outputs/a"
    slow_down(by_environment, 0.05)
    both = [start_reader(path, LATE), start_reader(path, LATE + 70_000)]
    decoded = [decoded_by(both[0], LATE), decoded_by(both[1], LATE + 70_000)]
    assert sum(decoded) <= LATE + 3.5 * STRETCH


def test_a_process_that_is_killed_leaves_its_way_to_the_other(
    by_environment: FakeCloud, cache: Path
) -> None:
    """R-37, R-16: After kill -9 of the process that decodes, the other continues where it was."""
    path = f"{add_finished_task(by_environment, {'a': BODY})}/outputs/a"
    slow_down(by_environment, 0.1)
    first = start_reader(path, LATE)
    eventually(lambda: bool(checkpoint_files(cache)))
    second = start_reader(path, LATE)
    time.sleep(0.3)
    first.kill()
    first.communicate()
    assert decoded_by(second, LATE) <= LATE + STRETCH // 2
    assert decoded_by(start_reader(path, LATE), LATE) <= 2 * STRETCH


def test_kill_9_at_any_moment_leaves_right_checkpoints(
    by_environment: FakeCloud, cache: Path
) -> None:
    """R-16, I-9: Checkpoints are right or missing, whenever their writer was killed."""
    path = f"{add_finished_task(by_environment, {'a': BODY})}/outputs/a"
    rng = random.Random(4)
    for _ in range(6):
        for file in checkpoint_files(cache):
            file.unlink()
        reader = start_reader(path, LATE)
        eventually(lambda: bool(checkpoint_files(cache)))
        time.sleep(rng.random() * 0.1)
        reader.kill()
        reader.communicate()
        decoded_by(start_reader(path, LATE), LATE)


def test_a_new_version_of_the_archive(new_fs: NewFs, cloud: FakeCloud) -> None:
    """F-8, I-9: Checkpoints of an older version of the archive are not used for a newer one."""
    task = add_finished_task(cloud, {"a": BODY})
    path = f"{task}/outputs/a"
    assert new_fs().cat_file(path, LATE, LATE + 100) == BODY[LATE : LATE + 100]
    other = cheap_bytes(len(BODY), 10)
    put_outputs(cloud, task, {"a": other})
    fs = new_fs()
    fs.info(path)
    fs.invalidate_cache()
    assert fs.cat_file(path, LATE, LATE + 100) == other[LATE : LATE + 100]
    assert fs.cat_file(path) == other
