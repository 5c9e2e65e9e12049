"""The commands that need no mount, beside a mount and the public client.

    scripts/bench --commands

Each row is measured with empty caches and again: the command's whole time, with the start of its
process, and its requests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.environments import make_environment, python_of
from tests.fork_server import COMMAND

from .account import AccountCloud, Measured
from .machine import describe

# The title of each row, and the arguments of taskfs; `ID` is the newest task.
COMMANDS: Final = (
    ("`taskfs list`", ("list",)),
    ("`taskfs ls ID`", ("ls", "ID")),
    ("`taskfs ls -l ID/outputs`", ("ls", "-l", "ID/outputs")),
    ("`taskfs cat ID/stdout.txt`", ("cat", "ID/stdout.txt")),
)
# The same on a mount that is live.
ON_A_MOUNT: Final = (
    ("on a mount: `ls ID`", ("ls", "ID")),
    ("on a mount: `ls -l ID/outputs`", ("ls", "-l", "ID/outputs")),
    ("on a mount: `cat ID/outputs/stdout.txt`", ("cat", "ID/outputs/stdout.txt")),
)
CLIENTS: Final = "`inductiva tasks list`"


class Cost(NamedTuple):
    """The time and the requests of one run of a command; runs compare by time."""

    seconds: float
    api: int
    store: int

    def __str__(self) -> str:
        return f"{self.seconds:.3f} s, {self.api} API, {self.store} store"


def measure(cloud: AccountCloud, task: str, client: Path | None, repeat: int) -> Iterator[str]:
    """Yield the lines of a table, with medians of *repeat* runs.

    It has a row of the public client if *client* is its environment.
    """
    yield "| command | with empty caches | again |"
    yield "| --- | --- | --- |"
    rows: list[tuple[str, list[str], bool]] = [
        (title, [*COMMAND, *_with_task(arguments, task)], False) for title, arguments in COMMANDS
    ]
    rows += [(title, _with_task(arguments, task), True) for title, arguments in ON_A_MOUNT]
    if client is not None:
        program = python_of(client).with_name("inductiva")
        rows.append((CLIENTS, [str(program), "tasks", "list"], False))
    for title, words, on_a_mount in rows:
        pairs = [_measure_twice(cloud, words, on_a_mount) for _ in range(repeat)]
        first, again = (sorted(costs)[repeat // 2] for costs in zip(*pairs, strict=True))
        yield f"| {title} | {first} | {again} |"


def _with_task(arguments: Sequence[str], task: str) -> list[str]:
    return [argument.replace("ID", task) for argument in arguments]


def _measure_twice(
    cloud: AccountCloud, words: Sequence[str], on_a_mount: bool
) -> tuple[Cost, Cost]:
    with tempfile.TemporaryDirectory(prefix="taskfs-commands-") as name:
        account = Measured(cloud, Path(name))
        run = partial(
            subprocess.run,
            words,
            env=account.environment,
            cwd=account.path,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        if not on_a_mount:
            return _cost(cloud, run), _cost(cloud, run)
        account.mount()
        try:
            return _cost(cloud, run), _cost(cloud, run)
        finally:
            account.unmount()


def _cost(cloud: AccountCloud, run: Callable[[], object]) -> Cost:
    api, store, _ = cloud.call("counts")
    began_s = time.monotonic()
    run()
    seconds = time.monotonic() - began_s
    after_api, after_store, _ = cloud.call("counts")
    return Cost(seconds, after_api - api, after_store - store)


def measure_all(cache: Path, client_name: str) -> int:
    """Print the table for `scripts/bench --commands`; the public client goes into *cache*."""
    tasks, latency_s, repeat = 300, 0.03, 5
    client: Path | None = cache / client_name
    if failure := make_environment(cache / client_name, [client_name]):
        print(f"{client_name} is not measured: {failure}", file=sys.stderr)
        client = None
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, {describe()}")
    print(f"{tasks} tasks, {latency_s * 1000:g} ms to API and store, medians of {repeat} runs\n")
    cloud = AccountCloud()
    try:
        task = cloud.call("fill_study", tasks)[-1]
        cloud.call("set_latency", latency_s)
        for line in measure(cloud, task, client, repeat):
            print(line, flush=True)
    finally:
        cloud.close()
    return 0
