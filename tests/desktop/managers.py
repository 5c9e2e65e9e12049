"""What is done in each file manager, as steps with a name: open, look, copy out."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .screen import Screen
from .world import FILES, TASK, wait_for

_FIRST: Final = "Particles_000.vtk"
_TEXT: Final = "stdout.txt"
_BLANK: Final = (965, 560)  # where a window has its files, and none of them
_COPY_S: Final = 180.0


@dataclass(frozen=True)
class Step:
    """One thing that a person does; *do* returns once it is on the screen.

    What *is_browsing* shows names, and may read no more than heads of files. *copies* is the
    directory of outputs that is in the place for copies afterwards.
    """

    name: str
    do: Callable[[], object]
    is_browsing: bool = True
    copies: str = ""


@dataclass
class Manager(ABC):
    """One file manager on *mount*, with a *home* of its own; it copies into *target*."""

    mount: Path
    home: Path
    target: Path
    screen: Screen
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "USER") if name in os.environ}
        return kept | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_DATA_HOME": str(self.home / "share"),
            "XDG_RUNTIME_DIR": str(self.home / "run"),
            "DISPLAY": self.screen.display,
            "LANG": "C.UTF-8",
            "TERM": "xterm-256color",
            "GVFS_DISABLE_FUSE": "1",  # it would leave a mount of its own in the home
        }

    @property
    def outputs(self) -> Path:
        return self.mount / TASK / "outputs"

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """Yield what is done, in order."""

    def shoot(self, path: Path) -> None:  # noqa: B027
        """Write what is to be seen to *path*, whose suffix may change; or do nothing."""

    def close(self) -> None:
        """End what `start` started, and what that started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()

    def start(self, *command: str | Path) -> None:
        """Start *command* on a session bus of its own."""
        with (self.home / "session.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["dbus-run-session", "--", *command],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def learn_types(self) -> None:
        """Install what `taskfs mime-types` prints, for this home."""
        packages = self.home / "share/mime/packages"
        packages.mkdir(parents=True)
        printed = self.run(sys.executable, "-m", "taskfs", "mime-types")
        (packages / "taskfs.xml").write_text(printed)
        self.run("update-mime-database", packages.parent)

    def run(self, *command: str | Path) -> str:
        """Return what a command printed.

        Raises:
            RuntimeError: it failed; says what it said.
        """
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COPY_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()[:300]}")
        return done.stdout

    def wait_for_copy(self, name: str) -> None:
        """Return once the copy of the directory *name* is as long as the original."""
        wanted = _sizes(self.outputs / name)
        copy = self.target / name
        wait_for(f"the copy of {name}", lambda: _sizes(copy) == wanted, _COPY_S)


def _sizes(folder: Path) -> dict[str, int]:
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.stat().st_size for path in files}
    except FileNotFoundError:  # it was renamed meanwhile
        return {}


class Graphical(Manager):
    """A file manager with a window, driven by keys."""

    program: str = ""

    def steps(self) -> Iterator[Step]:
        yield Step("open the mount", self._open)
        yield Step("open the task", lambda: self._go(self.mount / TASK))
        yield Step("open outputs/", lambda: self._go(self.outputs))
        yield Step(f"open outputs/vtk, {FILES} files", lambda: self._go(self.outputs / "vtk"))
        yield Step("scroll to its end", lambda: self.screen.press("End"))
        yield Step("open a text file", self._open_text, is_browsing=False)
        yield Step("close it", self._close_text)
        yield Step("open outputs/frames, pictures", self._open_pictures, is_browsing=False)
        yield Step("back to outputs/", lambda: self._go(self.outputs))
        yield Step("copy all of it out", self._copy, is_browsing=False, copies=".")

    def shoot(self, path: Path) -> None:
        self.screen.shoot(path)

    def _open(self) -> None:
        self.start(self.program, self.mount)
        self.screen.wait_for_window(self.mount.name)
        self.screen.widen()

    def _go(self, folder: Path) -> None:
        self.screen.press("ctrl+l")
        self.screen.write(str(folder))
        self.screen.press("Delete", "Return")  # Delete: what was completed beyond it
        self.screen.wait_for_window(folder.name)
        self.screen.click(*_BLANK)

    def _open_text(self) -> None:
        self._go(self.outputs)
        self.screen.write("stdout")
        self.screen.pause()
        self.screen.press("Return")
        try:
            wait_for("the text", self._text_is_open, 10)
        except TimeoutError:  # that ended the search, and this opens what it found
            self.screen.press("Return")
            wait_for("the text", self._text_is_open)

    def _text_is_open(self) -> bool:
        return _TEXT in self.screen.active_title()

    def _close_text(self) -> None:
        self.screen.press("alt+F4")
        self.screen.wait_for_window("outputs")

    def _open_pictures(self) -> None:
        self._go(self.outputs / "frames")

    def _copy(self) -> None:
        self.screen.press("ctrl+a", "ctrl+c")
        self._go(self.target)
        self.screen.press("ctrl+v")
        self.wait_for_copy(".")


class Thunar(Graphical):
    program = "thunar"


class PCManFM(Graphical):
    program = "pcmanfm"


