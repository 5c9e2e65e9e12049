"""One run of the soak test: readers, faults, killed daemons, and the violations found."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .daemon import MemorySampler, Usage, usage_of
from .dataset import Dataset
from .faults import FaultInjector
from .large import LARGE_ACTIONS, LargeArchive
from .leaks import LONG_RUN_S, find_leaks, format_counts, megabytes
from .live import LIVE_ACTIONS, RunningTasks
from .readers import ACTIONS, ALLOWED_ERRNOS, DISCONNECTED, Context, ShortListing, Violation

READERS: Final = 8
# Seconds without any operation before the daemon's resources are measured.
IDLE_S: Final = 2.0
# Seconds after which a machine has noticed that a killed daemon's connection is gone (ICE consent).
MACHINE_TIMEOUT_S: Final = 45.0
# Seconds without progress after which an action counts as hung. One system call may retry for
# `--timeout`, and an action makes several calls.
HUNG_S: Final = 90.0
# Seconds between two kills of the daemon, drawn from this range.
KILL_EVERY_S: Final = (8.0, 30.0)
# Seconds that the mount of a killed daemon stays in place, drawn from this range.
DEAD_S: Final = (0.3, 2.0)
# Seconds that a reader pauses after ENOTCONN, so that it does not spin on the dead mount.
DEAD_PAUSE_S: Final = 0.05
# Attempts to mount: a mount starts with a listing of the tasks, which the faults refuse that have
# gathered since the daemon was killed.
MOUNT_ATTEMPTS: Final = 12


@dataclass
class Soak:
    """One run. The reader threads update the counters under the lock."""

    mount: Mount
    cloud: FakeCloud
    dataset: Dataset
    running: RunningTasks
    large: LargeArchive
    home: Path
    seed: int
    seconds: float
    actions: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    false_enoent: int = 0
    short_listings: int = 0
    kills: int = 0
    usages: dict[str, Usage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._resumed = threading.Event()
        self._in_progress: dict[int, tuple[str, float]] = {}
        self._readers: list[threading.Thread] = []
        self._rng = random.Random(self.seed - 1)
        self._pid = 0
        # Time of the last remount; infinity between a kill and the remount.
        self._remounted_s = float("-inf")
        self.injector = FaultInjector(
            self.dataset, self.home / "cache", random.Random(self.seed + 1), pause_s=0.15
        )

    def run(self) -> None:
        context = Context(
            *(self.mount.path, self.dataset, self.home / "scratch", self.running, self.large),
            progress=self._note_progress,
        )
        self._pid = self.mount.pid
        self.usages["start"] = usage_of(self._pid)
        self.sampler = MemorySampler(self._pid)
        self._readers = [
            threading.Thread(
                target=self._read,
                args=(context, self.seed + 2 + number),
                name="reader",
                daemon=True,
            )
            for number in range(READERS)
        ]
        self._resumed.set()
        self.sampler.start()
        self.injector.start()
        self.running.start()
        for reader in self._readers:
            reader.start()
        # Kill the daemon in the first quarter only: the leak checks compare the middle with the end
        # of the run, so one daemon must live through both.
        deadline_s = time.monotonic() + self.seconds * 0.25
        while not self.violations and (left_s := deadline_s - time.monotonic()) > 0:
            self._wait(min(left_s, self._rng.uniform(*KILL_EVERY_S)))
            self._kill_daemon()
        self._wait(self.seconds * 0.35)
        self.usages["middle"] = self._measure_idle()
        self._wait(self.seconds * 0.4)
        self.injector.stop()
        self.usages["end"] = self._measure_idle()
        self.sampler.stop()
        self._kill_daemon()
        self.stop(HUNG_S)
        self._check_afterwards()

    def stop(self, timeout_s: float) -> None:
        """Stop faults and readers; wait at most *timeout_s* for the readers."""
        self._stopped.set()
        self._resumed.set()
        self.injector.stop()
        deadline_s = time.monotonic() + timeout_s
        for reader in self._readers:
            if reader.is_alive():
                reader.join(max(0, deadline_s - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        """Sleep while the readers run; return early after a violation."""
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s and not self.violations:
            time.sleep(0.2)
            self._check_hung()

    def _measure_idle(self) -> Usage:
        """Pause the readers for `IDLE_S` and return what the daemon holds then."""
        self._pause_readers()
        time.sleep(IDLE_S)
        deadline = time.monotonic() + MACHINE_TIMEOUT_S
        while self.running.open_connections and time.monotonic() < deadline:
            time.sleep(0.2)
        usage = usage_of(self._pid)
        if connections := self.running.open_connections:
            self.violations.append(f"{connections} connections to machines are open while idle")
        self._resumed.set()
        return usage

    def _pause_readers(self) -> None:
        """Stop the readers from starting actions and wait for the running ones."""
        self._resumed.clear()
        time.sleep(0.1)  # a reader that passed the gate registers its action meanwhile
        while self._in_progress and not self.violations:
            time.sleep(0.1)
            self._check_hung()

    def _kill_daemon(self) -> None:
        """Kill the daemon with SIGKILL while the readers run, and mount again.

        The dead mount must answer ENOTCONN. Readers pause during the remount, because between the
        two mounts they would see the empty directory underneath.
        """
        if self.violations:
            return
        self.kills += 1
        self._remounted_s = float("inf")
        os.kill(self._pid, signal.SIGKILL)
        time.sleep(self._rng.uniform(*DEAD_S))
        self._check_disconnected()
        self._pause_readers()
        for _ in range(MOUNT_ATTEMPTS):
            try:
                self.mount.start()
                break
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                failure = str(exc)
        else:
            self.violations.append(f"mounting over the dead mount failed: {failure[:500]}")
            return
        self._pid = self.mount.pid
        self.sampler.follow(self._pid)
        self._remounted_s = time.monotonic()
        self._resumed.set()

    def _check_disconnected(self) -> None:
        try:
            names = os.listdir(self.mount.path)
        except OSError as exc:
            if exc.errno not in DISCONNECTED:  # the listing may have met the daemon's last moment
                self.violations.append(f"listing the dead mount: {exc}")
        else:
            self.short_listings += 1
            self.violations.append(f"the dead mount lists {len(names)} names instead of ENOTCONN")

    def _note_progress(self) -> None:
        thread_id = threading.get_ident()
        name, _ = self._in_progress[thread_id]
        self._in_progress[thread_id] = name, time.monotonic()

    def _check_hung(self) -> None:
        now = time.monotonic()
        for name, began_s in list(self._in_progress.values()):
            if now - began_s > HUNG_S:
                self.violations.append(f"{name}: hangs for {now - began_s:.0f} s")

    def _read(self, context: Context, seed: int) -> None:
        rng = random.Random(seed)
        table = ACTIONS | LIVE_ACTIONS | LARGE_ACTIONS
        actions, weights = list(table), list(table.values())
        thread_id = threading.get_ident()
        while not self._stopped.is_set():
            self._resumed.wait()
            action = rng.choices(actions, weights)[0]
            began_s = time.monotonic()
            self._in_progress[thread_id] = action.__name__, began_s
            failure = ""
            errno_name = ""
            is_short_listing = False
            try:
                action(context, rng)
            except OSError as exc:
                errno_name = errno.errorcode.get(exc.errno or 0, str(exc))
                is_killed = exc.errno in DISCONNECTED and began_s <= self._remounted_s
                if exc.errno not in ALLOWED_ERRNOS and not is_killed:
                    failure = f"{action.__name__}: {exc}"
            except Violation as exc:
                is_short_listing = isinstance(exc, ShortListing)
                failure = f"{action.__name__}: {exc}"
            except Exception as exc:
                failure = f"{action.__name__}: {type(exc).__name__}: {exc}"
            with self._lock:
                self._in_progress.pop(thread_id, None)
                self.actions[action.__name__] += 1
                self.short_listings += is_short_listing
                self.false_enoent += errno_name == "ENOENT"
                if errno_name:
                    self.errors[errno_name] += 1
                if failure:
                    self.violations.append(failure)
            if errno_name == "ENOTCONN":
                time.sleep(DEAD_PAUSE_S)

    def _check_afterwards(self) -> None:
        """Check kills, leaked keys and the content of every file once all faults have ended."""
        if self.injector.failure is not None:
            self.violations.append(f"no faults were injected after: {self.injector.failure!r}")
        for task_id, count in Counter(self.cloud.killed).items():
            if count > 1:
                self.violations.append(f"{task_id}: {count} kill requests for one write")
        if self.cloud.store.leaked_keys:
            self.violations.append(
                f"the API key was sent to the store: {self.cloud.store.leaked_keys[:3]}"
            )
        self.running.stop()
        (self.mount.path / ".taskfs/refresh").write_text("1")
        self.violations += self.running.check_afterwards(self.mount.path)
        for task in self.dataset.tasks:
            for name, body in task.versions[-1].items():
                path = self.mount.path / task.id / "outputs" / name
                try:
                    content = self._read_afterwards(path)
                except OSError as exc:
                    self.violations.append(f"{task.id} {name}: {exc.strerror}, afterwards")
                    continue
                if content != body:
                    self.violations.append(f"{task.id} {name}: differs from the store, afterwards")

    def _read_afterwards(self, path: Path) -> bytes:
        """Return the file's bytes, with a second attempt after EIO.

        A block damaged in transit may still be cached. Its CRC-32 fails only at the end of this
        read; the read fails with EIO, the block is dropped, and the next open fetches it again.
        """
        try:
            return path.read_bytes()
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            self.errors["EIO afterwards"] += 1
            return path.read_bytes()

    def report(self) -> int:
        """Print the results; return the exit status."""
        second, last = self.sampler.growth()
        start, middle, end = (
            self.usages.get(name, Usage(0, 0, 0)) for name in ("start", "middle", "end")
        )
        leaks = find_leaks(middle, end, second, last, is_long=self.seconds >= LONG_RUN_S)
        print(f"actions         {self.actions.total():8d}   {format_counts(self.actions)}")
        faults = self.injector.counts
        print(f"faults injected {faults.total():8d}   {format_counts(faults)}")
        print(f"errors          {self.errors.total():8d}   {format_counts(self.errors)}")
        print(f"daemon killed   {self.kills:8d}")
        print(f"running tasks   {len(self.running.tasks):8d}   {self.running.faults} faults")
        print(f"false ENOENT    {self.false_enoent:8d}")
        print(f"short listings  {self.short_listings:8d}")
        print(f"violations      {len(self.violations):8d}")
        peak = max(self.sampler.memory, default=0)
        growth = f"{megabytes(second)} early, {megabytes(last)} late"
        print(f"memory          {megabytes(peak)} private at most; {growth}")
        for name, *counts in (
            ("threads", start.threads, middle.threads, end.threads),
            ("descriptors", start.descriptors, middle.descriptors, end.descriptors),
        ):
            print(f"{name:15} start {counts[0]}, middle {counts[1]}, end {counts[2]}")
        for line in (*self.violations[:20], *leaks):
            print(f"soak: {line}", file=sys.stderr)
        return int(bool(self.violations or leaks))
