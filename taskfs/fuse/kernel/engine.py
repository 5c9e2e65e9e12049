"""The kernel engine: mounts and speaks the protocol of /dev/fuse itself. Linux only."""

import os
from collections.abc import Callable
from pathlib import Path

from taskfs.fuse.engine import MountOptions
from taskfs.fuse.kernel.channel import Channel
from taskfs.fuse.kernel.mounting import mount_device
from taskfs.fuse.kernel.name_reader import NameReader
from taskfs.fuse.kernel.protocol import Packer
from taskfs.fuse.kernel.session import Session, calling_pid, interrupted
from taskfs.fuse.mount_table import mounted_device
from taskfs.fuse.operations import TaskOperations


class KernelEngine:
    """A `MountEngine` for *mountpoint*; see there for what `serve` does."""

    name = "kernel"
    pushes_pages = True

    def __init__(self, mountpoint: Path, options: MountOptions) -> None:
        self._mountpoint = mountpoint
        self._options = options

    def serve(
        self,
        operations: TaskOperations,
        on_mounted: Callable[[], None],
        on_live: Callable[[], None],
    ) -> None:
        channel = Channel(mount_device(str(self._mountpoint), self._options))
        on_mounted()
        users = frozenset({0, os.getuid()}) if self._options.allow_root else None
        names: NameReader | None = None
        packer = Packer(self._options.attr_timeout_s)
        try:
            names = NameReader(str(self._mountpoint), mounted_device(self._mountpoint))
            session = Session(operations, channel, packer, on_live, users)
            session.keep_versions()
            session.read_names_ahead(names)
            session.serve()
        finally:
            channel.close()
            if names is not None:
                names.close()

    def interrupted(self) -> bool:
        return interrupted()

    def calling_pid(self) -> int:
        return calling_pid()