class Nautilus(Graphical):
    """Goes from folder to folder: what it completes in a path comes late, behind what was typed."""

    program = "nautilus"
    _place = Path("/")

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"GSK_RENDERER": "cairo"}

    def _open(self) -> None:
        # Drawn without a graphics card, a spinner that turns leaves no time to what it waits for.
        settings = self.home / "config/gtk-4.0/settings.ini"
        settings.parent.mkdir(parents=True)
        settings.write_text("[Settings]\ngtk-enable-animations=false\n")
        super()._open()
        self._place = self.mount

    def _go(self, folder: Path) -> None:
        while not folder.is_relative_to(self._place):
            self._arrive("alt+Up", self._place.parent)
        for name in folder.relative_to(self._place).parts:
            self._choose(name)
            self._arrive("Return", self._place / name)

    def _arrive(self, key: str, folder: Path) -> None:
        self.screen.press(key)
        self._place = folder
        self._wait_for_place()
        self.screen.pause()

    def _choose(self, name: str) -> None:
        self.screen.press("ctrl+s")
        self.screen.wait_for_window("Select Items Matching")
        self.screen.write(name)
        self.screen.press("Return")
        self._wait_for_place()

    def _wait_for_place(self) -> None:
        title = "Home" if self._place == self.home else self._place.name
        self.screen.wait_for_window(title)

    def _open_text(self) -> None:
        self._go(self.outputs)
        self._choose(_TEXT)
        self.screen.press("Return")
        wait_for("the text", self._text_is_open)


class MidnightCommander(Manager):
    """mc in tmux."""

    def steps(self) -> Iterator[Step]:
        yield Step("open the mount", self._open)
        yield Step("open the task", lambda: self._go(self.mount / TASK, "computation_time"))
        yield Step("open outputs/", lambda: self._go(self.outputs, _TEXT))
        yield Step(
            f"open outputs/vtk, {FILES} files", lambda: self._go(self.outputs / "vtk", _FIRST)
        )
        yield Step("scroll to its end", self._scroll)
        yield Step("open a text file", self._view, is_browsing=False)
        yield Step("copy outputs/vtk out", self._copy, is_browsing=False, copies="vtk")

    def shoot(self, path: Path) -> None:
        path.with_suffix(".txt").write_text(self._shown())

    def close(self) -> None:
        with suppress(RuntimeError):
            self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        return self.run("tmux", "-S", self.home / "tmux", "-f", "/dev/null", *words)

    def _shown(self) -> str:
        return self._tmux("capture-pane", "-p")

    def _wait_for(self, text: str) -> None:
        wait_for(f"{text!r} in mc", lambda: text in self._shown())

    def _press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def _open(self) -> None:
        command = shlex.join(["mc", "--nosubshell", str(self.mount), str(self.target)])
        self._tmux("new-session", "-d", "-x", "120", "-y", "34", command)
        self._wait_for(TASK[:12])

    def _go(self, folder: Path, shown: str) -> None:
        self._tmux("send-keys", "-l", f"cd {shlex.quote(str(folder))}")
        self._press("Enter")
        self._wait_for(shown)

    def _scroll(self) -> None:
        self._press("End")
        self._wait_for(f"Particles_{FILES - 1:03}.vtk")

    def _choose(self, name: str) -> None:
        """Let the cursor go to *name* by typing its letters."""
        self._press("C-s")
        self._tmux("send-keys", "-l", name)

    def _view(self) -> None:
        self._go(self.outputs, _TEXT)
        self._choose("stdout")
        self._press("F3")
        self._wait_for("step 0: residual")

    def _copy(self) -> None:
        self._press("F10")
        self._wait_for(_TEXT)
        self._choose("vtk")
        self._press("F5")
        self._wait_for("Copy directory")
        self._press("Enter")
        self.wait_for_copy("vtk")


class Gio(Manager):
    """GLib's own tool, which asks as Nautilus does: all attributes, content types sniffed."""

    def steps(self) -> Iterator[Step]:
        yield Step("list the mount", lambda: self._list(self.mount))
        yield Step("list the task", lambda: self._list(self.mount / TASK))
        yield Step("list outputs/", lambda: self._list(self.outputs))
        yield Step(
            f"list outputs/vtk, {FILES} files, names and sizes",
            lambda: self.run("gio", "list", "--long", self.outputs / "vtk"),
        )
        yield Step(f"with {FILES} content types", lambda: self._list(self.outputs / "vtk"))
        yield Step("print a text file", lambda: self.run("gio", "cat", self.outputs / _TEXT), False)
        yield Step("copy outputs/vtk out", self._copy, is_browsing=False, copies="vtk")

    def _list(self, folder: Path) -> None:
        attributes = "standard::*,access::*,thumbnail::*,time::*,owner::*"
        self.run("gio", "list", "--hidden", "--attributes", attributes, folder)

    def _copy(self) -> None:
        folder = self.target / "vtk"
        folder.mkdir()
        self.run("gio", "copy", *sorted((self.outputs / "vtk").iterdir()), folder)


MANAGERS: Final[dict[str, type[Manager]]] = {
    "gio": Gio,
    "mc": MidnightCommander,
    "Thunar": Thunar,
    "PCManFM": PCManFM,
    "Nautilus": Nautilus,
}
