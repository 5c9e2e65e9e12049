"""Command line of the soak test: start cloud and mount, run, report."""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path
from typing import Final

from tests import interrupts
from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .dataset import Dataset
from .large import LargeArchive
from .live import RunningTasks
from .run import Soak

# Seconds to wait for the readers when the run is aborted.
ABORT_TIMEOUT_S: Final = 1.0
# So short that no connection to a machine is open when the daemon's resources are measured.
LIVE_IDLE_TIME: Final = "500ms"
OPTIONS: Final = {"timeout": "10s", "cache_size": "16M", "attr_timeout": "200ms"}


def main() -> int:
    """Run the soak test; return 1 if a check failed, an operation hung or a resource leaked."""
    arguments = _parse_arguments()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    print(f"soak: {arguments.minutes:g} minutes, seed {seed}", flush=True)
    with (
        # A reader that did not end in time may still write there.
        tempfile.TemporaryDirectory("", "taskfs-soak-", ignore_cleanup_errors=True) as folder,
        FakeCloud() as cloud,
    ):
        home = Path(folder)
        (home / "mnt").mkdir()
        (home / "scratch").mkdir()
        options = OPTIONS | {"cache_dir": str(home / "cache"), "log_level": "warning"}
        dataset = Dataset(
            cloud, random.Random(seed), arguments.tasks
        )  # before the first listing of the mount
        mount = Mount(cloud, home / "mnt", home, options)
        mount.taskfs.new_interpreter = True  # so that its memory is that of a user's mount
        mount.taskfs.environment["TASKFS_LIVE_IDLE_TIME"] = LIVE_IDLE_TIME
        running = RunningTasks(cloud, random.Random(seed - 2))
        large = LargeArchive(cloud, home, arguments.members)
        soak = Soak(mount, cloud, dataset, running, large, home, seed, arguments.minutes * 60)
        try:
            mount.start()
            soak.run()
        except OSError as exc:  # the daemon has ended by itself
            lines = mount.log.read_text().splitlines()[-10:]
            soak.violations.append(" | ".join((f"the run ended: {exc}", *lines)))
        finally:
            soak.stop(ABORT_TIMEOUT_S)
            problem = mount.discard()
        if problem:
            soak.violations.append(problem)
        return soak.report()


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak",
        description="Run mixed readers on a real mount of the embedded cloud while faults are "
        "injected into its answers, its cache and its store. Every byte read is compared. "
        "Exit status 1 if a check fails.",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="N", help="length of the run [default: 10]"
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="seed of actions and faults [default: random]"
    )
    parser.add_argument(
        "--tasks",
        type=int,
        default=20_000,
        metavar="N",
        help="tasks of the account beside those that are read [default: 20000]",
    )
    parser.add_argument(
        "--members",
        type=int,
        default=300_000,
        metavar="N",
        help="files of the largest archive [default: 300000]",
    )
    return parser.parse_args()


if __name__ == "__main__":
    interrupts.run("soak", main)
