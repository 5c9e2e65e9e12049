"""The cost of a mount of a large account, and of many small tasks in turn.

    scripts/bench --account
    python -m tests.benchmark.account [--tasks 100000] [--latency 0.3]
    python -m tests.benchmark.account --study 300 [--latency 0.03]

The cloud runs in a process of its own. Each row is printed as it is measured: seconds, requests to
the API, and the private memory (RssAnon) of the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Final

from taskfs.demo.cloud import EmbeddedCloud
from taskfs.fuse.mountpoint import umount
from tests.environments import make_environment, python_of
from tests.zips import DEFLATED, Entry, build

from .machine import describe

ROOT: Final = Path(__file__).resolve().parents[2]
UNFINISHED: Final = 300
LONG_AGO: Final = "2025-06-11T08:00:00+00:00"
TIMEOUT_S: Final = 120.0


class AccountCloud:
    """The process with the account, controlled by its parent. Not for concurrent use."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmark.account", "--serve"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, *command: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait(10)


class _Commands:
    """The cloud; each method is a command."""

    def __init__(self) -> None:
        self._cloud = EmbeddedCloud(populate=False)
        self._cloud.start()

    def address(self) -> tuple[str, str]:
        return self._cloud.api_url, self._cloud.api_key

    def fill(self, count: int, unfinished: int) -> list[str]:
        """Add tasks, the unfinished ones spread over the newest tenth; return all ids."""
        step = _step(count, unfinished)
        ids = []
        for number in range(count):
            is_unfinished = number >= count - step * unfinished and number % step == 0
            status = "computation-started" if is_unfinished else "success"
            created = f"2025-{1 + number * 11 // count:02d}-11T08:00:00.{number:06d}+00:00"
            end = None if is_unfinished else created
            ids.append(self._cloud.add_task(status=status, create_time=created, end_time=end))
        account = self._cloud.account
        account.json(account.newest_first())  # encoded now, not within the first answer
        return ids

    def fill_study(self, count: int) -> list[str]:
        """Add finished tasks with small archives."""
        ids = []
        for number in range(count):
            task = self._cloud.add_task(end_time=LONG_AGO)
            text = f"step {number}: residual {number}e-6\n".encode() * 400
            files = {"stdout.txt": text, "stderr.txt": b"", "log/solver.log": text, "a.csv": text}
            members = [
                Entry(f"artifacts/{name}".encode(), body, DEFLATED) for name, body in files.items()
            ]
            self._cloud.put_object(f"{task}/output.zip", build(members))
            ids.append(task)
        return ids

    def fill_large_study(self, count: int) -> None:
        """Add finished tasks with archives of 1 MB, whose ends do not hold the files."""
        noise = random.Random(7)
        lines = [f"step {n}: residual {noise.random():.6e}\n" for n in range(40_000)]
        files = {"grid.bin": noise.randbytes(400_000), "solver.log": "".join(lines).encode()}
        files["restart.bin"] = noise.randbytes(200_000)
        members = [
            Entry(f"artifacts/{name}".encode(), body, DEFLATED) for name, body in files.items()
        ]
        archive = build(members)
        for _ in range(count):
            task = self._cloud.add_task(end_time=LONG_AGO)
            self._cloud.put_object(f"{task}/output.zip", archive)

    def set_latency(self, latency_s: float) -> None:
        self._cloud.api.latency_s = self._cloud.store.latency_s = latency_s

    def add(self) -> str:
        return self._cloud.add_task(status="submitted")

    def remove(self, task: str) -> None:
        self._cloud.remove_task(task)

    def end(self, task: str) -> None:
        self._cloud.update_task(task, status="success", is_terminated=True, end_time=LONG_AGO)

    def counts(self) -> tuple[int, int, int]:
        """Return the API's requests, the store's, and the bytes that the store has sent."""
        records = list(self._cloud.requests)
        store = [record for record in records if record.side == "store"]
        return len(records) - len(store), len(store), sum(r.bytes_sent for r in store)


