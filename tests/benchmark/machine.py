"""Processes and mounts of the benchmark, and the state of the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.002
_PATIENCE_S: Final = 3.0
_SAMPLE_S: Final = 0.5
_MEMORY_SAMPLE_S: Final = 0.1
_MOUNTS: Final = Path("/proc/self/mountinfo")
_PAUSE_S: Final = 3.0


class NotMounted(Exception):
    """A program exited before it had mounted."""


class TooSlow(Exception):
    """A run exceeded its time limit."""


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted on *mountpoint*; does not access that file system."""
    return any(
        line.split(" ", 5)[4] == str(mountpoint) for line in _MOUNTS.read_text().splitlines()
    )


@contextlib.contextmanager
def mounted(
    command: Sequence[str],
    mountpoint: Path,
    environment: Mapping[str, str],
    log: Path,
    limit_s: float,
) -> Iterator[int]:
    """Run *command*, which mounts on *mountpoint* in the foreground; yield its pid once mounted.

    Raises:
        NotMounted: the program exited; the text has the last line it printed.
        TooSlow: not mounted within *limit_s*.
    """
    mountpoint.mkdir(parents=True, exist_ok=True)
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
        while not is_mounted(mountpoint):
            if process.poll() is not None:
                raise NotMounted(f"exited: {last_line(log)}")
            if time.monotonic() > deadline:
                raise TooSlow
            time.sleep(_POLL_S)
        yield process.pid
    finally:
        _unmount(mountpoint)
        end(process)


def _unmount(mountpoint: Path) -> None:
    while is_mounted(mountpoint):
        done = subprocess.run(
            ["fusermount", "-u", "-z", str(mountpoint)], stderr=subprocess.DEVNULL, check=False
        )
        if done.returncode:
            return


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process to exit; terminate and then kill it and its children if it does not."""
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
    """Return the last line of a log that is not empty."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no output"


def descendants(pid: int) -> list[int]:
    """Return the children of a process and their descendants."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def peak_memory(pids: Sequence[int]) -> int:
    """Return the sum of the peak resident memory of the processes and their descendants."""
    total = 0
    for pid in {process for root in pids for process in (root, *descendants(root))}:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
    return total


def private_memory(pids: Sequence[int]) -> int:
    """Return the sum of the private memory (RssAnon) of the processes now."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total += int(line.split()[1]) * 1024
    return total


class PrivateMemory:
    """The most private memory that some processes had at a time, while it is entered."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.most = 0
        self._pids = pids
        self._stopped = threading.Event()

    def __enter__(self) -> None:
        self.most = 0
        self._stopped.clear()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._note()

    def _sample(self) -> None:
        while not self._stopped.wait(_MEMORY_SAMPLE_S):
            self._note()

    def _note(self) -> None:
        self.most = max(self.most, private_memory(self._pids))


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time so far of the processes and their descendants, in seconds."""
    ticks = 0
    for pid in {process for root in pids for process in (root, *descendants(root))}:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float:
    """Return the CPU time of all cores since the machine started, in seconds."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    # user, nice, system, then (after idle and iowait) irq and softirq
    ticks = sum(int(fields[index]) for index in (1, 2, 3, 6, 7))
    return ticks / os.sysconf("SC_CLK_TCK")


def wait_until_idle(limit_s: float, cores: float) -> None:
    """Wait until the machine uses less than *cores* cores, at most *limit_s* seconds."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        began, before = time.monotonic(), busy_seconds()
        time.sleep(_SAMPLE_S)
        if (busy_seconds() - before) / (time.monotonic() - began) < cores:
            return


def sync_and_pause() -> None:
    """Write dirty pages to disk and pause, so that one run does not slow down the next.

    Some hypervisors reclaim freed memory for a few seconds and slow down the programs meanwhile.
    """
    os.sync()
    time.sleep(_PAUSE_S)


def describe() -> str:
    """Describe this machine in a few words."""
    cpu = platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores ({cpu}), Linux {platform.release()}, Python {platform.python_version()}"
