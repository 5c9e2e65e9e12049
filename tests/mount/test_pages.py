"""Bytes that are pushed into the page cache: they are right, and cause no deadlock."""

import json
import os
import random
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.archive.bounds import SPAN
from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.mounts import TIMEOUT_S, Mount, eventually
from tests.outputs import LONG_AGO
from tests.zips import DEFLATED, build, cheap_bytes, deflate, file

pytestmark = pytest.mark.mount

SIZE: Final = 12_345_678
BODY: Final = cheap_bytes(SIZE)


def served_bytes(mnt: Path) -> int:
    time.sleep(1.2)  # until the pin of the text that was reported before ends
    return int(json.loads((mnt / ".taskfs/stats.json").read_text())["served_bytes"])


def put(cloud: FakeCloud, *bodies: bytes, crc: int | None = None) -> str:
    """Return a task whose outputs f0, f1, … have *bodies*; all of one *crc* where that is given."""
    task = cloud.add_task(end_time=LONG_AGO)
    entries = [
        file(
            f"f{number}",
            packed=deflate(body, 1),
            size=len(body),
            crc=zlib.crc32(body) if crc is None else crc,
            method=DEFLATED,
        )
        for number, body in enumerate(bodies)
    ]
    cloud.put_object(f"{task}/output.zip", build(entries))
    return task


