"""taskfs and its peers with their commands. A new peer is a new row of `PEERS`."""

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

from .archives import MILLION, TOP
from .cloud import Cloud
from .machine import mounted
from .store import OBJECT
from .workloads import Workload

# The environment variable with the path of an earlier version's `taskfs`.
EARLIER: Final = "TASKFS_BENCH_EARLIER"
# taskfs in its variants; all others are peers.
OWN: Final = ("taskfs", "taskfs-fusepy", "earlier")
# The peers from PyPI; `lower_bound` needs isal.
PACKAGES: Final = (
    "ratarmount==1.3.0",
    "remotezip==0.12.6",
    "fsspec[http]==2026.9.0",
    "zlib-ng",
    "isal",
)


@dataclass(frozen=True, slots=True)
class RunContext:
    """The context of one run: its directory, the archive, the cloud and the time limit.

    *path* is the archive on the local disk, which remote peers must not use.
    """

    folder: Path
    archive: str
    path: Path
    cloud: Cloud
    cache: Path
    limit_s: float

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a peer, without the user's settings and caches."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return kept | {"HOME": str(self.folder)}


@dataclass(frozen=True, slots=True)
class Stage:
    """One program that mounts. *command* gets the previous mountpoint; its own is appended."""

    command: Callable[[RunContext, Path], list[str]]
    settings: Callable[[RunContext], dict[str, str]] = lambda context: {}


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to read a remote archive: mounts or a library.

    *stages* are mounted in order, each on top of the previous one; the files are at `root` of the
    last. A *library* is a view of `reader.py` and gets a URL. *programs* must be installed. Only
    the workloads *only* are run, or all.
    """

    name: str
    title: str
    programs: tuple[str, ...] = ()
    stages: tuple[Stage, ...] = ()
    root: Callable[[RunContext], str] = lambda context: TOP
    library: str = ""
    only: tuple[str, ...] = ()

    def runs(self, workload: Workload) -> bool:
        """Whether the peer is measured with *workload*."""
        is_own = self.name in OWN
        is_named = not self.only or workload.name in self.only
        is_wanted = is_own or not workload.peers or self.name in workload.peers
        return is_named and is_wanted and not (workload.mounts_only and self.library)

    def missing(self, cache: Path) -> str:
        """Return the missing programs as text, or ''."""
        missing = [name for name in self.programs if not find_program(name, cache)]
        if self.name == "earlier" and EARLIER not in os.environ:
            missing.append("--earlier TASKFS")
        if self.library and not peers_python(cache).exists():
            missing.append(str(self.library))
        return ", ".join(missing)

    @contextlib.contextmanager
    def mount(self, context: RunContext) -> Iterator[tuple[str, list[int]]]:
        """Mount; yield the directory of the files and the processes that serve them."""
        with contextlib.ExitStack() as stack:
            pids = []
            before = context.folder
            for number, stage in enumerate(self.stages):
                mountpoint = context.folder / f"mount{number}"
                pids.append(
                    stack.enter_context(
                        mounted(
                            [*stage.command(context, before), str(mountpoint)],
                            mountpoint,
                            context.environment | stage.settings(context),
                            context.folder / f"log{number}",
                            context.limit_s,
                        )
                    )
                )
                before = mountpoint
            yield str(before / self.root(context)), pids


def _mount_with(program: str, context: RunContext) -> list[str]:
    return [program, "mount", "--foreground", "--cache-dir", str(context.folder / "cache")]


def _taskfs(context: RunContext, before: Path) -> list[str]:
    return _mount_with(str(Path(sys.executable).with_name("taskfs")), context)


def _taskfs_fusepy(context: RunContext, before: Path) -> list[str]:
    return [*_taskfs(context, before), "--engine", "fusepy"]


def _earlier(context: RunContext, before: Path) -> list[str]:
    return _mount_with(os.environ[EARLIER], context)


def _taskfs_settings(context: RunContext) -> dict[str, str]:
    return {"INDUCTIVA_API_URL": context.cloud.api_url, "INDUCTIVA_API_KEY": context.cloud.api_key}


def _ratarmount(context: RunContext, before: Path) -> list[str]:
    program = find_program("ratarmount", context.cache)
    url = context.cloud.plain_url(context.archive) + OBJECT
    return [program, "-f", "--index-file", str(context.folder / "index.sqlite"), url]


def _rclone(context: RunContext, before: Path) -> list[str]:
    return [
        *("rclone", "mount", "--config", "/dev/null", "--read-only", "--vfs-cache-mode", "full"),
        *("--cache-dir", str(context.folder / "cache")),
        *("--http-url", context.cloud.plain_url(context.archive), ":http:"),
    ]


def _httpfs2(context: RunContext, before: Path) -> list[str]:
    log = context.folder / "console"
    log.touch()
    return ["httpfs2", "-c", str(log), "-f", context.cloud.plain_url(context.archive) + OBJECT]


def _fuse_zip(context: RunContext, before: Path) -> list[str]:
    return ["fuse-zip", "-f", "-r", str(before / OBJECT)]


def _fuse_zip_local(context: RunContext, before: Path) -> list[str]:
    return ["fuse-zip", "-f", "-r", str(context.path)]


PEERS: Final = (
    Peer(
        "taskfs",
        "taskfs",
        stages=(Stage(_taskfs, _taskfs_settings),),
        root=lambda context: f"{context.archive}/outputs",
    ),
    Peer(
        "taskfs-fusepy",
        "taskfs, engine fusepy",
        stages=(Stage(_taskfs_fusepy, _taskfs_settings),),
        root=lambda context: f"{context.archive}/outputs",
    ),
    Peer(
        "earlier",
        "taskfs, earlier version",
        stages=(Stage(_earlier, _taskfs_settings),),
        root=lambda context: f"{context.archive}/outputs",
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
    Peer(
        "fuse-zip",
        "fuse-zip, local file",
        ("fuse-zip",),
        (Stage(_fuse_zip_local),),
        only=("walks", MILLION),
    ),
    Peer("client", "public client", library="client"),
)


def peers_python(cache: Path) -> Path:
    """Return the path of the interpreter of the peers from PyPI; it may not exist."""
    return python_of(cache / "peers")


def find_program(name: str, cache: Path) -> str:
    """Return the path of a program in the peers' environment or on PATH, or ''."""
    own = peers_python(cache).with_name(name)
    return str(own) if own.exists() else shutil.which(name) or ""


def install_from_pypi(cache: Path) -> str:
    """Create the peers' environment unless it exists; return an error text or ''."""
    return make_environment(cache / "peers", PACKAGES)
