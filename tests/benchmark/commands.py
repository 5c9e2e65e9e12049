"""The commands that need no mount, beside a mount and the public client.

    python -m tests.benchmark.commands [--tasks 300] [--latency 0.03]

Each row is measured twice, first with empty caches: the command's whole time, with the start of its
process, and what it requests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tests.environments import make_environment, python_of
from tests.mounts import COMMAND

from .__main__ import CACHE
from .account import AccountCloud, Measured
from .live import CLIENT

# The title of each row, and the arguments of taskfs; `ID` is the newest task.
COMMANDS: Final = (
    ("taskfs list", ("list",)),
    ("taskfs ls ID", ("ls", "ID")),
    ("taskfs ls -l ID/outputs", ("ls", "-l", "ID/outputs")),
    ("taskfs cat ID/stdout.txt", ("cat", "ID/stdout.txt")),
)
# The same on a mount that is live.
ON_A_MOUNT: Final = (
    ("mount: ls ID", ("ls", "ID")),
    ("mount: ls -l ID/outputs", ("ls", "-l", "ID/outputs")),
    ("mount: cat ID/outputs/stdout.txt", ("cat", "ID/outputs/stdout.txt")),
)


def measure(cloud: AccountCloud, task: str, client: Path | None) -> None:
    """Print the rows; those of the public client if *client* is its environment."""
    for title, arguments in COMMANDS:
        with tempfile.TemporaryDirectory(prefix="taskfs-commands-") as name:
            _measure_twice(Measured(cloud, Path(name)), title, [*COMMAND, *_of(arguments, task)])
    for title, arguments in ON_A_MOUNT:
        with tempfile.TemporaryDirectory(prefix="taskfs-commands-") as name:
            measured = Measured(cloud, Path(name))
            measured.mount()
            try:
                _measure_twice(measured, title, _of(arguments, task))
            finally:
                measured.unmount()
    if client is not None:
        words = [str(python_of(client).with_name("inductiva")), "tasks", "list"]
        with tempfile.TemporaryDirectory(prefix="taskfs-commands-") as name:
            _measure_twice(Measured(cloud, Path(name)), "inductiva tasks list", words)


def _of(arguments: Sequence[str], task: str) -> list[str]:
    return [argument.replace("ID", task) for argument in arguments]


def _measure_twice(measured: Measured, title: str, words: Sequence[str]) -> None:
    run = partial(
        subprocess.run,
        words,
        env=measured.environment,
        cwd=measured.path,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    measured.step(title, run)
    measured.step("- again", run)


def main() -> None:
    """Measure with a cloud in a process of its own."""
    parser = argparse.ArgumentParser(prog="bench-commands", description=__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--latency", type=float, default=0.03, metavar="S")
    parser.add_argument("--no-client", action="store_true", help="not beside the public client")
    arguments = parser.parse_args()
    client: Path | None = CACHE / CLIENT
    if arguments.no_client:
        client = None
    elif failure := make_environment(CACHE / CLIENT, [CLIENT]):
        print(f"{CLIENT} is not measured: {failure}", file=sys.stderr)
        client = None
    cloud = AccountCloud()
    try:
        task = cloud.call("fill_study", arguments.tasks)[-1]
        cloud.call("set_latency", arguments.latency)
        measure(cloud, task, client)
    finally:
        cloud.close()


if __name__ == "__main__":
    main()
