"""A virtual screen: Xvfb with a window manager, keys by xdotool, pictures by import."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from .dataset import wait_for

_SIZE: Final = "1000x620x24"


class Screen:
    """One X server with openbox, a context manager. Not for concurrent use."""

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
        with os.fdopen(read_end) as pipe:
            self.display = f":{pipe.readline().strip()}"
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
        """Terminate the window manager, then the server."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()
        self._log.close()

    def press(self, *keys: str) -> None:
        """Press keys or chords such as `ctrl+l` in turn, in the focused window."""
        self._run("xdotool", "key", "--clearmodifiers", "--delay", "60", *keys)

    def write(self, text: str) -> None:
        self._run("xdotool", "type", "--clearmodifiers", "--delay", "15", text)

    def pause(self) -> None:
        """Give a window time to draw: there is no event for it."""
        self._run("xdotool", "sleep", "0.8")

    def click(self, x: int, y: int) -> None:
        self.pause()
        self._run("xdotool", "mousemove", str(x), str(y), "click", "1")

    def wait_for_window(self, title: str) -> None:
        """Wait until the title of the active window begins with *title*; raise TimeoutError."""
        wait_for(f"a window {title!r}", lambda: self.active_title().startswith(title))

    def active_title(self) -> str:
        return self._run("xdotool", "getactivewindow", "getwindowname", check=False)

    def widen(self) -> None:
        """Resize the active window to fill the screen."""
        self._run("xdotool", "getactivewindow", "windowmove", "0", "0", "windowsize", "998", "596")

    def shoot(self, path: Path) -> None:
        """Write the screen as a PNG of 64 colours."""
        self._run("import", "-window", "root", "-colors", "64", f"png8:{path}")

    def _run(self, *command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=check, timeout=60
        )
        return done.stdout.strip()
