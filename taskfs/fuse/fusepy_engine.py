"""The fusepy engine: libfuse 2 mounts, reads the kernel's requests and calls back through fusepy.

It serves where the kernel engine cannot: on a kernel with another version of the protocol, and on
other systems than Linux. It costs more: one request for the attributes of each name, one lifetime
for all names and attributes, and no pushed pages.

Requires `import fuse`, which loads libfuse, so this module is imported only by a mount.
"""

import contextlib
import ctypes
import logging
import os
import select
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taskfs.errors import MountError
from taskfs.fuse.engine import SUBTYPE, MountOptions
from taskfs.fuse.engine_support import why_not_fusepy
from taskfs.fuse.fusermount import FUSE_DEVICE
from taskfs.fuse.libfuse import VARIABLE, libfuse_path
from taskfs.fuse.operations import TaskOperations
from taskfs.fuse.stderr_capture import explain_mount_errors

log = logging.getLogger(__name__)


class FusepyEngine:
    """A `MountEngine` for *mountpoint*; see there for what `serve` does.

    libfuse has a thread for each request in flight, and waits for all of them once the mount is
    gone. A thread of the engine therefore watches the connection: when it is gone, every request
    counts as interrupted, and ends.
    """

    name = "fusepy"
    pushes_pages = False

    def __init__(self, mountpoint: Path, options: MountOptions) -> None:
        self._mountpoint = mountpoint
        self._options = options
        self._was_interrupted: Callable[[], int] = lambda: 0
        self._is_gone = False

    def serve(
        self,
        operations: TaskOperations,
        on_mounted: Callable[[], None],
        on_live: Callable[[], None],
    ) -> None:
        with explain_mount_errors(str(self._mountpoint)) as capture:
            if reason := why_not_fusepy():
                raise MountError(reason)
            path = libfuse_path()
            os.environ[VARIABLE] = path
            # This returns the library that fusepy loads below: a process loads each path once.
            self._was_interrupted = ctypes.CDLL(path).fuse_interrupted
            from taskfs.fuse.fusepy_loop import FuseLoop
            from taskfs.fuse.fusepy_operations import FusepyOperations

            def on_init() -> None:
                on_mounted()
                capture.stop()
                threading.Thread(target=self._watch, name="taskfs-watch", daemon=True).start()
                on_live()

            calls = FusepyOperations(operations, on_init)
            try:
                FuseLoop(calls, str(self._mountpoint), **self._fuse_options())
            except RuntimeError as exc:  # libfuse has printed why
                if not calls.is_live:
                    raise MountError("libfuse could not mount: see taskfs doctor") from exc
            if calls.failure is not None:
                raise MountError(f"the mount ended: {calls.failure}") from calls.failure

    def interrupted(self) -> bool:
        # libfuse knows the calling thread's request, and answers 0 in a thread without one.
        return self._is_gone or bool(self._was_interrupted())

    def _watch(self) -> None:
        """Wait until the kernel has ended the mount's connection, where the system reports it."""
        device = _find_device()
        if device is not None:
            poll = select.poll()
            poll.register(device, 0)  # no event but POLLERR, which /dev/fuse reports at the end
            poll.poll()
            self._is_gone = True

    def calling_pid(self) -> int:
        import fuse

        return int(fuse.fuse_get_context()[2])

    def _fuse_options(self) -> dict[str, Any]:
        options = self._options
        words: dict[str, Any] = {
            "foreground": True,
            "fsname": options.fsname,
            "default_permissions": True,
            "allow_other": options.allow_other,
            "allow_root": options.allow_root,
            "ro": options.read_only,
            "use_ino": True,
            "intr": True,  # without it a blocked program ignores Ctrl+C
            # libfuse 2 has one lifetime for the attributes of all files.
            "attr_timeout": 0 if options.has_volatile else options.attr_timeout_s,
            "entry_timeout": options.attr_timeout_s,
        }
        if sys.platform != "darwin":
            words |= {"nosuid": True, "nodev": True, "noexec": options.noexec}
            words["subtype"] = SUBTYPE
        return words


def _find_device() -> int | None:
    """Return libfuse's descriptor of /dev/fuse: proc(5); None where it cannot be found."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == FUSE_DEVICE:
                    return int(name)
    return None
