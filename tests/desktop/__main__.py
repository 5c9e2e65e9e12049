"""Command line of the desktop check: run each file manager on a fresh mount, print the costs."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests import interrupts
from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .changes import LIST_VIEWS, check_changes
from .dataset import FILES, Cost, Dataset
from .live import LIVE, check_live
from .managers import MANAGERS, Manager, Step
from .screen import Screen

BLOCK: Final = 64 << 10
# Bytes that browsing may fetch beyond the central directory if file types are known by name: the
# rounding to blocks, and the text file that is opened.
KNOWN_BOUND: Final = 4 * BLOCK
# Bytes that browsing may fetch per file if the manager sniffs the type from the file's head.
HEAD_BOUND: Final = 2 * BLOCK


def main() -> int:
    """Run the managers; return 1 if one failed, fetched too much or made a wrong copy."""
    arguments = _parse_arguments()
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    with (
        # A manager's services may still write while the directory is removed.
        tempfile.TemporaryDirectory("", "taskfs-desktop-", ignore_cleanup_errors=True) as folder,
        FakeCloud() as cloud,
        Screen(Path(folder) / "screen.log") as screen,
    ):
        check = _Check(Dataset(cloud), Path(folder), arguments.screenshots)
        for name in arguments.managers or MANAGERS:
            for knows_types in () if arguments.changes or arguments.live else (False, True):
                check.run(name, screen, knows_types)
        for name in () if arguments.changes else arguments.managers or LIVE:
            if name in LIVE:
                with FakeCloud() as running:
                    home = Path(folder) / f"{name}-live"
                    check.failures += check_live(name, running, screen, home, arguments.screenshots)
        for name in () if arguments.live else arguments.managers or LIST_VIEWS:
            if name in LIST_VIEWS:
                with FakeCloud() as changing:
                    home = Path(folder) / f"{name}-changes"
                    check.failures += check_changes(
                        name, changing, screen, home, arguments.screenshots
                    )
    for line in check.failures:
        print(f"failed: {line}")
    return 1 if check.failures else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="desktop-check",
        description="Drive file managers on a mount of the embedded cloud with a task of 300 VTK "
        "files. Prints the requests and bytes of each step. Fails if browsing fetches too much or "
        "a copy differs.",
    )
    parser.add_argument("managers", nargs="*", metavar="MANAGER", help=", ".join(MANAGERS))
    parser.add_argument(
        "--screenshots", type=Path, metavar="DIR", help="write a picture of each step to DIR"
    )
    parser.add_argument(
        "--changes", action="store_true", help="check only that windows follow the cloud"
    )
    parser.add_argument(
        "--live", action="store_true", help="check only the files of a running task"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.managers if name not in MANAGERS]:
        parser.error(f"unknown manager {unknown[0]!r}; choose from {', '.join(MANAGERS)}")
    return arguments


@dataclass
class _Check:
    """One run over all managers; `failures` has a line per failure."""

    dataset: Dataset
    home: Path
    screenshots: Path | None
    failures: list[str] = field(default_factory=list)

    def run(self, program: str, screen: Screen, knows_types: bool) -> None:
        """Run the steps of one manager on a mount with an empty cache."""
        name = f"{program}, types known" if knows_types else program
        home = self.home / f"{len(list(self.home.iterdir()))}" / "home"
        for part in ("tasks", "copies", "run"):
            (home / part).mkdir(mode=0o700, parents=True)
        mount = Mount(self.dataset.cloud, home / "tasks", home, {"cache_dir": str(home / "blocks")})
        print(f"\n{name}\n{'':40}{'store':>8}{'bytes':>13}{'API':>5}{'bytes':>9}", flush=True)
        manager = MANAGERS[program](mount.path, home, home / "copies", screen)
        try:
            mount.start()
            if knows_types:
                manager.learn_types()
            self._judge(name, self._steps(name, manager), knows_types)
        except (OSError, RuntimeError, subprocess.SubprocessError) as exc:
            self.failures.append(f"{name}: {exc}")
            self._shoot(manager, f"{name} failed")
        finally:
            manager.close()
            problem = mount.discard()
        if problem:
            self.failures.append(f"{name}: {problem}")

    def _steps(self, name: str, manager: Manager) -> int:
        """Run the steps; return the bytes fetched from the store by those that only browse."""
        before = self.dataset.cost_when_idle()
        browsed = 0
        for number, step in enumerate(manager.steps(), 1):
            step.run()
            after = self.dataset.cost_when_idle()
            cost, before = after - before, after
            browsed += cost.store_bytes if step.is_browsing else 0
            _print(step, cost)
            self._shoot(manager, f"{name} {number}")
            if step.copies:
                self._compare(name, step.copies, manager.target)
        return browsed

    def _shoot(self, manager: Manager, name: str) -> None:
        if self.screenshots:
            manager.shoot(
                self.screenshots / f"{name.replace(',', '').replace(' ', '-').lower()}.png"
            )

    def _compare(self, name: str, folder: str, target: Path) -> None:
        """Check that the copy has exactly the members' names and bytes."""
        copied = {
            str(path.relative_to(target)): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file()
        }
        expected = {
            n: b for n, b in self.dataset.members.items() if folder in (".", n.split("/")[0])
        }
        different = [n for n in expected.keys() | copied.keys() if expected.get(n) != copied.get(n)]
        if different:
            self.failures.append(
                f"{name}: {len(different)} files of the copy differ, such as {different[0]}"
            )

    def _judge(self, name: str, browsed: int, knows_types: bool) -> None:
        share = browsed / self.dataset.archive_size
        heads = 0 if knows_types else FILES * HEAD_BOUND
        print(
            f"browsing fetched {browsed:,} bytes, {share:.1%} of the archive "
            f"({self.dataset.archive_size:,}); its directory has {self.dataset.directory_size:,}"
        )
        if browsed > self.dataset.directory_size + KNOWN_BOUND + heads:
            self.failures.append(f"{name}: browsing fetched {share:.1%} of the archive")


def _print(step: Step, cost: Cost) -> None:
    print(
        f"{step.name:<40}{cost.store:8}{cost.store_bytes:13,}{cost.api:5}{cost.api_bytes:9,}",
        flush=True,
    )


if __name__ == "__main__":
    interrupts.run("desktop-check", main)
