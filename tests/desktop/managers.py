"""The file managers and the steps in each: open directories, look at files, copy."""

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

from .dataset import FILES, TASK, TIMEOUT_S, wait_for
from .screen import Screen

_FIRST: Final = "Particles_000.vtk"
_TEXT: Final = "stdout.txt"
_BLANK: Final = (965, 560)  # a point of the file area with no file
_COPY_TIMEOUT_S: Final = 180.0


@dataclass(frozen=True)
class Step:
    """One user action; *run* returns once its effect is on the screen.

    A step that *is_browsing* may read only the heads of files. *copies* is the directory of outputs
    that the step copies.
    """

    name: str
    run: Callable[[], object]
    is_browsing: bool = True
    copies: str = ""


@dataclass
class Manager(ABC):
    """One file manager on *mount* with its own *home*; it copies into *target*."""

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
            "GVFS_DISABLE_FUSE": "1",  # gvfs would leave a FUSE mount in the home directory
        }

    @property
    def outputs(self) -> Path:
        return self.mount / TASK / "outputs"

    @abstractmethod
    def steps(self) -> Iterator[Step]:
        """Yield the steps in order."""

    def shoot(self, path: Path) -> None:  # noqa: B027
        """Write a picture of the screen to *path*, whose suffix may change; by default nothing."""

    def close(self) -> None:
        """Terminate the process group that `start` created."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait()

    def start(self, *command: str | Path) -> None:
        """Start *command* on its own session bus."""
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
        """Install the output of `taskfs mime-types` for this home directory."""
        packages = self.home / "share/mime/packages"
        packages.mkdir(parents=True)
        printed = self.run(sys.executable, "-m", "taskfs", "mime-types")
        (packages / "taskfs.xml").write_text(printed)
        self.run("update-mime-database", packages.parent)

    def run(self, *command: str | Path) -> str:
        """Return the output of a command; raise RuntimeError with its stderr if it fails."""
        done = subprocess.run(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_COPY_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.strip()[:300]}")
        return done.stdout

    def wait_for_copy(self, name: str) -> None:
        """Wait until every file in the copy of the directory *name* has its full size."""
        expected = _sizes(self.outputs / name)
        copy = self.target / name
        wait_for(f"the copy of {name}", lambda: _sizes(copy) == expected, _COPY_TIMEOUT_S)


def _sizes(folder: Path) -> dict[str, int]:
    try:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.stat().st_size for path in files}
    except FileNotFoundError:  # a file was renamed meanwhile
        return {}


class Graphical(Manager):
    """A file manager with a window, controlled by keys."""

    program: str = ""

    def steps(self) -> Iterator[Step]:
        yield Step("open the mount", self._open)
        yield Step("open the task", lambda: self.go(self.mount / TASK))
        yield Step("open outputs/", lambda: self.go(self.outputs))
        yield Step(f"open outputs/vtk, {FILES} files", lambda: self.go(self.outputs / "vtk"))
        yield Step("scroll to its end", lambda: self.screen.press("End"))
        yield Step(
            "open a text file", lambda: self.open_text(self.outputs, _TEXT), is_browsing=False
        )
        yield Step("close the text file", self._close_text)
        yield Step("open outputs/frames, pictures", self._open_pictures, is_browsing=False)
        yield Step("return to outputs/", lambda: self.go(self.outputs))
        yield Step("copy outputs/ to disk", self._copy, is_browsing=False, copies=".")

    def shoot(self, path: Path) -> None:
        self.screen.shoot(path)

    def _open(self) -> None:
        self.start(self.program, self.mount)
        self.screen.wait_for_window(self.mount.name)
        self.screen.widen()

    def show(self, folder: Path, view: str) -> None:
        """Open a window on *folder*, with the view that the key *view* chooses."""
        self.prepare()
        self.start(self.program, folder)
        self.screen.wait_for_window(folder.name)
        self.screen.widen()
        self.screen.press(view)

    def prepare(self) -> None:
        """Write the settings of the program; by default nothing."""

    def go(self, folder: Path) -> None:
        self.screen.press("ctrl+l")
        self.screen.write(str(folder))
        self.screen.press("Delete", "Return")  # Delete removes the completed part
        self.screen.wait_for_window(folder.name)
        self.screen.click(*_BLANK)

    def open_text(self, folder: Path, name: str) -> None:
        """Open the file *name* of *folder* in the program of its type."""
        self.go(folder)
        self.screen.write(name.partition(".")[0])
        self.screen.pause()
        self.screen.press("Return")
        try:
            self._wait_for_text(name, 10)
        except TimeoutError:  # Return ended the search; a second one opens the file
            self.screen.press("Return")
            self._wait_for_text(name)

    def _wait_for_text(self, name: str, timeout_s: float = TIMEOUT_S) -> None:
        wait_for("the text", lambda: name in self.screen.active_title(), timeout_s)

    def _close_text(self) -> None:
        self.screen.press("alt+F4")
        self.screen.wait_for_window("outputs")

    def _open_pictures(self) -> None:
        self.go(self.outputs / "frames")

    def _copy(self) -> None:
        self.screen.press("ctrl+a", "ctrl+c")
        self.go(self.target)
        self.screen.press("ctrl+v")
        self.wait_for_copy(".")


class Thunar(Graphical):
    program = "thunar"


class PCManFM(Graphical):
    program = "pcmanfm"


class Nautilus(Graphical):
    """Opens one directory after another, because its path completion arrives after the keys."""

    program = "nautilus"
    _folder = Path("/")

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"GSK_RENDERER": "cairo"}

    def prepare(self) -> None:
        # Without a graphics card, drawing an animation takes all CPU time.
        settings = self.home / "config/gtk-4.0/settings.ini"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("[Settings]\ngtk-enable-animations=false\n")

    def _open(self) -> None:
        self.prepare()
        super()._open()
        self._folder = self.mount

    def go(self, folder: Path) -> None:
        while not folder.is_relative_to(self._folder):
            self._arrive("alt+Up", self._folder.parent)
        for name in folder.relative_to(self._folder).parts:
            self._choose(name)
            self._arrive("Return", self._folder / name)

    def _arrive(self, key: str, folder: Path) -> None:
        self.screen.press(key)
        self._folder = folder
        self._wait_for_folder()
        self.screen.pause()

    def _choose(self, name: str) -> None:
        self.screen.press("ctrl+s")
        self.screen.wait_for_window("Select Items Matching")
        self.screen.write(name)
        self.screen.press("Return")
        self._wait_for_folder()

    def _wait_for_folder(self) -> None:
        title = "Home" if self._folder == self.home else self._folder.name
        self.screen.wait_for_window(title)

    def open_text(self, folder: Path, name: str) -> None:
        self.go(folder)
        self._choose(name)
        self.screen.press("Return")
        self._wait_for_text(name)


class MidnightCommander(Manager):
    """Midnight Commander in tmux."""

    def steps(self) -> Iterator[Step]:
        yield Step("open the mount", self._open)
        yield Step("open the task", lambda: self.go(self.mount / TASK, "computation_time"))
        yield Step("open outputs/", lambda: self.go(self.outputs, _TEXT))
        yield Step(
            f"open outputs/vtk, {FILES} files", lambda: self.go(self.outputs / "vtk", _FIRST)
        )
        yield Step("scroll to its end", self._scroll)
        yield Step("open a text file", self._view, is_browsing=False)
        yield Step("copy outputs/vtk to disk", self._copy, is_browsing=False, copies="vtk")

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

    def go(self, folder: Path, shown: str) -> None:
        self._tmux("send-keys", "-l", f"cd {shlex.quote(str(folder))}")
        self._press("Enter")
        self._wait_for(shown)

    def _scroll(self) -> None:
        self._press("End")
        self._wait_for(f"Particles_{FILES - 1:03}.vtk")

    def _choose(self, name: str) -> None:
        """Move the cursor to *name* with the quick search."""
        self._press("C-s")
        self._tmux("send-keys", "-l", name)

    def _view(self) -> None:
        self.go(self.outputs, _TEXT)
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
    """GLib's command-line tool. It queries all attributes and sniffs types, as Nautilus does."""

    def steps(self) -> Iterator[Step]:
        yield Step("list the mount", lambda: self._list(self.mount))
        yield Step("list the task", lambda: self._list(self.mount / TASK))
        yield Step("list outputs/", lambda: self._list(self.outputs))
        yield Step(
            f"list outputs/vtk, {FILES} files, names and sizes",
            lambda: self.run("gio", "list", "--long", self.outputs / "vtk"),
        )
        yield Step("the same with content types", lambda: self._list(self.outputs / "vtk"))
        yield Step("print a text file", lambda: self.run("gio", "cat", self.outputs / _TEXT), False)
        yield Step("copy outputs/vtk to disk", self._copy, is_browsing=False, copies="vtk")

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
