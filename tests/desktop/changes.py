"""Windows that follow the cloud: a task appears, ends and gets its outputs; no key is pressed."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from taskfs.fuse.mountpoint import umount
from tests.fake_api import FakeCloud
from tests.mounts import Mount
from tests.outputs import put_outputs

from .managers import MANAGERS, Graphical
from .screen import Screen

# The managers whose windows are checked, and the keys of their list views.
LIST_VIEWS: Final = {"Thunar": "ctrl+2", "Nautilus": "ctrl+1"}
# Seconds within which a window must show a change.
SHOWN_S: Final = 5.0
# Cache times with which a change is known in half of that time.
OPTIONS: Final = {"dir_cache_time": "2500ms", "status_cache_time": "1500ms"}
_OUTPUTS: Final = {f"frame_{n}.txt": b"x" * (1000 + n) for n in range(8)}
_POLL_S: Final = 0.2


def check_changes(
    program: str, cloud: FakeCloud, screen: Screen, home: Path, pictures: Path | None
) -> Iterator[str]:
    """Show each change in a window of *program*; print how long it took and yield failures.

    With *pictures*, write the screen before and after each change there.
    """
    for part in ("tasks", "copies", "run"):
        (home / part).mkdir(mode=0o700, parents=True)
    mount = Mount(cloud, home / "tasks", home, OPTIONS)
    manager = MANAGERS[program](mount.path, home, home / "copies", screen)
    assert isinstance(manager, Graphical)
    task, other = (cloud.add_task(status="computation-started") for _ in range(2))
    print(f"\n{program}: windows that follow the cloud", flush=True)

    def end_other() -> None:
        cloud.set_status(other, "success")
        put_outputs(cloud, other, _OUTPUTS)

    steps: list[tuple[str, Path, Callable[[], object]]] = [
        ("a task appears", mount.path, lambda: cloud.add_task(status="submitted")),
        ("a task ends", mount.path / task, lambda: cloud.set_status(task, "success")),
        ("outputs arrive", mount.path / other / "outputs", end_other),
    ]
    try:
        mount.start()
        for name, folder, change in steps:
            manager.show(folder, LIST_VIEWS[program])
            time.sleep(2 * SHOWN_S)  # thumbnails, file types and the new watch
            taken_s = _time_change(screen, change, home, pictures, f"{program} {name}")
            if taken_s is None:
                yield f"{program}: {name}: the window has not changed in {SHOWN_S:g} s"
            else:
                print(f"{name:<40}{taken_s:8.1f} s", flush=True)
            manager.close()
    except (OSError, RuntimeError, TimeoutError) as exc:
        yield f"{program}: {exc}"
    finally:
        manager.close()
        with contextlib.suppress(Exception):
            umount(mount.path, lazy=True)


def _time_change(
    screen: Screen, change: Callable[[], object], home: Path, pictures: Path | None, name: str
) -> float | None:
    """Return the seconds until the screen differs after *change*, or None."""
    stem = name.lower().replace(" ", "-")
    folder = pictures or home
    old, new = folder / f"{stem}-before.png", folder / f"{stem}-after.png"
    screen.shoot(old)
    change()
    began_s = time.monotonic()
    taken_s = None
    while taken_s is None and time.monotonic() - began_s < SHOWN_S:
        time.sleep(_POLL_S)
        screen.shoot(new)
        if _digest(old) != _digest(new):
            taken_s = time.monotonic() - began_s
    time.sleep(1)  # until all of the change is drawn
    screen.shoot(new)
    return taken_s


def _digest(picture: Path) -> bytes:
    return hashlib.sha256(picture.read_bytes()).digest()
