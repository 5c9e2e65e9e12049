"""The shortest time to inflate the large member: with isal alone, and through `minimal_mount`.

Run as a program by the peers' interpreter, which has isal: PATH START SIZE. It prints the seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path
from queue import Queue

_MINIMAL_MOUNT = Path(__file__).with_name("minimal_mount.py")

from_reader: Queue[bytes] = Queue(8)


def _feed(path: str, start: int, size: int) -> None:
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        while size:
            piece = file.read(min(1 << 18, size))
            from_reader.put(piece)
            size -= len(piece)
    from_reader.put(b"")


def _inflate(path: str, start: int, size: int) -> float:
    from isal import isal_zlib  # type: ignore[import-not-times, import-untyped, unused-ignore]

    began = time.monotonic()
    threading.Thread(target=_feed, args=(path, start, size), daemon=True).start()
    decoder = isal_zlib.decompressobj(-15)
    while piece := from_reader.get():
        decoder.decompress(piece)
    return time.monotonic() - began


def _locate(path: Path, member: str) -> tuple[int, int, int]:
    """Return the offset of the member's packed bytes, their number, and the unpacked size."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + lengths, entry.compress_size, entry.file_size


def measure(python: Path, path: Path, member: str, repeats: int = 3) -> float | None:
    """Return the shortest of *repeats* times to inflate *member*, in seconds; None without isal."""
    start, packed, _ = _locate(path, member)
    command = [str(python), __file__, str(path), str(start), str(packed)]
    times = []
    for _ in range(repeats):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        times.append(float(done.stdout))
    return min(times)


def measure_mounted(path: Path, member: str, repeats: int = 3) -> float | None:
    """Return the shortest of *repeats* times to read *member* through `minimal_mount`.

    Mounting does not count. Return None if it cannot be mounted.
    """
    from .machine import (  # not importable when run as a program
        NotMounted,
        TooSlow,
        mounted,
        sync_and_pause,
    )

    numbers = [str(number) for number in _locate(path, member)]
    times = []
    for _ in range(repeats):
        sync_and_pause()
        with tempfile.TemporaryDirectory() as folder:
            mountpoint = Path(folder, "mount")
            command = [sys.executable, str(_MINIMAL_MOUNT), str(path), *numbers, str(mountpoint)]
            try:
                with mounted(command, mountpoint, os.environ, Path(folder, "log"), 30):
                    began = time.monotonic()
                    buffer = bytearray(1 << 20)
                    with open(mountpoint / "member", "rb", buffering=0) as file:
                        while file.readinto(buffer):
                            pass
                    times.append(time.monotonic() - began)
            except (NotMounted, TooSlow, OSError):
                return None
    return min(times)


if __name__ == "__main__":
    print(_inflate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
