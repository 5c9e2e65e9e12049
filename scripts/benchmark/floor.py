"""How long inflating the large member alone takes: isal, fed by a thread that reads the file.

A program of its own, run by the peers' interpreter, which has isal: PATH START SIZE, and it prints
the seconds.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from queue import Queue

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


def measure(python: Path, path: Path, member: str, repeats: int = 3) -> float | None:
    """Return the best of some seconds for *member* of the archive at *path*; None without isal."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(member)
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    start = entry.header_offset + 30 + lengths
    command = [str(python), __file__, str(path), str(start), str(entry.compress_size)]
    found = []
    for _ in range(repeats):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        found.append(float(done.stdout))
    return min(found)


if __name__ == "__main__":
    print(_inflate(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
