"""Real mounts for tests: `taskfs mount` in its own process, with its own home directory."""

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from taskfs.errors import MountError
from taskfs.fuse.mountpoint import umount
from tests import fork_server
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND

DEVICE: Final = Path("/dev/fuse")
TIMEOUT_S: Final = 60.0
# Refuses at once: the machines of tests are reached on loopback.
NO_TURN_SERVER: Final = "127.0.0.1:9"
# Runs a command with mounts of its own. It detaches the copies of the taskfs mounts of other tests,
# because a copy keeps the daemon running after the test has unmounted.
OWN_MOUNTS: Final = (
    *("unshare", "--mount", "--propagation", "private", "bash", "-c"),
    'umount --all --lazy --internal-only --no-canonicalize --types fuse.taskfs; exec "$@"',
    "bash",
)


def eventually(condition: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    """Wait until *condition* is true; fail after *timeout_s* seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout_s:g} s"
        time.sleep(0.02)


def option_flags(options: dict[str, str]) -> list[str]:
    """Return options as flags of the command line; an empty text is a flag without a value."""
    flags: list[str] = []
    for name, text in options.items():
        flags += [f"--{name.replace('_', '-')}", *([text] if text else [])]
    return flags


def processes_naming(path: Path) -> list[int]:
    """Return the processes with *path* among their arguments: daemons and commands."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if os.fsencode(path) in words and state != "Z":
            found.append(int(entry))
    return found


def users_of(path: Path) -> list[str]:
    """Return the processes that use something below *path*: what they use, and their words."""
    found = []
    for link in (*Path("/proc").glob("[0-9]*/fd/*"), *Path("/proc").glob("[0-9]*/cwd")):
        try:
            used = os.readlink(link)
            words = Path(*link.parts[:3], "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # it has ended
            continue
        if used.startswith(str(path)):
            found.append(f"{link}: {used}: {shlex.join(words)}")
    return found


def is_mounted(path: Path) -> bool:
    """Whether the kernel has a mount at *path*, alive or dead."""
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040")
    return any(line.split(" ")[4] == escaped for line in lines)


def unmount(path: Path) -> None:
    """Unmount as `taskfs umount` does, but in this process; on failure, detach and raise.

    A busy mount is tried again: programs that look at every mount of the machine, such as `taskfs
    doctor` in a test beside this one, use it while its daemon is slow to answer.
    """
    users: dict[str, None] = {}
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return umount(path, lazy=False)
        except MountError as exc:
            users.update(dict.fromkeys(users_of(path)))
            if "busy" not in str(exc) or time.monotonic() > deadline:
                umount(path, lazy=True)
                raise AssertionError("\n".join((str(exc), *users))) from exc


class Taskfs:
    """The command `taskfs` with its own home directory and the key of a cloud."""

    def __init__(self, home: Path, cloud: FakeCloud | None) -> None:
        self.home = home
        # Whether commands start an interpreter; a forked one shares the memory of all modules.
        self.new_interpreter = False
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": fork_server.python_path(),
            "TASKFS_ENGINE": os.environ.get("TASKFS_ENGINE", "auto"),
            "INDUCTIVA_TURN_SERVER_URL": NO_TURN_SERVER,
        }
        if cloud is not None:
            self.environment["INDUCTIVA_API_URL"] = cloud.api_url
            self.environment["INDUCTIVA_API_KEY"] = cloud.api_key

    def __call__(
        self, *arguments: str | Path, prefix: Sequence[str] = (), **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        words = [str(argument) for argument in arguments]
        variables = self.environment | environment
        if not prefix:
            return fork_server.run(
                words,
                cwd=self.home,
                environment=variables,
                timeout_s=TIMEOUT_S,
                new_interpreter=self.new_interpreter,
            )
        return subprocess.run(
            [*prefix, *COMMAND, *words],
            cwd=self.home,
            env=variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )


class Mount:
    """One `taskfs mount` of a cloud, from `start` to `stop`."""

    def __init__(
        self, cloud: FakeCloud, mountpoint: Path, home: Path, options: dict[str, str] | None = None
    ) -> None:
        self.cloud = cloud
        self.path = mountpoint
        self.log = home / "taskfs.log"
        self.taskfs = Taskfs(home, cloud)
        self.flags = ["--log-file", str(self.log), *option_flags(options or {})]
        self._keys = {cloud.api_key}
        self._checked_chars = 0
        self.warning = ""  # what the start printed on standard error

    def start(self) -> "Mount":
        assert DEVICE.exists(), "/dev/fuse is missing: these tests need it"
        done = self.taskfs("mount", *self.flags, self.path)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        # One warning is no failure: a cache directory that cannot be written.
        self.warning = done.stderr
        assert not self.warning or self.warning.startswith("taskfs: nothing is cached"), (
            self.warning
        )
        return self

    @property
    def pid(self) -> int:
        """The process id of the daemon."""
        return int(json.loads((self.path / ".taskfs/stats.json").read_text())["pid"])

    def stop(self) -> None:
        """Unmount, as `unmount` does."""
        if not is_mounted(self.path):
            return
        unmount(self.path)

    def discard(self) -> str:
        """Detach the mount, busy or not; return the problem that its log reports, or ''."""
        with contextlib.suppress(Exception):
            umount(self.path, lazy=True)
        try:
            self.check_log()
        except AssertionError as exc:
            return f"in the log: {str(exc)[:2000]}"
        return ""

    def check_log(self) -> None:
        """Fail if the log, since the last check, reports a bug or contains a secret."""
        text = self.log.read_text() if self.log.exists() else ""
        added, self._checked_chars = text[self._checked_chars :], len(text)
        for sign in ("Traceback", "unexpected error", "CRITICAL", "Signature=", *self._keys):
            assert sign not in added, added
