"""The reader process: one request per line of its input, one answer per line of its output.

It runs under the interpreter of taskfs or of the peers, so it imports neither. A view reads through
a file system (`Files`) or a library (`RemoteZips`, `PublicClient`). Its methods are the requests;
each returns the value by which the caller checks the bytes. Times are CLOCK_MONOTONIC, in seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final

try:
    from zlib_ng.zlib_ng import crc32  # ten times as fast, so that the check costs little
except ImportError:
    from zlib import crc32

TOP: Final = "artifacts/"
PIECE: Final = 1 << 20


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def checksum(file: Any) -> tuple[int, int]:
    """Return the number of bytes from the current position to the end, and their CRC-32."""
    buffer = memoryview(bytearray(PIECE))
    size = crc = 0
    while count := file.readinto(buffer):
        crc = crc32(buffer[:count], crc)
        size += count
    return size, crc


class Files:
    """Reads below a directory, with the system's programs where possible."""

    def __init__(self, root: str, scratch: str) -> None:
        self._root = Path(root)
        self._listing = Path(scratch, "listing")
        self._open: dict[str, int] = {}

    def find(self) -> _Deferred:
        """Return the number of files that `find -ls` shows, and the sum of their sizes."""
        with self._listing.open("wb") as out:
            _run("find", str(self._root), "-ls", out=out)
        return _Deferred(self._sum_listing)

    def _sum_listing(self) -> tuple[int, int]:
        count = total = 0
        with self._listing.open() as lines:
            for line in lines:
                fields = line.split(maxsplit=7)
                if fields[2].startswith("-"):
                    count += 1
                    total += int(fields[6])
        return count, total

    def ls(self) -> int:
        """Return the number of names that `ls` prints."""
        return len(_output("ls", str(self._root)).splitlines())

    def stat(self, names: Sequence[str]) -> int:
        """Return the sum of the sizes that stat(2) reports, asked for name by name."""
        return sum(os.stat(f"{self._root}/{name}").st_size for name in names)

    def drop_names(self) -> None:
        """Have the kernel forget all names and attributes; this needs root."""
        Path("/proc/sys/vm/drop_caches").write_text("2")
        time.sleep(1)  # until each file system was notified

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def ripgrep(self, needle: str) -> int:
        """Return the number of files in which `rg -j2` finds *needle*."""
        return len(_output("rg", "-j2", "-lF", needle, str(self._root)).splitlines())

    def head(self, name: str) -> str:
        """Return the SHA-256 of the output of `head`."""
        return sha256(_output("head", str(self._root / name)))

    def read(self, name: str, windows: Sequence[tuple[int, int]], reopen: bool) -> list[str]:
        """Return the SHA-256 of each window (offset, size) of a file that stays open."""
        if reopen and name in self._open:
            os.close(self._open.pop(name))
        if name not in self._open:
            self._open[name] = os.open(self._root / name, os.O_RDONLY)
        return [sha256(os.pread(self._open[name], size, offset)) for offset, size in windows]

    def cat(self, name: str) -> tuple[int, int]:
        """Read a whole file, 1 MiB at a time; return its size and CRC-32."""
        with (self._root / name).open("rb", buffering=0) as file:
            return checksum(file)

    def each(self, names: Sequence[str], workers: int) -> list[tuple[int, int]]:
        """Read whole files, *workers* at a time in the order given, as `xargs -P` does."""
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(self.cat, names))

    def starts(self, names: Sequence[str], size: int) -> list[str]:
        """Return the SHA-256 of the first *size* bytes of each file, one file after another."""
        found = []
        for name in names:
            with (self._root / name).open("rb", buffering=0) as file:
                found.append(sha256(file.read(size)))
        return found

    def grep(self, needle: str) -> int:
        """Return the number of files in which `grep -r` finds *needle*."""
        return len(_output("grep", "-rlF", needle, str(self._root)).splitlines())

    def close(self) -> None:
        for file in self._open.values():
            os.close(file)


