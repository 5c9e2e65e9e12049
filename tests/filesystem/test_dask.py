"""Issue 5, 4: Dask workers, processes of their own, read one task's files in parallel."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import fsspec
import numpy as np
import pandas as pd
import pytest
from distributed import Client

from tests.fake_api import FakeCloud
from tests.mounts import ROOT, eventually

TASKS: Final = 10
FILES: Final = 6
ROWS: Final = 5_000


def column(path: str) -> "tuple[float, int, int]":
    """Return sum and length of the column, and which process found them; what a worker runs."""
    frame = pd.read_csv(f"taskfs://{path}")
    return float(frame["pressure"].sum()), len(frame), os.getpid()


def table(task: int, file: int) -> bytes:
    chance = np.random.default_rng(100 * task + file)
    frame = pd.DataFrame({"t": np.arange(ROWS), "pressure": chance.normal(task, 1.0, ROWS)})
    return frame.to_csv(index=False).encode()


@contextlib.contextmanager
def cluster(home: Path, cache_dirs: list[Path]) -> Iterator[Client]:
    """A scheduler and a worker process for each cache directory, as on as many machines."""
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    processes = []

    def start(*arguments: str, **variables: str) -> None:
        with open(home / f"{arguments[0]}{len(processes)}.log", "wb") as log:
            command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0]]
            processes.append(
                subprocess.Popen(
                    [*command, *arguments[1:]], env=environment | variables, stderr=log, stdout=log
                )
            )
    try:
        address = home / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(address))
        eventually(address.exists, 60)
        for cache_dir in cache_dirs:
            start("worker", "--scheduler-file", str(address), "--nthreads", "2", "--no-nanny", "--no-dashboard", "--local-directory", str(home / "scratch"), TASKFS_CACHE_DIR=str(cache_dir))
        with Client(scheduler_file=str(address)) as client:
            client.wait_for_workers(len(cache_dirs), timeout=60)
            yield client
            client.shutdown()
    finally:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_a_column_over_ten_tasks(by_environment: FakeCloud, tmp_path: Path, shared: bool) -> None:
    cloud = by_environment
    tables = {(t, f): table(t, f) for t in range(TASKS) for f in range(FILES)}
    tasks = [
        cloud.add_task(project="dam", outputs={f"p{f}.csv": tables[t, f] for f in range(FILES)})
        for t in range(TASKS)
    ]
    stored = [cloud.get_object(f"{task}/output.zip") for task in tasks]
    whole = sum(one.source.size for one in stored if one)
    caches = [tmp_path / "one", tmp_path / ("one" if shared else "two")]
    with cluster(tmp_path, caches) as client:
        paths = fsspec.filesystem("taskfs").glob(".by-project/dam/*/outputs/*.csv")
        assert len(paths) == TASKS * FILES
        cloud.clear_requests()
        found = client.gather(client.map(column, paths))
    assert sum(n for _, n, _ in found) == TASKS * FILES * ROWS
    assert len({pid for _, _, pid in found}) == 2
    wanted = np.concatenate([pd.read_csv(__import__("io").BytesIO(t))["pressure"] for t in tables.values()])
    assert np.isclose(sum(total for total, _, _ in found) / len(wanted), wanted.mean())
    sent = sum(r.bytes_sent for r in cloud.requests if r.side == "store")
    print("SENT", sent, whole, sent / whole, len([r for r in cloud.requests if r.side == "store"]))
    from collections import Counter
    print(Counter((r.path[-40:], r.range) for r in cloud.requests if r.side=="store").most_common(5))
