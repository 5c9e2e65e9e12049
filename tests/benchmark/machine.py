"""What the benchmark does with this machine's processes and mounts, and how it undoes it."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.002
_PATIENCE_S: Final = 3.0
_SAMPLE_S: Final = 0.5
_MOUNTS: Final = Path("/proc/self/mountinfo")
_QUIET_S: Final = 3.0


class NotMounted(Exception):
    """A program ended before its mount was there."""


class TooSlow(Exception):
    """The limit of a run passed."""


def is_mounted(place: Path) -> bool:
    """Return whether anything is mounted on *place*, without asking the file system there."""
    return any(line.split(" ", 5)[4] == str(place) for line in _MOUNTS.read_text().splitlines())


@contextlib.contextmanager
def mounted(
    command: Sequence[str], place: Path, environment: Mapping[str, str], log: Path, limit_s: float
) -> Iterator[int]:
    """Run *command*, which mounts on *place* and stays; yield its pid once the mount is there.

    Raises:
        NotMounted: with the last line that the program printed.
        TooSlow: it was not there in time.
    """
    place.mkdir(parents=True)
    deadline = time.monotonic() + limit_s
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        while not is_mounted(place):
            if process.poll() is not None:
                raise NotMounted(f"it ended: {last_line(log)}")
            if time.monotonic() > deadline:
                raise TooSlow
            time.sleep(_POLL_S)
        yield process.pid
    finally:
        _unmount(place)
        end(process)


def _unmount(place: Path) -> None:
    while is_mounted(place):
        done = subprocess.run(
            ["fusermount", "-u", "-z", str(place)], stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """See a process end that has no reason to stay; kill it, and what it started, if it does."""
    children = descendants(process.pid)
    for number in (0, signal.SIGTERM, signal.SIGKILL):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
            break
    for child in children:
        with contextlib.suppress(OSError):
            os.kill(child, 9)


def last_line(log: Path) -> str:
    """Return the last line of a log that says anything."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def peak_memory(pids: Sequence[int]) -> int:
    """Return the sum of the most that each process, and what it started, was ever resident."""
    total = 0
    for pid in {process for root in pids for process in (root, *descendants(root))}:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return what each process, and what it started, has computed so far."""
    ticks = 0
    for pid in {process for root in pids for process in (root, *descendants(root))}:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Return what all cores of this machine have computed since it started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    # user, nice, system, then (after idle and iowait) irq and softirq
    ticks = sum(int(fields[index]) for index in (1, 2, 3, 6, 7))
    return ticks / os.sysconf("SC_CLK_TCK")


def await_quiet(limit_s: float, cores: float) -> None:
    """Wait, at most *limit_s*, until this machine computes with less than *cores*."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        began, before = time.monotonic(), busy_seconds()
        time.sleep(_SAMPLE_S)
        if (busy_seconds() - before) / (time.monotonic() - began) < cores:
            return


def settle() -> None:
    """Charge nobody for what another left: write its files out, and let its memory go back.

    Some virtual machines' hosts take free memory back soon after it was given up, at the cost of
    whoever runs then.
    """
    os.sync()
    time.sleep(_QUIET_S)


def describe() -> str:
    """Return this machine in a few words."""
    cpu = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({cpu}), Linux {platform.release()}, Python {platform.python_version()}"
