"""One run: a peer executes a workload on a fresh mount and is measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from .archives import Archive
from .cloud import Cloud, Counts
from .machine import (
    NotMounted,
    PrivateMemory,
    TooSlow,
    busy_seconds,
    cpu_seconds,
    end,
    peak_memory,
    sync_and_pause,
)
from .peers import Peer, RunContext, peers_python
from .workloads import Step, Workload

_READER: Final = Path(__file__).with_name("reader.py")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measurements of one step, or the reason of its *failure*.

    The *seconds* of a first step include *mount_s*. *cpu_s* is the CPU time of peer and reader,
    *others* the average number of cores that other processes used. *peak* is the peak resident
    memory so far, *private* the most private memory (RssAnon) of the step, in bytes.
    """

    workload: str
    step: str
    peer: str
    rtt_ms: int
    seconds: float = 0.0
    mount_s: float = 0.0
    cpu_s: float = 0.0
    others: float = 0.0
    requests: int = 0
    sent: int = 0
    api: int = 0
    peak: int = 0
    private: int = 0
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """The scale, the latency and the time limit of each step."""

    scale: float
    rtt_ms: int
    limit_s: float


class ReadFailed(Exception):
    """The reader failed or read wrong bytes."""


class Reader:
    """The reader process, controlled by lines of JSON. Not for concurrent use."""

    def __init__(self, python: str, context: RunContext) -> None:
        self._process = subprocess.Popen(
            [python, str(_READER)],
            env=context.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._pending = b""

    def call(self, call: Sequence[Any], deadline: float) -> tuple[float, Any]:
        """Return the time at which the call ended, and its value.

        Raises:
            TooSlow: no answer by *deadline*, in seconds of the monotonic clock.
            ReadFailed: the call failed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._line(deadline))
        if "error" in answer:
            raise ReadFailed(answer["error"])
        return answer["stopped"], answer["value"]

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._pending:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TooSlow
            more = os.read(pipe, 1 << 20)
            if not more:
                raise ReadFailed("the reader exited")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def kill(self) -> None:
        """Kill the process and its children."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the process's input and wait for it to exit."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        end(self._process)


@dataclass(frozen=True, slots=True)
class _Meter:
    """All clocks and counters at one moment."""

    time: float
    busy: float
    cloud_cpu: float
    cpu: float
    counts: Counts

    @classmethod
    def read(cls, cloud: Cloud, pids: Sequence[int]) -> _Meter:
        """Read all of them, the time last, so that the next step does not include the reading."""
        counts = cloud.counts()
        cpu, cloud_cpu, busy = cpu_seconds(pids), cpu_seconds([cloud.pid]), busy_seconds()
        return cls(time.monotonic(), busy, cloud_cpu, cpu, counts)

    def others(self, before: _Meter) -> float:
        """Return the average number of cores that other processes used since *before*."""
        ours = self.cpu - before.cpu + self.cloud_cpu - before.cloud_cpu
        return max(0.0, (self.busy - before.busy - ours) / (self.time - before.time))


@dataclass(frozen=True, slots=True)
class _View:
    """A reader with an open view, the time and counters before it was opened, and its processes."""

    reader: Reader
    before: _Meter
    began: float
    mount_s: float
    pids: list[int]


@contextlib.contextmanager
def _open_view(peer: Peer, context: RunContext) -> Iterator[_View]:
    """Start the reader and mount the peer; a library runs inside the reader."""
    with contextlib.ExitStack() as stack:
        scratch = context.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        before = _Meter.read(context.cloud, [])
        if peer.library:
            url = context.cloud.signed_url(context.archive)
            began = time.monotonic()
            reader = Reader(str(peers_python(context.cache)), context)
            stack.callback(reader.close)
            pids = [reader.pid]
        else:
            reader = Reader(sys.executable, context)
            stack.callback(reader.close)
            reader.call(("ready",), time.monotonic() + context.limit_s)
            began = time.monotonic()
            url, pids = stack.enter_context(peer.mount(context))
        stack.push(lambda kind, *_: reader.kill() if kind else None)
        reader.call(("open", peer.library or "files", url, str(scratch)), began + context.limit_s)
        yield _View(reader, before, began, time.monotonic() - began, pids)


def run(
    peer: Peer,
    workload: Workload,
    archive: Archive,
    cloud: Cloud,
    cache: Path,
    conditions: Conditions,
) -> list[Outcome]:
    """Return the outcome of each step; the steps after a failed one are not run."""
    steps = workload.steps(archive, conditions.scale)
    cloud.set_network(conditions.rtt_ms / 1000, workload.bandwidth)
    outcome = partial(Outcome, workload=workload.name, peer=peer.name, rtt_ms=conditions.rtt_ms)
    outcomes: list[Outcome] = []
    runs = cache / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    sync_and_pause()
    with tempfile.TemporaryDirectory(dir=runs, ignore_cleanup_errors=True) as folder:
        context = RunContext(
            Path(folder), archive.name, archive.path, cloud, cache, conditions.limit_s
        )
        try:
            for session in _sessions(steps):
                with _open_view(peer, context) as view:
                    for found in _measure(session, view, cloud, conditions.limit_s):
                        outcomes.append(outcome(**found))
        except TooSlow:
            failure = f">{conditions.limit_s:g} s"
        except (ReadFailed, NotMounted) as exc:
            failure = f"failed: {exc}"[:200]
        for step in steps[len(outcomes) :]:
            outcomes.append(outcome(step=step.title, failure=failure))
            failure = "not run"
    return outcomes


def _sessions(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Yield the steps of each mount: a step that remounts begins another one."""
    session: list[Step] = []
    for step in steps:
        if step.remounts and session:
            yield session
            session = []
        session.append(step)
    yield session


def _measure(
    steps: Sequence[Step], view: _View, cloud: Cloud, limit_s: float
) -> Iterator[dict[str, Any]]:
    """Run the steps on one mount; yield the numbers of each as fields of an `Outcome`."""
    began, before, mount_s = view.began, view.before, view.mount_s
    memory = PrivateMemory(view.pids)
    for step in steps:
        if step.prepare:
            view.reader.call(step.prepare, time.monotonic() + limit_s)
        if (step.remounts and not step.includes_start) or step.prepare:
            began, before = time.monotonic(), _Meter.read(cloud, [*view.pids, view.reader.pid])
        with memory:
            stopped, value = view.reader.call(step.call, began + limit_s)
        after = _Meter.read(cloud, [*view.pids, view.reader.pid])
        _check(step, value)
        taken = after.counts - before.counts
        yield {
            "step": step.title,
            "seconds": stopped - began,
            "mount_s": mount_s,
            "cpu_s": after.cpu - before.cpu,
            "others": after.others(before),
            "requests": taken.requests,
            "sent": taken.sent,
            "api": taken.api,
            "peak": peak_memory(view.pids),
            "private": memory.most,
        }
        began, before, mount_s = time.monotonic(), after, 0.0


def _check(step: Step, value: Any) -> None:
    expected = step.expected()
    if value != expected:
        raise ReadFailed(f"wrong bytes: {str(value)[:60]} instead of {str(expected)[:60]}")
