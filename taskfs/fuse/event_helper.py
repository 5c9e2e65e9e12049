"""A separate program: makes the calls on a mount for which the kernel sends inotify events.

taskfs runs this file's text as `python -I -S -c`; see `helper_process`. It imports nothing of
taskfs, to start fast.

Standard input is a socket whose messages are one call each: the device of the mount, the name of
the call, the mountpoint, the path in it and the target of a link, separated by NUL. The answer is
the errno in decimal, 0 for success. The program ends with the socket.
"""

import contextlib
import errno
import os
import time

LONGEST = 1 << 16  # bytes of a message: two paths of PATH_MAX and more


def touch(path: str, root: int, *, both: bool) -> None:
    """Set the modification time, which is IN_MODIFY, or *both* times, which is IN_ATTRIB.

    The daemon ignores the values.
    """
    # UTIME_OMIT of utimensat(2), which os.utime(3) cannot express, needs the C function.
    import ctypes

    class Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    omit, no_follow = (1 << 30) - 2, 0x100
    now = Timespec(int(time.time()), 0)
    times = (Timespec * 2)(now if both else Timespec(0, omit), now)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.utimensat(root, os.fsencode(path), times, no_follow):
        raise OSError(ctypes.get_errno(), path)


def close_written(path: str, root: int) -> None:
    """Open the file for writing and close it: IN_CLOSE_WRITE, for which some programs wait."""
    with contextlib.suppress(PermissionError):  # with --umask the owner may not write
        os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root))


def call(device: str, name: str, mountpoint: str, path: str, target: str) -> int:
    """Make one call below *mountpoint*, and return its errno.

    Nothing happens if another file system is there by now: ENODEV. The descriptor of the mount is
    closed right after the call, because it makes the mount busy.
    """
    try:
        root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            number = os.fstat(root).st_dev
            if f"{os.major(number)}:{os.minor(number)}" != device:
                return errno.ENODEV
            relative = path or "."
            if name in ("modify", "attrib"):
                touch(relative, root, both=name == "attrib")
                if name == "modify":
                    close_written(relative, root)
            elif name == "mkdir":
                os.mkdir(relative, dir_fd=root)
            elif name == "mknod":
                os.mknod(relative, 0o100644, dir_fd=root)
            elif name == "symlink":
                os.symlink(target, relative, dir_fd=root)
            elif name == "rmdir":
                os.rmdir(relative, dir_fd=root)
            elif name == "unlink":
                os.unlink(relative, dir_fd=root)
            else:
                return errno.ENOSYS
        finally:
            os.close(root)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0


def main() -> None:
    """Serve calls until the socket ends."""
    os.chdir("/")
    while message := os.read(0, LONGEST):
        device, name, mountpoint, path, target = map(os.fsdecode, message.split(b"\0"))
        os.write(0, str(call(device, name, mountpoint, path, target)).encode())


if __name__ == "__main__":
    main()
