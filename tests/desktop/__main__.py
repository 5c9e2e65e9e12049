"""The command line: each manager on a fresh mount, each step with its cost, then the judgement."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from taskfs.fuse.mountpoint import umount
from tests import interrupts
from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .managers import MANAGERS, Manager, Step
from .screen import Screen
from .world import FILES, Cost, World

BLOCK: Final = 64 << 10
# Where names tell the types: the directory, in blocks, and the neighbourhood of one text file.
KNOWN_BOUND: Final = 4 * BLOCK
# Where they do not, each head is read: of two blocks at most, and nothing of it twice.
HEAD_BOUND: Final = 2 * BLOCK


def main() -> int:
    """Drive the managers; 1 if one failed, fetched too much, or copied anything wrong."""
    asked = _parse()
    if asked.screenshots:
        asked.screenshots.mkdir(parents=True, exist_ok=True)
    with (
        # What a manager's services write last may come after their end.
        tempfile.TemporaryDirectory("", "taskfs-desktop-", ignore_cleanup_errors=True) as folder,
        FakeCloud() as cloud,
        Screen(Path(folder) / "screen.log") as screen,
    ):
        check = _Check(World(cloud), Path(folder), asked.screenshots)
        for name in asked.managers or MANAGERS:
            for knows_types in (False, True):
                check.run(name, screen, knows_types)
    for line in check.wrong:
        print(f"wrong: {line}")
    return 1 if check.wrong else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="desktop-check",
        description="File managers on a mount of the embedded cloud with a task of 300 VTK files: "
        "requests and bytes of each step, checks of what browsing fetches and of copies.",
    )
    parser.add_argument("managers", nargs="*", metavar="MANAGER", help=", ".join(MANAGERS))
    parser.add_argument("--screenshots", type=Path, metavar="DIR", help="keep pictures there")
    asked = parser.parse_args()
    if unknown := [name for name in asked.managers if name not in MANAGERS]:
        parser.error(f"{unknown[0]!r} is not one of {', '.join(MANAGERS)}")
    return asked


@dataclass
class _Check:
    """One run over all managers; `wrong` is what was not as it should be."""

    world: World
    home: Path
    screenshots: Path | None
    wrong: list[str] = field(default_factory=list)

    def run(self, program: str, screen: Screen, knows_types: bool) -> None:
        """Let one manager do its steps on a mount with an empty cache."""
        name = f"{program}, types known" if knows_types else program
        home = self.home / f"{len(list(self.home.iterdir()))}" / "home"
        for part in ("tasks", "copies", "run"):
            (home / part).mkdir(mode=0o700, parents=True)
        mount = Mount(self.world.cloud, home / "tasks", home, {"cache_dir": str(home / "blocks")})
        print(f"\n{name}\n{'':40}{'store':>8}{'bytes':>13}{'API':>5}{'bytes':>9}", flush=True)
        manager = MANAGERS[program](mount.path, home, home / "copies", screen)
        try:
            mount.start()
            if knows_types:
                manager.learn_types()
            self._judge(name, self._steps(name, manager), knows_types)
        except (OSError, RuntimeError, subprocess.SubprocessError) as exc:
            self.wrong.append(f"{name}: {exc}")
            self._shoot(manager, f"{name} failed")
        finally:
            manager.close()
            with contextlib.suppress(Exception):
                umount(mount.path, lazy=True)
        try:
            mount.check_log()
        except AssertionError as exc:
            self.wrong.append(f"{name}: in the log: {str(exc)[:500]}")

    def _steps(self, name: str, manager: Manager) -> int:
        """Return the store's bytes of the steps that only browse."""
        before = self.world.settle()
        browsed = 0
        for number, step in enumerate(manager.steps(), 1):
            step.do()
            after = self.world.settle()
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
        """The copy has the members' names and bytes, and nothing else."""
        copied = {
            str(path.relative_to(target)): path.read_bytes()
            for path in target.rglob("*")
            if path.is_file()
        }
        wanted = {n: b for n, b in self.world.members.items() if folder in (".", n.split("/")[0])}
        different = [n for n in wanted.keys() | copied.keys() if wanted.get(n) != copied.get(n)]
        if different:
            self.wrong.append(
                f"{name}: {len(different)} files of the copy differ, {different[0]} first"
            )

    def _judge(self, name: str, browsed: int, knows_types: bool) -> None:
        share = browsed / self.world.archive_size
        heads = 0 if knows_types else FILES * HEAD_BOUND
        print(
            f"browsing fetched {browsed:,} bytes, {share:.1%} of the archive's "
            f"{self.world.archive_size:,}, whose directory has {self.world.directory_size:,}"
        )
        if browsed > self.world.directory_size + KNOWN_BOUND + heads:
            self.wrong.append(f"{name}: browsing fetched {share:.1%} of the archive")


def _print(step: Step, cost: Cost) -> None:
    print(
        f"{step.name:<40}{cost.store:8}{cost.store_bytes:13,}{cost.api:5}{cost.api_bytes:9,}",
        flush=True,
    )


if __name__ == "__main__":
    interrupts.run("desktop-check", main)
