"""Which engine serves a mount, and the fallback from one to the next."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from taskfs.config import Config
from taskfs.errors import ProtocolRefused
from taskfs.fuse.engine import MountEngine, MountOptions
from taskfs.fuse.event_start import ON
from taskfs.fuse.fusepy_engine import FusepyEngine
from taskfs.fuse.kernel.engine import KernelEngine
from taskfs.fuse.operations import TaskOperations
from taskfs.fuse.signals import MountState

log = logging.getLogger(__name__)

AUTO: Final = "auto"
_ENGINE_TYPES: Final[Mapping[str, Callable[[Path, MountOptions], MountEngine]]] = {
    "kernel": KernelEngine,
    "fusepy": FusepyEngine,
}


class Engines:
    """The engines to try, one after another. `current` is the one that serves, or is about to.

    One thread serves; any thread asks `interrupted` and `current`.
    """

    def __init__(self, engines: Sequence[MountEngine]) -> None:
        self._engines = engines
        self.current = engines[0]

    @property
    def pushes_pages(self) -> bool:
        """Whether the first engine pushes bytes before they are read."""
        return self.current.pushes_pages

    def name(self) -> str:
        """Return the name of the engine that serves."""
        return self.current.name

    def interrupted(self) -> bool:
        """Whether the request that the calling thread serves was interrupted."""
        return self.current.interrupted()

    def calling_pid(self) -> int:
        """Return the process whose request the calling thread serves."""
        return self.current.calling_pid()

    def serve(
        self, operations: TaskOperations, state: MountState, on_live: Callable[[], None]
    ) -> None:
        """Serve with the first engine that speaks the kernel's protocol, until the mount is gone.

        Raises:
            MountError: the mount cannot be made, or ended by an error.
        """
        for engine in self._engines:
            self.current = engine
            state.begin_mount()
            try:
                engine.serve(operations, state.mounted, on_live)
                return
            except ProtocolRefused as exc:
                if engine is self._engines[-1]:
                    raise
                log.warning(
                    "the %s engine cannot serve here: %s; the next is tried", engine.name, exc
                )
            finally:
                state.engine_ended()


def choose_engines(config: Config, mountpoint: Path) -> Engines:
    """Return the engines that *config* allows for *mountpoint*."""
    options = MountOptions(
        fsname=config.fsname,
        # The kernel refuses the calls that make events on a mount that it knows as read-only. The
        # operations refuse the same changes.
        read_only=config.read_only and config.events != ON,
        noexec=config.noexec,
        allow_other=config.allow_other,
        allow_root=config.allow_root,
        attr_timeout_s=config.attr_timeout_s,
        # Without the extra `live` no file in `live/` can be seen.
        has_volatile=config.live and not config.offline and find_spec("aiortc") is not None,
    )
    names: Sequence[str] = [config.engine]
    if config.engine == AUTO:
        names = ["kernel", "fusepy"] if sys.platform == "linux" else ["fusepy"]
    return Engines([_ENGINE_TYPES[name](mountpoint, options) for name in names])
