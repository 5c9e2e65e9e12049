"""taskfs and its peers: what each is started with. A new peer is a new row of `PEERS`."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.environments import make_environment, python_of

from .archives import TOP
from .cloud import Cloud
from .machine import mounted
from .store import OBJECT

# Names the `taskfs` of an earlier version, to be measured beside this one.
EARLIER: Final = "TASKFS_BENCH_EARLIER"
# What the peers from PyPI are; isal is for the floor.
PACKAGES: Final = (
    "ratarmount==1.3.0",
    "remotezip==0.12.6",
    "fsspec[http]==2026.9.0",
    "zlib-ng",
    "isal",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run happens: a directory of its own, an archive, the remote side, a limit."""

    folder: Path
    archive: str
    cloud: Cloud
    cache: Path
    limit_s: float

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a peer: nothing of the user's own settings and caches."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return kept | {"HOME": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Stage:
    """One program that mounts, told what is mounted already; it gets its mountpoint last."""

    command: Callable[[Place, Path], list[str]]
    settings: Callable[[Place], dict[str, str]] = lambda place: {}


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to read a remote archive.

    It mounts *stages* one after another, each given the mountpoint of the one before, and the
    files are at `root` beneath the last; or it is a library, which `reader.py` knows as *library*
    and which is given a URL. *programs* must be there, and are what is said to be missing.
    """

    name: str
    title: str
    programs: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    root: Callable[[Place], str] = lambda place: TOP
    library: str = ""

    def missing(self, cache: Path) -> str:
        """Return what is not installed, or nothing."""
        lacking = [name for name in self.programs if not find_program(name, cache)]
        if self.name == "earlier" and EARLIER not in os.environ:
            lacking.append("--earlier TASKFS")
        if self.library and not peers_python(cache).exists():
            lacking.append(str(self.library))
        return ", ".join(lacking)

    @contextlib.contextmanager
    def mount(self, place: Place) -> Iterator[tuple[str, list[int]]]:
        """Yield where the files are, and the processes that serve them."""
        with contextlib.ExitStack() as stack:
            pids = []
            before = place.folder
            for number, stage in enumerate(self.stages):
                mountpoint = place.folder / f"mount{number}"
                pids.append(
                    stack.enter_context(
                        mounted(
                            [*stage.command(place, before), str(mountpoint)],
                            mountpoint,
                            place.environment | stage.settings(place),
                            place.folder / f"log{number}",
                            place.limit_s,
                        )
                    )
                )
                before = mountpoint
            yield str(before / self.root(place)), pids


def _mount_with(program: str, place: Place) -> list[str]:
    return [program, "mount", "--foreground", "--cache-dir", str(place.folder / "cache")]


def _taskfs(place: Place, before: Path) -> list[str]:
    return _mount_with(str(Path(sys.executable).with_name("taskfs")), place)


def _earlier(place: Place, before: Path) -> list[str]:
    return _mount_with(os.environ[EARLIER], place)


def _taskfs_settings(place: Place) -> dict[str, str]:
    return {"INDUCTIVA_API_URL": place.cloud.api_url, "INDUCTIVA_API_KEY": place.cloud.api_key}


def _ratarmount(place: Place, before: Path) -> list[str]:
    program = find_program("ratarmount", place.cache)
    url = place.cloud.plain_url(place.archive) + OBJECT
    return [program, "-f", "--index-file", str(place.folder / "index.sqlite"), url]


def _rclone(place: Place, before: Path) -> list[str]:
    return [
        *("rclone", "mount", "--config", "/dev/null", "--read-only", "--vfs-cache-mode", "full"),
        *("--cache-dir", str(place.folder / "cache")),
        *("--http-url", place.cloud.plain_url(place.archive), ":http:"),
    ]


def _httpfs2(place: Place, before: Path) -> list[str]:
    log = place.folder / "console"
    log.touch()
    return ["httpfs2", "-c", str(log), "-f", place.cloud.plain_url(place.archive) + OBJECT]


def _fuse_zip(place: Place, before: Path) -> list[str]:
    return ["fuse-zip", "-f", "-r", str(before / OBJECT)]


PEERS: Final = (
    Peer(
        "taskfs",
        "taskfs",
        stages=(Stage(_taskfs, _taskfs_settings),),
        root=lambda place: f"{place.archive}/outputs",
    ),
    Peer(
        "earlier",
        "taskfs, earlier version",
        stages=(Stage(_earlier, _taskfs_settings),),
        root=lambda place: f"{place.archive}/outputs",
    ),
    Peer("ratarmount", "ratarmount", ("ratarmount",), (Stage(_ratarmount),)),
    Peer("remotezip", "remotezip", library="remotezip"),
    Peer(
        "rclone",
        "rclone (full) + fuse-zip",
        ("rclone", "fuse-zip"),
        (Stage(_rclone), Stage(_fuse_zip)),
    ),
    Peer(
        "httpfs2",
        "httpfs2 + fuse-zip",
        ("httpfs2", "fuse-zip"),
        (Stage(_httpfs2), Stage(_fuse_zip)),
    ),
    Peer("client", "public client's way", library="client"),
)


def peers_python(cache: Path) -> Path:
    """Return the interpreter of the peers from PyPI, there or not."""
    return python_of(cache / "peers")


def find_program(name: str, cache: Path) -> str:
    """Return a program of the peers' own environment, else of this machine's, else nothing."""
    own = peers_python(cache).with_name(name)
    return str(own) if own.exists() else shutil.which(name) or ""


def install_from_pypi(cache: Path) -> str:
    """Make the environment of the peers, unless it is there; return what went wrong, if so."""
    return make_environment(cache / "peers", PACKAGES)
