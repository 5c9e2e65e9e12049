"""Mount /dev/fuse: directly as root, through fusermount as an ordinary user. Needs no libfuse.

Root calls mount(2). Other users, and root without CAP_SYS_ADMIN, ask fusermount, which mounts and
sends the descriptor of the device back over the socket that the variable _FUSE_COMMFD names
(fusermount(1) of libfuse 2 and 3).
"""

import array
import ctypes
import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

from taskfs.errors import MountError
from taskfs.fuse.engine import SUBTYPE, MountOptions
from taskfs.fuse.fusermount import FUSE_DEVICE, find_fusermount, run_fusermount
from taskfs.fuse.mount_errors import explain

_SOCKET_VARIABLE: Final = "_FUSE_COMMFD"
_DESCRIPTOR_SIZE: Final = array.array("i").itemsize
# sys/mount.h
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8


def mount_device(mountpoint: str, options: MountOptions) -> int:
    """Mount on *mountpoint* and return the descriptor of the device, which children do not inherit.

    Raises:
        MountError: why it cannot be mounted, in one line with the fix.
    """
    try:
        if os.geteuid() == 0:
            try:
                return _mount_directly(mountpoint, options)
            except PermissionError as exc:
                # A container may keep CAP_SYS_ADMIN from root and still have a working fusermount.
                if find_fusermount() is None:
                    raise MountError(f"mount failed: {exc.strerror}") from exc
        return _mount_with_fusermount(mountpoint, options)
    except MountError as exc:
        raise MountError(explain(str(exc), mountpoint) or str(exc)) from exc


def _mount_directly(mountpoint: str, options: MountOptions) -> int:
    try:
        device = os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise MountError(f"failed to open {FUSE_DEVICE}: {exc.strerror}") from exc
    try:
        mode = os.stat(mountpoint).st_mode & 0o170000
        data = ",".join(
            (
                *(f"fd={device}", f"rootmode={mode:o}"),
                *(f"user_id={os.getuid()}", f"group_id={os.getgid()}"),
                *_kernel_options(options),
            )
        )
        flags = _MS_NOSUID | _MS_NODEV
        flags |= _MS_RDONLY if options.read_only else 0
        flags |= _MS_NOEXEC if options.noexec else 0
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.mount(
            os.fsencode(options.fsname),
            os.fsencode(mountpoint),
            f"fuse.{SUBTYPE}".encode(),
            ctypes.c_ulong(flags),
            os.fsencode(data),
        )
        if failed:
            number = ctypes.get_errno()
            if number == errno.EPERM:
                raise PermissionError(number, os.strerror(number))
            raise MountError(f"mount failed: {os.strerror(number)}")
    except BaseException:
        os.close(device)
        raise
    return device


def _mount_with_fusermount(mountpoint: str, options: MountOptions) -> int:
    words = ["nosuid", "nodev", f"fsname={options.fsname}", f"subtype={SUBTYPE}"]
    words += ["ro"] if options.read_only else []
    words += ["noexec"] if options.noexec else []
    words += _kernel_options(options)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        number = theirs.fileno()
        run_fusermount(
            *("-o", ",".join(words), "--", mountpoint),
            pass_fds=(number,),
            environment={**os.environ, _SOCKET_VARIABLE: str(number)},
        )
        theirs.close()  # otherwise the read below would never see an end
        return _receive_descriptor(ours)


def _kernel_options(options: MountOptions) -> Iterator[str]:
    """Yield the options of the FUSE file system itself (Documentation/filesystems/fuse.rst)."""
    yield "default_permissions"
    if options.allow_other or options.allow_root:  # the session refuses others than root
        yield "allow_other"


def _receive_descriptor(channel: socket.socket) -> int:
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(_DESCRIPTOR_SIZE))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            device = array.array("i", data[:_DESCRIPTOR_SIZE])[0]
            os.set_inheritable(device, False)
            return device
    raise MountError("fusermount sent no descriptor")
