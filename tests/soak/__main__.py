"""The command line of the soak: starts cloud and mount, lets readers and trouble loose, judges."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from taskfs.fuse.mountpoint import umount
from tests import interrupts
from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .daemon import Usage, Watch, usage_of
from .faults import Trouble
from .readers import DISCONNECTED, EXPLAINED, WORKS, Shorter, Stage, Wrong
from .world import World

READERS: Final = 8
REST_S: Final = 2.0
LEAVE_S: Final = 1.0
HUNG_S: Final = 90.0  # an operation may try for `--timeout`, and some of them one after another
KILL_EVERY_S: Final = (8.0, 30.0)
DEAD_S: Final = (0.3, 2.0)  # for so long readers meet the mount of a killed daemon
DEAD_PAUSE_S: Final = 0.05  # of a reader that met it, which would else do nothing but fail
MOUNT_TRIES: Final = 5  # a mount begins with a listing, which a fault may refuse
OPTIONS: Final = {"timeout": "10s", "cache_size": "16M", "attr_timeout": "200ms"}
# The bound of docs/performance.md for caches and buffers, an interpreter and what it imports.
PLAIN_MEMORY: Final = 160 << 20
GROWTH: Final = 16 << 20
MORE_THREADS: Final = 12  # libfuse keeps up to ten idle ones
MORE_DESCRIPTORS: Final = 72  # the cache keeps up to 64 files open


def main() -> int:
    """Soak for as long as asked; 1 if a byte was wrong, something hung, or anything leaked."""
    asked = _parse()
    seed = asked.seed if asked.seed is not None else random.randrange(1 << 30)
    print(f"soak: {asked.minutes:g} minutes, seed {seed}", flush=True)
    with (
        # A reader that was not waited for may still write there.
        tempfile.TemporaryDirectory("", "taskfs-soak-", ignore_cleanup_errors=True) as folder,
        FakeCloud() as cloud,
    ):
        home = Path(folder)
        (home / "mnt").mkdir()
        (home / "scratch").mkdir()
        options = OPTIONS | {"cache_dir": str(home / "cache"), "log_level": "warning"}
        world = World(cloud, random.Random(seed))  # before the mount makes its first listing
        mount = Mount(cloud, home / "mnt", home, options)
        soak = _Soak(mount, cloud, world, home, seed, asked.minutes * 60)
        try:
            mount.start()
            soak.run()
        finally:
            soak.stop(LEAVE_S)
            with contextlib.suppress(Exception):
                umount(mount.path, lazy=True)
        try:
            mount.check_log()
        except AssertionError as exc:
            soak.wrong.append(f"in the log: {str(exc)[:2000]}")
        return soak.report()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak",
        description="Mixed readers on a real mount of the embedded cloud, under random faults on "
        "the wire, in the cache and in the store; every byte is compared.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="[default: 10]")
    parser.add_argument("--seed", type=int, metavar="S", help="of what is done and goes wrong")
    return parser.parse_args()


@dataclass
class _Soak:
    """One run. The readers' threads add to the counters under the lock."""

    mount: Mount
    cloud: FakeCloud
    world: World
    home: Path
    seed: int
    seconds: float
    done: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    false_enoent: int = 0
    shorter: int = 0
    kills: int = 0
    usages: dict[str, Usage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._going = threading.Event()
        self._under_way: dict[int, tuple[str, float]] = {}
        self._readers: list[threading.Thread] = []
        self._rng = random.Random(self.seed - 1)
        self._pid = 0
        self._back_s = float("-inf")  # when the daemon was last mounted again; inf until then
        self.trouble = Trouble(self.world, self.home / "cache", random.Random(self.seed + 1), 0.15)

    def run(self) -> None:
        stage = Stage(self.mount.path, self.world, self.home / "scratch")
        self._pid = self.mount.pid
        self.usages["start"] = usage_of(self._pid)
        self.watch = Watch(self._pid)
        self._readers = [
            threading.Thread(
                target=self._read, args=(stage, self.seed + 2 + number), name="reader", daemon=True
            )
            for number in range(READERS)
        ]
        self._going.set()
        self.watch.start()
        self.trouble.start()
        for reader in self._readers:
            reader.start()
        # Later kills would hide a leak: from the middle to the end it is one daemon, and by the
        # middle its pools have their threads.
        until = time.monotonic() + self.seconds * 0.25
        while not self.wrong and (left_s := until - time.monotonic()) > 0:
            self._wait(min(left_s, self._rng.uniform(*KILL_EVERY_S)))
            self._kill_daemon()
        self._wait(self.seconds * 0.35)
        self.usages["middle"] = self._rest()
        self._wait(self.seconds * 0.4)
        self.trouble.stop()
        self.usages["end"] = self._rest()
        self.watch.stop()
        self._kill_daemon()
        self.stop(HUNG_S)
        self._after()

    def stop(self, patience_s: float) -> None:
        """End the trouble and the readers, waiting for them no longer than *patience_s*."""
        self._ended.set()
        self._going.set()
        self.trouble.stop()
        until = time.monotonic() + patience_s
        for reader in self._readers:
            if reader.is_alive():
                reader.join(max(0, until - time.monotonic()))

    def _wait(self, seconds: float) -> None:
        """Let it go on for so long, unless something hangs."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.wrong:
            time.sleep(0.2)
            self._look_for_hung()

    def _rest(self) -> Usage:
        """Return what the daemon holds once nobody has asked it for anything for a moment."""
        self._hold_readers()
        time.sleep(REST_S)
        usage = usage_of(self._pid)
        self._going.set()
        return usage

    def _hold_readers(self) -> None:
        """Return once no reader is in an operation; none begins another one."""
        self._going.clear()
        time.sleep(0.1)  # a reader may be about to note what it does
        while self._under_way and not self.wrong:
            time.sleep(0.1)
            self._look_for_hung()

    def _kill_daemon(self) -> None:
        """Kill the daemon beneath its readers, and mount again.

        The dead mount must answer ENOTCONN. Readers are held while it is replaced, because the
        directory beneath it shows between the two mounts.
        """
        if self.wrong:
            return
        self.kills += 1
        self._back_s = float("inf")
        os.kill(self._pid, signal.SIGKILL)
        time.sleep(self._rng.uniform(*DEAD_S))
        self._check_disconnected()
        self._hold_readers()
        for _ in range(MOUNT_TRIES):
            try:
                self.mount.start()
                break
            except (AssertionError, subprocess.TimeoutExpired) as exc:
                failure = str(exc)
        else:
            self.wrong.append(f"the mount of a killed daemon was not repaired: {failure[:500]}")
            return
        self._pid = self.mount.pid
        self.watch.follow(self._pid)
        self._back_s = time.monotonic()
        self._going.set()

    def _check_disconnected(self) -> None:
        try:
            names = os.listdir(self.mount.path)
        except OSError as exc:
            if exc.errno != errno.ENOTCONN:
                self.wrong.append(f"the mount of a killed daemon: {exc}")
        else:
            self.shorter += 1
            self.wrong.append(f"the mount of a killed daemon lists {len(names)} names")

    def _look_for_hung(self) -> None:
        now = time.monotonic()
        for name, began in list(self._under_way.values()):
            if now - began > HUNG_S:
                self.wrong.append(f"{name}: it hangs for {now - began:.0f} s")

    def _read(self, stage: Stage, seed: int) -> None:
        rng = random.Random(seed)
        works = list(WORKS)
        weights = list(WORKS.values())
        me = threading.get_ident()
        while not self._ended.is_set():
            self._going.wait()
            work = rng.choices(works, weights)[0]
            began_s = time.monotonic()
            self._under_way[me] = work.__name__, began_s
            failure = ""
            name = ""
            is_shorter = False
            try:
                work(stage, rng)
            except OSError as exc:
                name = errno.errorcode.get(exc.errno or 0, str(exc))
                is_killed = exc.errno in DISCONNECTED and began_s <= self._back_s
                if exc.errno not in EXPLAINED and not is_killed:
                    failure = f"{work.__name__}: {exc}"
            except Wrong as exc:
                is_shorter = isinstance(exc, Shorter)
                failure = f"{work.__name__}: {exc}"
            except Exception as exc:
                failure = f"{work.__name__}: {type(exc).__name__}: {exc}"
            with self._lock:
                self._under_way.pop(me, None)
                self.done[work.__name__] += 1
                self.shorter += is_shorter
                self.false_enoent += name == "ENOENT"
                if name:
                    self.errors[name] += 1
                if failure:
                    self.wrong.append(failure)
            if name == "ENOTCONN":
                time.sleep(DEAD_PAUSE_S)

    def _after(self) -> None:
        """Look at what must hold once the trouble is over."""
        for task, times in Counter(self.cloud.killed).items():
            if times > 1:
                self.wrong.append(f"{task}: {times} kill requests for one write")
        if self.cloud.store.leaked_keys:
            self.wrong.append(f"the key went to the store: {self.cloud.store.leaked_keys[:3]}")
        (self.mount.path / ".taskfs/refresh").write_text("1")
        for place in self.world.places:
            for name, body in place.versions[-1].items():
                path = self.mount.path / place.task / "outputs" / name
                try:
                    content = self._read_afterwards(path)
                except OSError as exc:
                    self.wrong.append(f"{place.task} {name}: {exc.strerror}, afterwards")
                    continue
                if content != body:
                    self.wrong.append(f"{place.task} {name}: not what the store has, afterwards")

    def _read_afterwards(self, path: Path) -> bytes:
        """Return the file's bytes. What came wrong over the wire, and was read by nobody since, may
        be found only now, when some of the file has been handed out: the next open is right."""
        try:
            return path.read_bytes()
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            self.errors["EIO afterwards"] += 1
            return path.read_bytes()

    def report(self) -> int:
        """Print what was; return the exit status."""
        second, last = self.watch.growth()
        start, middle, end = (self.usages[name] for name in ("start", "middle", "end"))
        leaks = []
        if last > max(second * 1.1 + GROWTH, PLAIN_MEMORY):
            leaks.append(f"memory grew from {_mb(second)} to {_mb(last)}")
        if end.threads > middle.threads + MORE_THREADS:
            leaks.append(f"threads grew from {middle.threads} to {end.threads}")
        if end.descriptors > middle.descriptors + MORE_DESCRIPTORS:
            leaks.append(f"descriptors grew from {middle.descriptors} to {end.descriptors}")
        print(f"operations      {self.done.total():8d}   {_listed(self.done)}")
        print(f"faults injected {self.trouble.counts.total():8d}   {_listed(self.trouble.counts)}")
        print(f"errors          {self.errors.total():8d}   {_listed(self.errors)}")
        print(f"daemon killed   {self.kills:8d}")
        print(f"false ENOENT    {self.false_enoent:8d}")
        print(f"short listings  {self.shorter:8d}   directories shorter than they are")
        print(f"wrong           {len(self.wrong):8d}")
        peak = max(self.watch.memory, default=0)
        print(f"memory          {_mb(peak)} at most; {_mb(second)} early, {_mb(last)} late (RSS)")
        for name, one, two, three in (
            ("threads", start.threads, middle.threads, end.threads),
            ("descriptors", start.descriptors, middle.descriptors, end.descriptors),
        ):
            print(f"{name:15} {one} at the start, {two} in the middle, {three} at the end")
        for line in (*self.wrong[:20], *leaks):
            print(f"soak: {line}", file=sys.stderr)
        return int(bool(self.wrong or leaks))


def _mb(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


if __name__ == "__main__":
    interrupts.run("soak", main)
