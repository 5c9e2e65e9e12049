"""Real mounts for tests: `taskfs mount` as a process of its own, with its own home."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from taskfs.errors import MountError
from taskfs.fuse.mountpoint import umount
from tests.fake_api import FakeCloud

ROOT: Final = Path(__file__).parents[1]
COMMAND: Final = (sys.executable, "-W", "error", "-m", "taskfs")
DEVICE: Final = Path("/dev/fuse")
PATIENCE_S: Final = 30.0


def eventually(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Return once *condition* is true."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def flags_of(options: dict[str, str]) -> list[str]:
    """Return `name=text` as the command line has it; an empty text is a switch."""
    flags: list[str] = []
    for name, text in options.items():
        flags += [f"--{name.replace('_', '-')}", *([text] if text else [])]
    return flags


def processes_of(place: Path) -> list[int]:
    """Return the processes whose command line names *place*: daemons, and commands."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if os.fsencode(place) in words and state != "Z":
            found.append(int(entry))
    return found


def is_mounted(place: Path) -> bool:
    """Whether the kernel has a mount at *place*, alive or dead."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    escaped = str(place).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split(" ")[4] == escaped for line in lines)


class Taskfs:
    """The command `taskfs` with a home of its own and the key of a cloud."""

    def __init__(self, home: Path, cloud: FakeCloud | None) -> None:
        self.home = home
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": path,
        }
        if cloud is not None:
            self.environment["INDUCTIVA_API_URL"] = cloud.api_url
            self.environment["INDUCTIVA_API_KEY"] = cloud.api_key

    def __call__(
        self, *arguments: str | Path, prefix: Sequence[str] = (), **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*prefix, *COMMAND, *map(str, arguments)],
            cwd=self.home,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )


class Mount:
    """One `taskfs mount` of a cloud on `place`, from `start` to `stop`."""

    def __init__(
        self, cloud: FakeCloud, place: Path, home: Path, options: dict[str, str] | None = None
    ) -> None:
        self.cloud = cloud
        self.path = place
        self.log = home / "taskfs.log"
        self.taskfs = Taskfs(home, cloud)
        self.flags = ["--log-file", str(self.log), *flags_of(options or {})]
        self._keys = {cloud.api_key}
        self._checked = 0

    def start(self) -> "Mount":
        assert DEVICE.exists(), "/dev/fuse is missing: these tests need it: see the README"
        done = self.taskfs("mount", *self.flags, self.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        return self

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(json.loads((self.path / ".taskfs/stats.json").read_text())["pid"])

    def stop(self) -> None:
        """Unmount as `taskfs umount` does; a mount that cannot be is detached, and fails the test.

        Without a process of its own, which would take longer than all the rest.
        """
        if not is_mounted(self.path):
            return
        try:
            umount(self.path, lazy=False)
        except MountError:
            umount(self.path, lazy=True)
            raise

    def check_log(self) -> None:
        """Fail where the log, since the last check, tells of a bug or gives a secret away."""
        text = self.log.read_text() if self.log.exists() else ""
        news, self._checked = text[self._checked :], len(text)
        for sign in ("Traceback", "unexpected error", "CRITICAL", "Signature=", *self._keys):
            assert sign not in news, news
