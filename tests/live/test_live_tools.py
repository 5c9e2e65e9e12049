"""Ordinary tools on `live/`."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import assert_same
from tests.live.test_live_tree import end_task
from tests.mounts import Mount, eventually

# In seconds: a new line is seen 3 s later, and on a busy machine in that time.
SEEN_S = 15.0
pytestmark = pytest.mark.mount
BODY = b"".join(b"Time = %d\nresidual = 1e-%d\n\n" % (step, step % 9) for step in range(3000))
FILES = {
    "stdout.txt": BODY,
    "log/solver.log": BODY[:-40],
    "data.csv": b"a,b\n1,2\n",
    "empty": b"",
}


@pytest.fixture
def run(cloud: FakeCloud) -> str:
    """A running task with some files."""
    task = cloud.add_task(status="computation-started")
    for name, body in FILES.items():
        cloud.machine_files(task).write(name, body)
    return task


def certain(name: str) -> bytes:
    """Return the content that is certain: the last newline is known of some files only."""
    body = FILES[name]
    return body if name == "stdout.txt" else body.removesuffix(b"\n")


def sh(line: str, cwd: Path) -> str:
    done = subprocess.run(["bash", "-c", line], cwd=cwd, capture_output=True, timeout=90)
    assert (done.returncode, done.stderr) == (0, b""), (line, done.stderr)
    return done.stdout.decode()


class Follower:
    """`tail -f` of a file, from its first line or of its last *lines*, and what it has printed."""

    def __init__(self, path: Path, copy: Path, lines: str = "+1") -> None:
        self.copy = copy
        self._output = copy.open("wb")
        self.process = subprocess.Popen(
            ["tail", "-n", lines, "-f", path],
            stdout=self._output,
            stderr=subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        errors = self.process.communicate(timeout=30)[1]
        self._output.close()
        assert errors == b"", errors

    @property
    def printed(self) -> bytes:
        return self.copy.read_bytes()


def test_tail_f_beside_the_machines_file(
    mnt: Path, cloud: FakeCloud, run: str, tmp_path: Path
) -> None:
    """L-5: `tail -f` sees a new line within 3 s while the machine answers."""
    written = cloud.machine_files(run)
    with Follower(mnt / run / "live/stdout.txt", tmp_path / "copy") as follower:
        eventually(lambda: follower.printed == BODY)
        until_s = time.monotonic() + 20.0
        number = 0
        while time.monotonic() < until_s:
            number += 1
            written.append("stdout.txt", b"%d: residual \xc3\xa9\n" % number * (1 + number % 7))
            if number % 5 == 0:
                whole = written.read("stdout.txt")
                eventually(lambda whole=whole: follower.printed == whole, SEEN_S)  # type: ignore[misc]
            time.sleep(0.15)
        whole = written.read("stdout.txt") or b""
        eventually(lambda: follower.printed == whole)
        assert_same(follower.printed, whole)
    assert cloud.machine(run).connections == 1


def test_tail_f_over_the_end(mnt: Path, cloud: FakeCloud, run: str, tmp_path: Path) -> None:
    """L-9: `tail -f` gets the last lines within 20 s of the archive's arrival."""
    whole = BODY + b"the last lines\n\n -------\n"
    with Follower(mnt / run / "live/stdout.txt", tmp_path / "copy") as follower:
        eventually(lambda: follower.printed == BODY)
        end_task(cloud, run, None)
        time.sleep(4)
        assert follower.printed == BODY
        end_task(cloud, run, {**FILES, "stdout.txt": whole})
        eventually(lambda: follower.printed == whole)
        assert follower.process.poll() is None