@pytest.mark.parametrize("shared_mnt", ["mount"], indirect=True)  # the engine that pushes
def test_pushed_bytes_are_not_requested_again(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """R-9: A reader finds pushed bytes in the page cache, and so does a second one."""
    served: list[tuple[int, int]] = []
    # A busy kernel asks for bytes that are on their way to it, and may drop pages at any time. So
    # one of several tries must do.
    for _ in range(5):
        path = shared_mnt / put(shared_cloud, BODY) / "outputs/f0"
        counts = [served_bytes(shared_mnt)]
        for _ in range(2):
            assert_same(path.read_bytes(), BODY)
            counts.append(served_bytes(shared_mnt))
        first, second = counts[1] - counts[0], counts[2] - counts[1]
        assert first >= SIZE
        served.append((first, second))
        if first <= 1.4 * SIZE and second <= 0.1 * SIZE:
            return
    pytest.fail(f"of {SIZE} bytes the daemon served {served} at the first and the second reading")


@pytest.mark.parametrize("step", [1000, 100_000, 300_001])
def test_pushed_bytes_are_right(shared_mnt: Path, shared_cloud: FakeCloud, step: int) -> None:
    """R-9: Pushed bytes are right whatever the sizes of the reads, also once they turn back."""
    path = shared_mnt / put(shared_cloud, BODY) / "outputs/f0"
    with open(path, "rb", buffering=0) as opened:
        for start in (0, 3_000_001, 1_000_000):
            opened.seek(start)
            for at in range(start, start + min(3_000_000, 200 * step), step):
                assert_same(opened.read(step), BODY[at : at + step])


def test_the_last_bytes_of_a_damaged_member_are_never_pushed(
    shared_mnt: Path, shared_cloud: FakeCloud
) -> None:
    """R-9, I-1: The last bytes of a damaged member are never pushed."""
    path = shared_mnt / put(shared_cloud, BODY, crc=1234) / "outputs/f0"
    for _ in range(2):
        with open(path, "rb", buffering=0) as opened, pytest.raises(OSError) as caught:
            while opened.read(100_000):
                pass
        assert caught.value.errno == 5
        with open(path, "rb", buffering=0) as opened, pytest.raises(OSError):
            opened.seek(SIZE - 10)
            opened.read()


PROGRAM: Final = """
import random, sys, threading, zlib
root, count, readers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
wrong = []
def read(number):
    chance = random.Random(number)
    with open(f"{root}/f{number % count}", "rb", buffering=0) as opened:
        for _ in range(3):
            start = 0 if number % 4 else chance.randrange(0, 4_000_000)
            opened.seek(start)
            crc, stop = 0, start
            while piece := opened.read(chance.choice((5_000, 131_072, 1_000_000))):
                crc, stop = zlib.crc32(piece, crc), stop + len(piece)
            if start == 0:
                sys.stdout.write(f"{number % count} {stop} {crc}\\n")
threads = [threading.Thread(target=read, args=(number,)) for number in range(readers)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def test_many_sequential_readers_do_not_deadlock(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """R-10, R-19: A push waits for no read that waits for it, with more readers than the kernel
    allows at once."""
    bodies = [cheap_bytes(5_000_000 + 77 * number, number + 1) for number in range(6)]
    root = shared_mnt / put(shared_cloud, *bodies) / "outputs"
    crowd = [sys.executable, "-c", PROGRAM, str(root), str(len(bodies)), "90"]
    done = subprocess.run(crowd, capture_output=True, text=True, timeout=160)
    assert done.stderr == ""
    expected = {f"{n} {len(body)} {zlib.crc32(body)}" for n, body in enumerate(bodies)}
    assert set(done.stdout.splitlines()) == expected
    chance = random.Random(4)
    for number, body in enumerate(bodies):
        at = chance.randrange(len(body))
        with open(root / f"f{number}", "rb", buffering=0) as opened:
            assert_same(os.pread(opened.fileno(), 4096, at), body[at : at + 4096])


@pytest.mark.parametrize("engine", ["kernel", "fusepy"])
def test_a_silent_store_holds_no_other_request_up(
    new_mount: Callable[..., Mount], cloud: FakeCloud, engine: str
) -> None:
    """R-40, R-10: While more readers than threads wait for a store that is silent, some of them in
    the middle of a file whose bytes are pushed, other files are found, read and pushed."""
    large = put(cloud, *(cheap_bytes(3_000_000, number + 1) for number in range(6)))
    bodies = [cheap_bytes(2_000, number) for number in range(60)]
    small = put(cloud, *bodies)
    root = new_mount(engine=engine, timeout="20s").path
    for number in range(4):
        assert_same((root / small / f"outputs/f{number}").read_bytes(), bodies[number])
    halves = [open(root / large / f"outputs/f{number}", "rb") for number in range(3)]  # noqa: SIM115
    for half in halves:
        half.read(200_000)

    def read_small() -> None:
        for number, body in enumerate(bodies):
            path = root / small / f"outputs/f{number}"
            assert path.stat().st_size == len(body)
            assert_same(path.read_bytes(), body)
        assert len(os.listdir(root / small / "outputs")) == len(bodies)

    stall = cloud.faults.add("stall", side="store", times=None, path=large)
    with ThreadPoolExecutor(40) as pool:
        try:
            waiting = [pool.submit(half.read) for half in halves]
            waiting += [
                pool.submit((root / large / f"outputs/f{number % 6}").read_bytes)
                for number in range(30)
            ]
            eventually(lambda: stall.hits > 0)
            # In a thread, because a system call that is stuck cannot be interrupted.
            pool.submit(read_small).result(TIMEOUT_S)
            assert not all(each.done() for each in waiting)
        finally:
            cloud.faults.clear()
            for half in halves:
                half.close()


def test_no_push_waits_for_a_read_that_waits_for_the_store(
    new_mount: Callable[..., Mount], cloud: FakeCloud
) -> None:
    """R-10, R-40: A read of bytes of which the store sends only the first ones waits, and locks the
    pages of all. The first ones are decoded, but not pushed, so another reader of the file that
    comes before them does not wait."""
    body = b"".join(b"%08d a line of a log\n" % number for number in range(600_000))
    path = new_mount(engine="kernel", timeout="100s").path / put(cloud, body) / "outputs/f0"
    assert path.stat().st_size == len(body)
    # The request for the beginning of the member passes; the last span of it is half decoded.
    stall = cloud.faults.add("stall", side="store", skip=1, times=None)
    with ThreadPoolExecutor(2) as pool, open(path, "rb", buffering=0) as late:
        try:
            assert_same(os.pread(late.fileno(), SPAN, 0), body[:SPAN])
            sent = max(record.bytes_sent for record in cloud.requests if record.side == "store")
            packed = deflate(body, 1)[: sent - len("artifacts/f0") - 30]
            decoded = len(zlib.decompressobj(-15).decompress(packed))
            begin, step = decoded // SPAN * SPAN - SPAN // 4, SPAN // 4
            waiting = pool.submit(os.pread, late.fileno(), 1 << 20, begin)
            eventually(lambda: stall.hits > 0)

            def read_early() -> None:
                # Past the page cache, so that there are many reads, and the kernel adds none.
                early = os.open(path, os.O_RDONLY | os.O_DIRECT)
                try:
                    for at in range(0, begin, step):
                        assert_same(os.pread(early, step, at), body[at : at + step])
                finally:
                    os.close(early)

            pool.submit(read_early).result(TIMEOUT_S)
            assert not waiting.done()
        finally:
            cloud.faults.clear()
        assert_same(waiting.result(TIMEOUT_S), body[begin : begin + (1 << 20)])
