"""A screen that nobody sees: Xvfb with a window manager, keys by xdotool, pictures by import."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from .world import wait_for

_SIZE: Final = "1000x620x24"


class Screen:
    """One X server and openbox, from `with` to its end. Not for concurrent use."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self._environment = dict(os.environ)
        self._processes: list[subprocess.Popen[bytes]] = []
        self.display = ""

    def __enter__(self) -> Screen:
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self) -> None:
        read_end, write_end = os.pipe()
        self._start(
            "Xvfb",
            *("-displayfd", str(write_end), "-screen", "0", _SIZE, "-nolisten", "tcp"),
            keep=(write_end,),
        )
        os.close(write_end)
        with os.fdopen(read_end) as told:
            self.display = f":{told.readline().strip()}"
        self._environment["DISPLAY"] = self.display
        self._start("openbox")

    def _start(self, *command: str, keep: tuple[int, ...] = ()) -> None:
        self._processes.append(
            subprocess.Popen(
                command,
                env=self._environment,
                pass_fds=keep,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        )

    def close(self) -> None:
        """End the window manager, then the server."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
        self._log.close()

    def press(self, *keys: str) -> None:
        """Press keys or chords such as `ctrl+l`, one after another, where the focus is."""
        self._run("xdotool", "key", "--clearmodifiers", "--delay", "60", *keys)

    def write(self, text: str) -> None:
        self._run("xdotool", "type", "--clearmodifiers", "--delay", "15", text)

    def pause(self) -> None:
        """Let a window draw what was typed: nothing tells when it has."""
        self._run("xdotool", "sleep", "0.8")

    def click(self, x: int, y: int) -> None:
        self.pause()
        self._run("xdotool", "mousemove", str(x), str(y), "click", "1")

    def wait_for_window(self, title: str) -> None:
        """Return once the active window's title begins with *title*, whose letters count as such.

        Raises:
            TimeoutError: there is none.
        """
        wait_for(f"a window {title!r}", lambda: self.active_title().startswith(title))

    def active_title(self) -> str:
        return self._run("xdotool", "getactivewindow", "getwindowname", check=False)

    def widen(self) -> None:
        """Let the active window fill the screen."""
        self._run("xdotool", "getactivewindow", "windowmove", "0", "0", "windowsize", "998", "596")

    def shoot(self, path: Path) -> None:
        """Write what the screen shows, as a PNG of 64 colours."""
        self._run("import", "-window", "root", "-colors", "64", f"png8:{path}")

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=check, timeout=60
        )
        return done.stdout.strip()