def test_copies_and_searches(mnt: Path, cloud: FakeCloud, run: str, tmp_path: Path) -> None:
    """L-2: The kernel keeps attributes of files in `live/` for 0 s: copies of files that were
    never read before are whole."""
    live = mnt / run / "live"
    assert sh("find . -type f -size 0 | wc -l", live) == "4\n"
    sh(f"rsync -a . {tmp_path}/rsync", live)
    sh(f"cp -r . {tmp_path}/cp", live)
    for name in FILES:
        for tool in ("rsync", "cp"):
            assert_same((tmp_path / tool / name).read_bytes(), certain(name))
    assert sh("grep -rc '^Time' . | sort", live).split() == [
        "./data.csv:0",
        "./empty:0",
        "./log/solver.log:2999",
        "./stdout.txt:3000",
    ]
    assert sh("wc -c stdout.txt; tail -n 2 log/solver.log; head -n1 data.csv", live) == (
        f"{len(BODY)} stdout.txt\n"
        + BODY[:-40].decode().rstrip("\n").split("\n", -1)[-2]
        + "\n"
        + BODY[:-40].decode().rstrip("\n").split("\n")[-1]
        + "a,b\n"
    )


def test_less_plus_f(mnt: Path, cloud: FakeCloud, run: str, tmp_path: Path) -> None:
    """L-5: `less +F` sees a new line within 3 s."""
    import pty

    master, slave = pty.openpty()
    seen = bytearray()

    def collect() -> None:
        try:
            while piece := os.read(master, 4096):
                seen.extend(piece)
        except OSError:
            pass

    less = subprocess.Popen(
        ["less", "+F", mnt / run / "live/stdout.txt"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"PATH": os.environ["PATH"], "TERM": "xterm", "LC_ALL": "C.UTF-8"},
        start_new_session=True,
    )
    os.close(slave)
    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        eventually(lambda: b"Time = 2999" in seen)
        for number in range(3):
            line = b"a new line %d" % number
            cloud.machine_files(run).append("stdout.txt", line + b"\n")
            eventually(lambda line=line: line in seen, SEEN_S)  # type: ignore[misc]
    finally:
        less.kill()
        less.wait()
        os.close(master)


def test_watch_and_polling(
    new_mount: Callable[..., Mount], cloud: FakeCloud, run: str, tmp_path: Path
) -> None:
    """L-5: `watch` sees a new line within 3 s: each look opens the file anew."""
    path = new_mount(attr_timeout="60s").path / run / "live/stdout.txt"
    for number in range(4):
        line = b"line %d\n" % number
        cloud.machine_files(run).append("stdout.txt", line)
        eventually(
            lambda line=line: sh(f"tail -n 1 {path}", tmp_path).encode() == line,  # type: ignore[misc]
            SEEN_S,
        )


def test_tar(mnt: Path, run: str, tmp_path: Path) -> None:
    """L-2: GNU tar stores a file that has not been read yet as empty, and any other one whole."""
    live = mnt / run / "live"
    sh(f"tar cf {tmp_path}/unread.tar stdout.txt", live)
    assert sh(f"tar xOf {tmp_path}/unread.tar", tmp_path) == ""
    sh(f"cat stdout.txt >{tmp_path}/copy; tar cf {tmp_path}/read.tar stdout.txt", live)
    assert sh(f"tar xOf {tmp_path}/read.tar", tmp_path).encode() == BODY


def test_the_end_of_a_large_log(
    new_mount: Callable[..., Mount], cloud: FakeCloud, run: str, tmp_path: Path
) -> None:
    """L-6: `tail -n` and `tail -f` work on a file of more than 4 MiB; its start is EFBIG."""
    lines = [b"step %08d residual %012d\n" % (i, i * 7919) for i in range(160_000)]
    written = cloud.machine_files(run)
    written.write("stdout.txt", b"".join(lines))
    path = new_mount(timeout="2m").path / run / "live/stdout.txt"
    assert sh(f"tail -n 3 {path}", tmp_path).encode() == b"".join(lines[-3:])
    for tool in (f"cat {path}", f"head -n 1 {path}", f"cp {path} {tmp_path}/copy"):
        done = subprocess.run(["bash", "-c", tool], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert "File too large" in done.stderr
    with Follower(path, tmp_path / "followed", "2") as follower:
        eventually(lambda: follower.printed == b"".join(lines[-2:]))
        written.append("stdout.txt", b"the next line\n")
        eventually(lambda: follower.printed == b"".join((*lines[-2:], b"the next line\n")))