class RemoteZips:
    """Reads through PyPI `remotezip`: the archive stays open, members are streams."""

    def __init__(self, url: str, scratch: str) -> None:
        from remotezip import RemoteZip  # type: ignore[import-not-found, unused-ignore]

        self._make: Callable[[], zipfile.ZipFile] = lambda: RemoteZip(url)
        self._archive = self._make()
        self._open: dict[str, IO[bytes]] = {}

    def find(self) -> tuple[int, int]:
        files = [entry for entry in self._archive.infolist() if not entry.is_dir()]
        return len(files), sum(entry.file_size for entry in files)

    def ls(self) -> int:
        names = {name.removeprefix(TOP).partition("/")[0] for name in self._archive.namelist()}
        return len(names - {""})

    def stat(self, names: Sequence[str]) -> int:
        return sum(self._archive.getinfo(TOP + name).file_size for name in names)

    def head(self, name: str) -> str:
        with self._archive.open(TOP + name) as file:
            return sha256(b"".join(file.readline() for _ in range(10)))

    def read(self, name: str, windows: Sequence[tuple[int, int]], reopen: bool) -> list[str]:
        if reopen and name in self._open:
            self._open.pop(name).close()
        if name not in self._open:
            self._open[name] = self._archive.open(TOP + name)
        found = []
        for offset, size in windows:
            self._open[name].seek(offset)
            found.append(sha256(self._open[name].read(size)))
        return found

    def cat(self, name: str) -> tuple[int, int]:
        with self._archive.open(TOP + name) as file:
            return checksum(file)

    def each(self, names: Sequence[str], workers: int) -> list[tuple[int, int]]:
        # An archive object is for one thread: each opens its own and reads the directory again.
        local = threading.local()

        def read(name: str) -> tuple[int, int]:
            if not hasattr(local, "archive"):
                local.archive = self._make()
            with local.archive.open(TOP + name) as file:
                return checksum(file)

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(read, names))

    def starts(self, names: Sequence[str], size: int) -> list[str]:
        found = []
        for name in names:
            with self._archive.open(TOP + name) as file:
                found.append(sha256(file.read(size)))
        return found

    def grep(self, needle: str) -> int:
        return _grep(self._archive, needle)

    def close(self) -> None:
        self._archive.close()


class PublicClient:
    """Reads as the public client (PyPI `inductiva` 0.18.12) downloads some files of a task.

    Its `utils.data._download_partial_files` opens the URL with fsspec and writes the result of
    `ZipFile.open(name).read()`, a whole member, to a file. This view then reads that file.
    """

    def __init__(self, url: str, scratch: str) -> None:
        import fsspec  # type: ignore[import-untyped, import-not-found, unused-ignore]

        self._url = url
        self._files = fsspec.filesystem("http")
        self._local = Files(scratch, scratch)
        self._scratch = Path(scratch)

    def _extract(self, names: Iterable[str]) -> None:
        with self._files.open(self._url, "rb") as remote, zipfile.ZipFile(remote) as archive:
            for name in names:
                with archive.open(TOP + name) as source:
                    target = self._scratch / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as file:
                        file.write(source.read())

    def find(self) -> tuple[int, int]:
        with self._files.open(self._url, "rb") as remote, zipfile.ZipFile(remote) as archive:
            files = [entry for entry in archive.infolist() if not entry.is_dir()]
            return len(files), sum(entry.file_size for entry in files)

    def ls(self) -> int:
        with self._files.open(self._url, "rb") as remote, zipfile.ZipFile(remote) as archive:
            names = {name.removeprefix(TOP).partition("/")[0] for name in archive.namelist()}
            return len(names - {""})

    def stat(self, names: Sequence[str]) -> int:
        with self._files.open(self._url, "rb") as remote, zipfile.ZipFile(remote) as archive:
            return sum(archive.getinfo(TOP + name).file_size for name in names)

    def head(self, name: str) -> str:
        self._extract([name])
        return self._local.head(name)

    def read(self, name: str, windows: Sequence[tuple[int, int]], reopen: bool) -> list[str]:
        if not (self._scratch / name).exists():
            self._extract([name])
        return self._local.read(name, windows, reopen)

    def cat(self, name: str) -> tuple[int, int]:
        self._extract([name])
        return self._local.cat(name)

    def each(self, names: Sequence[str], workers: int) -> list[tuple[int, int]]:
        self._extract(names)
        return self._local.each(names, workers)

    def starts(self, names: Sequence[str], size: int) -> list[str]:
        self._extract(names)
        return self._local.starts(names, size)

    def grep(self, needle: str) -> int:
        with self._files.open(self._url, "rb") as remote, zipfile.ZipFile(remote) as archive:
            return _grep(archive, needle)

    def close(self) -> None:
        self._local.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


class _Deferred:
    """A value that is computed after the time was taken."""

    def __init__(self, value: Callable[[], Any]) -> None:
        self.value = value


def _output(*command: str) -> bytes:
    return _run(*command, out=subprocess.PIPE)


def _run(*command: str, out: Any) -> bytes:
    """Run a program; return its output if *out* is a pipe. On failure raise its last error line."""
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines() or ["no output"]
        raise RuntimeError(lines[-1])
    return done.stdout or b""


def _grep(archive: zipfile.ZipFile, needle: str) -> int:
    names = [name for name in archive.namelist() if not name.endswith("/")]
    return sum(needle.encode() in archive.read(name) for name in names)


VIEWS: Final = {"files": Files, "remotezip": RemoteZips, "client": PublicClient}


def main() -> None:
    """Serve the requests of standard input: `["open", view, root or URL, scratch]`, then calls."""
    view: Any = None
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            value: Any = None
            if name == "open":
                view = VIEWS[arguments[0]](*arguments[1:])
            elif name != "ready":
                value = getattr(view, name)(*arguments)
            stopped = time.monotonic()
            if isinstance(value, _Deferred):
                value = value.value()
            answer = {"stopped": stopped, "value": value}
        except Exception as exc:
            answer = {"stopped": time.monotonic(), "error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
