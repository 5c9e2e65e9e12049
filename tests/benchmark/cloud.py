"""The store and the task API, in a separate process.

The process reads commands from standard input, one JSON list per line, and answers each with one
line of JSON. It exits at the end of its input.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from taskfs.demo.cloud import EmbeddedCloud
from taskfs.demo.sources import FileSource

from .archives import Archive
from .store import OBJECT, Store

_IDLE_S: Final = 0.05  # seconds without a change of the counters
_IDLE_TIMEOUT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests and bytes so far; *active* requests are being answered."""

    requests: int
    sent: int
    api: int
    active: int = 0

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.requests - other.requests, self.sent - other.sent, self.api - other.api)


class Cloud:
    """The process, controlled by its parent. Not for concurrent use."""

    def __init__(self, archives: Iterable[Archive]) -> None:
        root = Path(__file__).resolve().parents[2]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        described = [[a.name, str(a.path), len(a.members), a.size] for a in archives]
        self.api_url, self.api_key = self._call("serve", described)

    def set_network(self, latency_s: float, bandwidth: int) -> None:
        """Set the latency of each answer and the bytes/s of each connection (0: no limit)."""
        self._call("set_network", latency_s, bandwidth)

    def signed_url(self, name: str) -> str:
        return str(self._call("signed_url", name))

    def plain_url(self, name: str) -> str:
        return str(self._call("plain_url", name))

    def counts(self) -> Counts:
        """Return the counters once no request is active; wait at most a second."""
        deadline = time.monotonic() + _IDLE_TIMEOUT_S
        counts = Counts(*self._call("counts"))
        while time.monotonic() < deadline:
            time.sleep(_IDLE_S)
            before, counts = counts, Counts(*self._call("counts"))
            if counts == before and not counts.active:
                break
        return counts

    def close(self) -> None:
        """End the process; kill it after 2 seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _call(self, *command: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the range server exited")
        return json.loads(answer)


class _Commands:
    """The two servers; each method is a command."""

    def serve(self, archives: list[tuple[str, str, int, int]]) -> tuple[str, str]:
        self._store = Store({name: Path(path) for name, path, _, _ in archives})
        self._store.start()
        self._api = EmbeddedCloud(populate=False)
        # The API must sign URLs of this store instead of the embedded cloud's own.
        setattr(self._api.store, "signed_url", self._store.signed_url)  # noqa: B010
        self._api.start()
        for name, path, count, size in archives:
            metrics = {"output_total_files": count, "output_zipped_size_bytes": size}
            self._api.add_task(name, metrics=metrics)
            self._api.put_object(f"{name}/{OBJECT}", FileSource(path))
        return self._api.api_url, self._api.api_key

    def set_network(self, latency_s: float, bandwidth: int) -> None:
        self._store.latency_s = self._api.api.latency_s = latency_s
        self._store.bandwidth = bandwidth

    def signed_url(self, name: str) -> str:
        return self._store.signed_url(f"{name}/{OBJECT}")

    def plain_url(self, name: str) -> str:
        return self._store.plain_url(name)

    def counts(self) -> tuple[int, int, int, int]:
        store = self._store
        return store.requests, store.sent, len(self._api.requests), store.active


def _main() -> None:
    commands = _Commands()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(commands, name)(*arguments)), flush=True)


if __name__ == "__main__":
    _main()
