"""How long inflating the large member takes: isal, fed by a thread that reads the file; alone, and
read through a fusepy mount that does nothing else (`bare`).

A program of its own, run by the peers' interpreter, which has isal: PATH START SIZE, and it prints
the seconds.
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

_BARE = Path(__file__).with_name("bare.py")

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
    from isal import isal_zlib  # type: ignore[import-not-found, import-untyped, unused-ignore]

    began = time.monotonic()
    threading.Thread(target=_feed, args=(path, start, size), daemon=True).start()
    decoder = isal_zlib.decompressobj(-15)
    while piece := from_reader.get():
        decoder.decompress(piece)
    return time.monotonic() - began


def _locate(path: Path, member: str) -> tuple[int, int, int]:
    """Return where the member's bytes begin in the archive, how many they are, and unpacked."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + 30 + lengths, entry.compress_size, entry.file_size


def measure(python: Path, path: Path, member: str, repeats: int = 3) -> float | None:
    """Return the best of some seconds for *member* of the archive at *path*; None without isal."""
    start, packed, _ = _locate(path, member)
    command = [str(python), __file__, str(path), str(start), str(packed)]
    found = []
    for _ in range(repeats):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        found.append(float(done.stdout))
    return min(found)


def measure_mounted(path: Path, member: str, repeats: int = 3) -> float | None:
    """Return the best of some seconds for reading *member* through `bare`, the mount left out."""
    from .machine import NotMounted, TooSlow, mounted, settle  # not there for the program

    numbers = [str(number) for number in _locate(path, member)]
    found = []
    for _ in range(repeats):
        settle()
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder, "mount")
            command = [sys.executable, str(_BARE), str(path), *numbers, str(place)]
            try:
                with mounted(command, place, os.environ, Path(folder, "log"), 30):
                    began = time.monotonic()
                    buffer = bytearray(1 << 20)
                    with open(place / "member", "rb", buffering=0) as file:
                        while file.readinto(buffer):
                            pass
                    found.append(time.monotonic() - began)
            except (NotMounted, TooSlow, OSError):
                return None
    return min(found)


if __name__ == "__main__":
    print(_inflate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
