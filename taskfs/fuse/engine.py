"""The interface between a file system and the program that serves it at a mountpoint.

`TaskOperations` answers requests by path; a `MountEngine` mounts, takes the kernel's requests and
sends the answers. There are two: `kernel.engine` speaks the protocol of /dev/fuse itself,
`fusepy_engine` lets libfuse 2 do it. Owner, umask, link count and block size are applied above the
interface, so both engines show the same files.

Some parts of the interface are optional, and only the kernel engine uses them: it pushes pages of
handles that are `PushableHandle`s, sends the attributes and the lifetime that a `DirectoryListing`
knows, lets the kernel keep what belongs to one version of an archive
(`TaskOperations.keep_versions`), and reads names ahead (`on_lookups_in_order`).
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from taskfs.fuse.operations import TaskOperations

SUBTYPE: Final = "taskfs"


class MountOptions(NamedTuple):
    """The options of one mount, for any engine.

    *attr_timeout_s* bounds how long the kernel keeps names and attributes. *has_volatile* says that
    there are files whose attributes it must not keep (`Lifetime.NONE`). With *allow_root*, root
    and the user that mounted are served, and no other user.
    """

    fsname: str = SUBTYPE
    read_only: bool = False
    noexec: bool = False
    allow_other: bool = False
    allow_root: bool = False
    attr_timeout_s: float = 1.0
    has_volatile: bool = False


class MountEngine(Protocol):
    """Serves one mount."""

    name: str
    # Whether decoded bytes are pushed into the page cache before a program reads them.
    pushes_pages: bool

    def serve(
        self,
        operations: TaskOperations,
        on_mounted: Callable[[], None],
        on_live: Callable[[], None],
    ) -> None:
        """Mount, and answer requests until the mount is gone.

        Call *on_mounted* once the kernel's mount table has the mount, and *on_live* once requests
        are answered. Requests in flight when the mount ends get a few seconds.

        Raises:
            ProtocolRefused: the kernel's protocol is unknown.
            MountError: it could not be mounted, or a callback or a request ended the mount.
                In both cases the kernel's mount table may still have it, with a dead connection.
        """
        ...

    def interrupted(self) -> bool:
        """Whether the request that the calling thread serves was interrupted; False elsewhere."""
        ...

    def calling_pid(self) -> int:
        """Return the process whose request the calling thread serves; 0 for the kernel itself."""
        ...
