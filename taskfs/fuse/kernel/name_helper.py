"""A separate program: reads directories of a mount, so that the kernel has their next names.

taskfs runs this file's text as `python -I -S -c`; see `fuse.helper_process`. It imports nothing of
taskfs, to start fast.

Standard input is a socket whose messages are one directory each: the device of the mount, the
mountpoint and the path in it, separated by NUL. The program ends with the socket, and once there
was no message for a while.
"""

import contextlib
import ctypes
import os
import select

LONGEST = 1 << 16  # bytes of a message: two paths of PATH_MAX and more
# Bytes of names that the kernel asks the daemon for at once: some 400. Others wait some 2 ms
# meanwhile. Shorter pieces come later on a busy machine than the program needs them.
PIECE = 64 << 10
IDLE_S = 30.0  # without a message


def read(device: str, mountpoint: str, path: str) -> None:
    """Read the directory at *path* below *mountpoint*, if *device* is still mounted there.

    The descriptors are closed right after it, because they make the mount busy.
    """
    root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = os.fstat(root).st_dev
        if f"{os.major(number)}:{os.minor(number)}" != device:
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(path, flags, dir_fd=root)
    finally:
        os.close(root)
    try:
        # os.listdir(3) would make an object of each name.
        getdents, buffer = ctypes.CDLL(None).getdents64, ctypes.create_string_buffer(PIECE)
        while getdents(directory, buffer, ctypes.c_size_t(PIECE)) > 0:
            pass
    finally:
        os.close(directory)


def main() -> None:
    """Read the directories that are named, until the socket ends or nothing comes."""
    os.chdir("/")
    while select.select([0], [], [], IDLE_S)[0] and (message := os.read(0, LONGEST)):
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: an old C library
            read(*map(os.fsdecode, message.split(b"\0")))


if __name__ == "__main__":
    main()
