"""One run: a peer does a work on a fresh mount, and what that took is measured."""

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
    TooSlow,
    busy_seconds,
    cpu_seconds,
    end,
    peak_memory,
    settle,
)
from .peers import Peer, Place, peers_python
from .works import Step, Work

_READER: Final = Path(__file__).with_name("reader.py")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step took; *failure* says why there is nothing to compare, if so.

    *seconds* of a first step include *mount_s*. *cpu_s* is what the peer and the reader computed,
    *others* how many cores were busy with anything else meanwhile; *peak* is the most memory up to
    then, in bytes.
    """

    work: str
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
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a run happens: the scale and the latency that hold, the limit of each step."""

    scale: float
    rtt_ms: int
    limit_s: float


class ReadFailed(Exception):
    """The reader met an error, which the text tells, or read something wrong."""


class Reader:
    """The process that reads, driven by lines of JSON. Not for concurrent use."""

    def __init__(self, python: str, place: Place) -> None:
        self._process = subprocess.Popen(
            [python, str(_READER)],
            env=place.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._pending = b""

    def ask(self, call: Sequence[Any], deadline: float) -> tuple[float, Any]:
        """Return when the call had done its work, and its value.

        Raises:
            TooSlow: not by *deadline*, in seconds of the monotonic clock.
            ReadFailed: it met an error.
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
                raise ReadFailed("the reader died")
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def kill(self) -> None:
        """End the process, and what it started, now."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        end(self._process)


@dataclass(frozen=True, slots=True)
class _Meter:
    """The clocks and counters at one moment."""

    time: float
    busy: float
    cloud_cpu: float
    cpu: float
    counts: Counts

    @classmethod
    def read(cls, cloud: Cloud, pids: Sequence[int]) -> _Meter:
        """Read all of them; the time last, so that a step that begins then is not charged."""
        counts = cloud.counts()
        cpu, cloud_cpu, busy = cpu_seconds(pids), cpu_seconds([cloud.pid]), busy_seconds()
        return cls(time.monotonic(), busy, cloud_cpu, cpu, counts)

    def others(self, before: _Meter) -> float:
        """Return how many cores were busy since *before* with what is not of the benchmark."""
        ours = self.cpu - before.cpu + self.cloud_cpu - before.cloud_cpu
        return max(0.0, (self.busy - before.busy - ours) / (self.time - before.time))


@dataclass(frozen=True, slots=True)
class _View:
    """A reader that has something to read, and since when; the processes that it costs."""

    reader: Reader
    began: float
    mount_s: float
    pids: list[int]


@contextlib.contextmanager
def _opened(peer: Peer, place: Place) -> Iterator[_View]:
    """Mount what there is to mount, the reader being ready; a library is all in the reader."""
    with contextlib.ExitStack() as stack:
        scratch = place.folder / "scratch"
        scratch.mkdir()
        if peer.library:
            url = place.cloud.signed_url(place.archive)
            began = time.monotonic()
            reader = Reader(str(peers_python(place.cache)), place)
            stack.callback(reader.close)
            pids = [reader.pid]
        else:
            reader = Reader(sys.executable, place)
            stack.callback(reader.close)
            reader.ask(("ready",), time.monotonic() + place.limit_s)
            began = time.monotonic()
            url, pids = stack.enter_context(peer.mount(place))
        stack.push(lambda kind, *_: reader.kill() if kind else None)
        reader.ask(("open", peer.library or "files", url, str(scratch)), began + place.limit_s)
        yield _View(reader, began, time.monotonic() - began, pids)


def run(
    peer: Peer, work: Work, archive: Archive, cloud: Cloud, cache: Path, conditions: Conditions
) -> list[Outcome]:
    """Return the outcome of each step; after one that failed, the others are not tried."""
    steps = work.steps(archive, conditions.scale)
    cloud.shape(conditions.rtt_ms / 1000, work.bandwidth)
    outcome = partial(Outcome, work=work.name, peer=peer.name, rtt_ms=conditions.rtt_ms)
    outcomes: list[Outcome] = []
    runs = cache / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    settle()
    with tempfile.TemporaryDirectory(dir=runs, ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder), archive.name, cloud, cache, conditions.limit_s)
        try:
            before = _Meter.read(cloud, [])
            with _opened(peer, place) as view:
                began, mount_s = view.began, view.mount_s
                for step in steps:
                    stopped, value = view.reader.ask(step.call, began + conditions.limit_s)
                    after = _Meter.read(cloud, [*view.pids, view.reader.pid])
                    _check(step, value)
                    taken = after.counts - before.counts
                    outcomes.append(
                        outcome(
                            step=step.title,
                            seconds=stopped - began,
                            mount_s=mount_s,
                            cpu_s=after.cpu - before.cpu,
                            others=after.others(before),
                            requests=taken.requests,
                            sent=taken.sent,
                            api=taken.api,
                            peak=peak_memory(view.pids),
                        )
                    )
                    began, before, mount_s = time.monotonic(), after, 0.0
        except TooSlow:
            failure = f">{conditions.limit_s:g} s"
        except (ReadFailed, NotMounted) as exc:
            failure = f"fails: {exc}"[:200]
        for step in steps[len(outcomes) :]:
            outcomes.append(outcome(step=step.title, failure=failure))
            failure = "not tried"
    return outcomes


def _check(step: Step, value: Any) -> None:
    expected = step.expected()
    if value != expected:
        raise ReadFailed(f"wrong bytes: {str(value)[:60]} instead of {str(expected)[:60]}")
