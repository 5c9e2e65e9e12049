"""The bytes of a key file, which may be a pipe, a terminal or standard input."""

import os
import stat
from pathlib import Path
from typing import Final

# A file that is no key file may be a device or a film.
MAX_BYTES: Final = 64 * 1024
_STDIN: Final = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")

# What came through a pipe, a terminal or standard input, by path: it comes only once.
_kept: dict[Path, bytes] = {}


def read_key_file(path: Path) -> bytes:
    """Return what *path* holds, at most MAX_BYTES; the first line if it is no regular file.

    What is no regular file is read once per process. Raises OSError.
    """
    if path in _kept:
        return _kept[path]
    is_stdin = str(path) in _STDIN
    # Standard input is not opened by its name, because that fails for a socket.
    with open(os.dup(0) if is_stdin else path, "rb") as stream:
        if not is_stdin and stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream.read(MAX_BYTES)
        _kept[path] = content = stream.readline(MAX_BYTES)
        return content
