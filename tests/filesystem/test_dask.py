"""Dask workers read one task's files in parallel through fsspec."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import fsspec
import numpy as np
import pytest

from taskfs.cache.block import BLOCK
from tests.fake_api import FakeCloud
from tests.fork_server import ROOT
from tests.mounts import eventually

if TYPE_CHECKING:
    from distributed import Client

TASKS: Final = 10
FILES: Final = 5
ROWS: Final = 15_000
TIMEOUT_S: Final = 90.0

Tables = dict[str, bytes]


@pytest.fixture(scope="module")
def tables() -> list[Tables]:
    """The CSV files of each task."""
    return [{f"part{n}.csv": table(task, n) for n in range(FILES)} for task in range(TASKS)]


def table(task: int, number: int) -> bytes:
    import pandas as pd  # slow, and all processes of a test run import this module

    chance = np.random.default_rng(100 * task + number)
    frame = pd.DataFrame({"t": np.arange(ROWS), "pressure": chance.normal(task, 1.0, ROWS)})
    return str(frame.to_csv(index=False)).encode()


def column(path: str, cache_dirs: list[str]) -> tuple[float, int, int]:
    """Return the column's sum and length and the process id; runs on a worker.

    Worker n uses the cache directory n.
    """
    import pandas as pd

    cache_dir = cache_dirs[int(os.environ["WORKER"])]
    frame = pd.read_csv(f"taskfs://{path}", storage_options={"cache_dir": cache_dir})
    return float(frame["pressure"].sum()), len(frame), os.getpid()


@contextlib.contextmanager
def cluster(home: Path, workers: int) -> "Iterator[Client]":
    """Yield the client of a scheduler and its worker processes."""
    from distributed import Client  # slow, too

    address = home / "scheduler.json"
    common = ["--no-dashboard", "--scheduler-file", str(address)]
    options = ["--nthreads", "2", "--no-nanny", "--local-directory", str(home)]
    processes: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *arguments: str, **variables: str) -> None:
        with open(home / f"{kind}{len(processes)}.log", "wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *arguments, *common]
            environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0")
        for number in range(workers):  # a worker waits for the scheduler's file
            start("worker", *options, WORKER=str(number))
        eventually(address.exists, TIMEOUT_S)
        with Client(scheduler_file=str(address), set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=TIMEOUT_S)
            yield client
            client.shutdown()
    finally:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


@pytest.mark.filterwarnings("ignore")  # distributed's own
def test_the_mean_of_a_column_over_ten_tasks(
    by_environment: FakeCloud, tables: list[Tables], tmp_path: Path
) -> None:
    """P-16: A Dask cluster of two processes averages a column over the CSV files of ten tasks, and
    workers that share a cache directory fetch each byte once.

    With one cache directory the cluster fetches each archive once, and the block in which its tail
    begins a second time. With two, each worker may fetch that much: both need the indexes and the
    blocks that hold bytes of two files, and both read ahead.
    """
    import pandas as pd

    cloud = by_environment
    tasks = [cloud.add_task(project="dam", outputs=files) for files in tables]
    whole = sum(size_of(cloud, task) for task in tasks)
    values = np.concatenate(
        [pd.read_csv(io.BytesIO(body))["pressure"] for files in tables for body in files.values()]
    )
    with cluster(tmp_path, 2) as client:
        for names in (["one", "one"], ["two", "three"]):
            caches = [str(tmp_path / name) for name in names]
            fs = fsspec.filesystem("taskfs", cache_dir=caches[0])
            paths = fs.glob(".by-project/dam/*/outputs/*")
            assert len(paths) == TASKS * FILES
            found: Any = client.gather(client.map(column, paths, cache_dirs=caches))
            assert len({process for _, _, process in found}) == 2
            assert sum(length for _, length, _ in found) == len(values)
            assert np.isclose(sum(total for total, _, _ in found) / len(values), values.mean())
            sent = sum(record.bytes_sent for record in cloud.requests if record.side == "store")
            assert sent <= len(set(caches)) * (whole + TASKS * BLOCK)
            cloud.clear_requests()


def test_the_dask_example_of_the_document(by_environment: FakeCloud, tmp_path: Path) -> None:
    """P-16: The Dask example in docs/fsspec.md runs as it is printed."""
    for n in range(4):
        by_environment.add_task(
            project="coastal-defence",
            outputs={"energy.csv": b"time_s,kinetic_j\n0,%d.25\n1,%d.75\n" % (n, n)},
        )
    document = (ROOT / "taskfs/docs/fsspec.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", document.split("## Dask")[1], re.DOTALL)
    (tmp_path / "mean.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "mean.py"],
        cwd=tmp_path,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(2.0)


def size_of(cloud: FakeCloud, task: str) -> int:
    stored = cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    return stored.source.size
