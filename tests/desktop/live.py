"""A window on `live/`: the files of a running task, which grow while they are looked at."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.mounts import Mount

from .dataset import wait_for
from .managers import MANAGERS, Graphical
from .screen import Screen

# The managers that are checked.
LIVE: Final = ("Thunar",)
# Seconds between two lines of the growing files.
_STEP_S: Final = 0.2
_GROWING: Final = ("stdout.txt", "log/solver.log")
_TEXT: Final = "stdout.txt"
# Windows of the editor that are closed at most.
_MAX_DIALOGS: Final = 4
# A table without a last newline, because that of a finished file is not known while its task runs.
_FIXED: Final = {"forces.csv": b"step,drag\n0,0.31\n1,0.29", "stderr.txt": b""}


class _Run:
    """The files of a running task. One thread appends a line at a time."""

    def __init__(self, cloud: FakeCloud) -> None:
        self.task = cloud.add_task(status="computation-started")
        self.machine = cloud.machine(self.task)
        self._files = cloud.machine_files(self.task)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write, name="running-task", daemon=True)
        for name, body in _FIXED.items():
            self._files.write(name, body)
        for name in _GROWING:
            self._files.write(name, b"Time = 0\n" * 2000)
        self._thread.start()

    def _write(self) -> None:
        step = 0
        while not self._stopped.wait(_STEP_S):
            step += 1
            for name in _GROWING:
                self._files.append(name, b"Time = %d\nresidual = 1e-%d\n" % (step, step % 9))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def differs(self, copy: Path) -> list[str]:
        """Return what is wrong with a copy: each file must be as it was at one moment."""
        wrong = []
        for name in (*_FIXED, *_GROWING):
            whole = self._files.read(name) or b""
            found = (copy / name).read_bytes() if (copy / name).exists() else None
            is_same = found == whole if name in _FIXED else found and whole.startswith(found)
            if not is_same:
                wrong.append(
                    f"{name}: {'missing' if found is None else len(found)} of {len(whole)}"
                )
        return wrong


def _close_text(screen: Screen, folder: str) -> None:
    """Close the editor, and before it the dialog in which it says that the file has changed."""
    for _ in range(_MAX_DIALOGS):
        screen.press("alt+F4")
        screen.pause()
        if screen.active_title().startswith(folder):
            return
    screen.wait_for_window(folder)


def check_live(
    program: str, cloud: FakeCloud, screen: Screen, home: Path, pictures: Path | None
) -> Iterator[str]:
    """Open `live/` in *program*, open a log, and copy all to disk; yield failures."""
    for part in ("tasks", "copies", "run"):
        (home / part).mkdir(mode=0o700, parents=True)
    mount = Mount(cloud, home / "tasks", home)
    manager = MANAGERS[program](mount.path, home, home / "copies", screen)
    assert isinstance(manager, Graphical)
    run = _Run(cloud)
    folder = mount.path / run.task / "live"
    print(f"\n{program}: the files of a running task", flush=True)

    def shoot(name: str) -> None:
        screen.pause()
        if pictures:
            screen.shoot(pictures / f"{program}-live-{name}.png".lower())

    try:
        mount.start()
        manager.prepare()
        manager.start(manager.program, folder)
        screen.wait_for_window(folder.name)
        screen.widen()
        shoot("folder")
        manager.go(folder / "log")
        shoot("log")
        manager.go(folder)
        manager.open_text(folder, _TEXT)
        shoot("text")
        _close_text(screen, folder.name)
        shoot("grown")
        screen.press("ctrl+a", "ctrl+c")
        manager.go(manager.target)
        screen.press("ctrl+v")
        wait_for("the copy of live/", lambda: not run.differs(manager.target), 60)
        shoot("copy")
        print(
            f"{run.machine.connections} connection, {len(run.machine.questions)} questions to the "
            "machine",
            flush=True,
        )
        if run.machine.connections != 1:
            yield f"{program}: {run.machine.connections} connections to one machine"
    except (OSError, RuntimeError, subprocess.SubprocessError) as exc:
        yield f"{program}: live/: {exc}; the copy: {run.differs(manager.target)}"
        shoot("failed")
    finally:
        manager.close()
        run.stop()
        problem = mount.discard()
    if problem:
        yield f"{program}: {problem}"