def _step(count: int, unfinished: int) -> int:
    return max(1, count // 10 // max(1, unfinished))


def private_memory(pid: int) -> float:
    """Return the private memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("RssAnon"))) / 1e3


class Measured:
    """A mount of the account; prints what each step costs."""

    def __init__(self, cloud: AccountCloud, folder: Path) -> None:
        self._cloud = cloud
        self.path = folder / "mnt"
        self.path.mkdir(exist_ok=True)
        url, key = cloud.call("address")
        self.environment = os.environ | {
            "HOME": str(folder),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "INDUCTIVA_API_URL": url,
            "INDUCTIVA_API_KEY": key,
            "PYTHONPATH": str(ROOT),
        }

    def step(self, name: str, action: Callable[[], object]) -> Any:
        api, store, sent = self._cloud.call("counts")
        began_s = time.monotonic()
        result = action()
        seconds = time.monotonic() - began_s
        after_api, after_store, after_sent = self._cloud.call("counts")
        memory = private_memory(self.pid()) if os.path.ismount(self.path) else 0.0
        print(
            f"{name:38} {seconds:7.2f} s {after_api - api:5d} API {after_store - store:5d} store "
            f"{(after_sent - sent) / 1e6:7.2f} MB {memory:7.1f} MB private",
            flush=True,
        )
        return result

    def mount(self) -> None:
        words = [sys.executable, "-m", "taskfs", "mount", str(self.path)]
        subprocess.run(words, env=self.environment, cwd=ROOT, check=True)

    def unmount(self) -> None:
        umount(self.path, lazy=False)

    def pid(self) -> int:
        return int(json.loads((self.path / ".taskfs/stats.json").read_text())["pid"])

    def tasks(self) -> set[str]:
        return {name for name in os.listdir(self.path) if not name.startswith(".")}

    def has_listing(self, count: int) -> bool:
        try:
            return len(self.tasks()) == count
        except TimeoutError:  # the first listing is not whole yet
            return False

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.25)

    def shell(self, command: str) -> None:
        subprocess.run(command, shell=True, cwd=self.path, check=True, stdout=subprocess.DEVNULL)


def measure_account(count: int, latency_s: float) -> None:
    cloud = AccountCloud()
    with tempfile.TemporaryDirectory(prefix="taskfs-account-") as name:
        ids = cloud.call("fill", count, UNFINISHED)
        cloud.call("set_latency", latency_s)
        m = Measured(cloud, Path(name))
        try:
            m.step("mount is live", m.mount)
            task = ids[len(ids) // 3]
            m.step("a task by its name", (m.path / task / "status").read_text)
            m.step("first ls", lambda: m.until(lambda: m.has_listing(count)))
            time.sleep(12)
            m.step("ls after 12 s (an update)", m.tasks)
            m.step("idle for 15 s", lambda: time.sleep(15))
            m.step("ls .by-status/success", lambda: os.listdir(m.path / ".by-status/success"))
            m.step("ls .by-project", lambda: os.listdir(m.path / ".by-project"))
            new = cloud.call("add")
            m.step("a new task is seen", lambda: m.until(lambda: new in m.tasks()))
            cloud.call("remove", task)
            m.step("a removed task is gone", lambda: m.until(lambda: task not in m.tasks()))
            ended = ids[(count - 1) // _step(count, UNFINISHED) * _step(count, UNFINISHED)]
            status = m.path / ended / "status"
            assert status.read_text() != "success\n"
            cloud.call("end", ended)
            m.step(
                "an ended task is seen", lambda: m.until(lambda: status.read_text() == "success\n")
            )
            newest = [i for i in ids if i != task][-2000:]
            m.step(
                f"cat {len(newest)} statuses",
                lambda: [(m.path / i / "status").read_text() for i in newest],
            )
            m.unmount()
            m.step("a later mount is live", m.mount)
            m.step("its first ls", m.tasks)
            time.sleep(3)
            m.step("3 s later", m.tasks)
        finally:
            if os.path.ismount(m.path):
                m.unmount()
            cloud.close()


STUDY: Final = (
    ("tail -qn1 */outputs/stdout.txt", "tail -qn1 */outputs/stdout.txt"),
    ("ls -l */outputs", "ls -l */outputs"),
    ("cat .by-status/success/*/output_files_info", "cat .by-status/success/*/output_files_info"),
    ("grep -h residual */outputs/log/*", "grep -h residual */outputs/log/*"),
)
# Of tasks whose files do not lie in the end of their archives.
LARGE_STUDY: Final = (
    ("head -c 1000 */outputs/grid.bin", "head -c 1000 */outputs/grid.bin"),
    ("tail -qn1 */outputs/solver.log", "tail -qn1 */outputs/solver.log"),
    ("cat */outputs/solver.log", "cat */outputs/solver.log"),
)

# What the public client's user writes to read the last line of each task's file.
CLIENTS_WAY: Final = """
import sys, inductiva
for task in sys.argv[2:]:
    folder = inductiva.tasks.Task(task).download_outputs(
        filenames=["stdout.txt"], output_dir=f"{sys.argv[1]}/{task}"
    )
    print(open(f"{folder}/stdout.txt").readlines()[-1], end="")
"""


def measure_study(count: int, latency_s: float, client: Path | None = None) -> None:
    """Print the rows of walks over tasks with small and with larger archives; with the environment
    *client* of the public client, also its way."""
    measure_walks(count, latency_s, "fill_study", STUDY, client)
    measure_walks(count, latency_s, "fill_large_study", LARGE_STUDY)


def measure_walks(
    count: int,
    latency_s: float,
    fill: str,
    rows: Sequence[tuple[str, str]],
    client: Path | None = None,
) -> None:
    """Print the *rows* of walks over *count* tasks that the command *fill* of the cloud adds."""
    cloud = AccountCloud()
    ids = cloud.call(fill, count)
    cloud.call("set_latency", latency_s)
    try:
        if client is not None:
            with tempfile.TemporaryDirectory(prefix="taskfs-study-") as name:
                m = Measured(cloud, Path(name))
                words = [str(python_of(client)), "-c", CLIENTS_WAY, name, *ids]
                m.step(
                    "public client: the last lines",
                    lambda: subprocess.run(
                        words,
                        env=m.environment,
                        check=True,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    ),
                )
        for title, command in rows:
            with tempfile.TemporaryDirectory(prefix="taskfs-study-") as name:
                m = Measured(cloud, Path(name))
                m.mount()
                try:
                    m.step(title, partial(m.shell, command))
                finally:
                    m.unmount()
    finally:
        cloud.close()


def measure_all(cache: Path, client_name: str) -> int:
    """Print all rows, for `scripts/bench --account`; the public client is installed in *cache*."""
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {describe()}")
    client: Path | None = cache / client_name
    if failure := make_environment(cache / client_name, [client_name]):
        print(f"{client_name} is not measured: {failure}", file=sys.stderr)
        client = None
    print("100,000 tasks, 0.3 s a page:")
    measure_account(100_000, 0.3)
    print("300 tasks in turn, 30 ms to API and store:")
    measure_study(300, 0.03, client)
    return 0


def _serve() -> None:
    commands = _Commands()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(getattr(commands, name)(*arguments)), flush=True)


def main() -> None:
    """Measure one of the two, or serve the cloud."""
    parser = argparse.ArgumentParser(prog="bench-account", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--study", type=int, default=0, metavar="TASKS")
    parser.add_argument("--latency", type=float, metavar="S")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve()
    elif arguments.study:
        measure_study(arguments.study, 0.03 if arguments.latency is None else arguments.latency)
    else:
        measure_account(arguments.tasks, 0.3 if arguments.latency is None else arguments.latency)


if __name__ == "__main__":
    main()
