"""The archives of the benchmark, created once per scale and cached with a description."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, overload

from tests.large_archives import body_of, name_of, write_archive

from .content import Content

FORMAT: Final = 1  # of the cached archives; increase it to create them again
TOP: Final = "artifacts/"
NEEDLE: Final = "diverged-at-cell"
_NEEDLE_EVERY: Final = 500
_MTIME: Final = 1_749_715_200  # 2025-06-12 08:00 UTC
_DATE: Final = (2025, 6, 12, 8, 0, 0)
_SMALL_BYTES: Final = 1850
_VTK_BYTES: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive, without the leading `artifacts/`; sizes in bytes."""

    name: str
    size: int
    compressed: int
    crc: int


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive on disk and its members.

    *directory* is the number of bytes from the central directory to the end of the file.
    """

    name: str
    path: Path
    size: int
    directory: int
    encoder: str
    members: Sequence[Member]

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)


class NumberedMembers(Sequence[Member]):
    """The members of an archive of `tests.large_archives`, each made when it is needed."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> Member: ...
    @overload
    def __getitem__(self, position: slice) -> list[Member]: ...
    def __getitem__(self, position: int | slice) -> Member | list[Member]:
        if isinstance(position, slice):
            return [self[number] for number in range(*position.indices(self._count))]
        number = range(self._count)[position]
        body = body_of(number)
        return Member(name_of(number), len(body), len(body), zlib.crc32(body))

    def __iter__(self) -> Iterator[Member]:
        return map(self.__getitem__, range(self._count))


Files = Mapping[str, Content | bytes]


def big_files(scale: float) -> Files:
    """Return the files of `big`: a large one to deflate, a large one to store, a small log."""
    return {
        "results.dat": Content("results", int((1 << 30) * scale)),
        "restart.bin": Content("restart", int((1 << 29) * scale), "binary"),
        "run.log": Content("log", 6_000),
    }


def many_files(scale: float) -> Files:
    """Return 50,000 small texts; a few contain `NEEDLE`."""
    files: dict[str, Content | bytes] = {}
    for number in range(max(100, int(50_000 * scale))):
        text = Content(f"probe {number}", _SMALL_BYTES, phase=number * 1_999 % 4_000_000)
        if number % _NEEDLE_EVERY == 0:
            files[_probe(number)] = text.read(0, _SMALL_BYTES) + f"\n{NEEDLE} {number}\n".encode()
        else:
            files[_probe(number)] = text
    return files


def _probe(number: int) -> str:
    return f"probe_{number:05d}_step_{number * 20:07d}.dat"


def mixed_files(scale: float) -> Files:
    """Return 300 VTK files of about 2 MB."""
    files = {}
    for number in range(max(16, int(300 * scale))):
        size = _VTK_BYTES + number * 7_919 % 200_000 - 100_000
        files[f"vtk/fluid_{number:04d}.vtk"] = Content(
            f"vtk {number}", size, phase=number * 13_331 % 4_000_000
        )
    return files


# The archives by name. 7zz writes them, except those of `_BY_ZIPFILE`; the members in `_STORED` are
# not compressed.
FILES: Final[dict[str, Callable[[float], Files]]] = {
    "big": big_files,
    "many": many_files,
    "mixed": mixed_files,
}
# An archive of a million small members; a short program writes it.
MILLION: Final = "million"
_STORED: Final = frozenset({"restart.bin"})
_BY_ZIPFILE: Final = frozenset({"many"})


def open_archive(name: str, scale: float, cache: Path) -> Archive:
    """Return an archive of `FILES`, or `MILLION`; create it in *cache* if it is missing."""
    folder = cache / "archives" / f"v{FORMAT}-{scale:g}"
    path, description = folder / f"{name}.zip", folder / f"{name}.json"
    if name == MILLION:
        folder.mkdir(parents=True, exist_ok=True)
        members = NumberedMembers(max(1000, int(1_000_000 * scale)))
        directory = write_archive(path, len(members))
        return Archive(name, path, path.stat().st_size, directory, "tests.large_archives", members)
    if not description.exists():
        folder.mkdir(parents=True, exist_ok=True)
        created = _create(name, FILES[name](scale), path)
        part = description.with_suffix(".part")
        part.write_text(json.dumps(asdict(created), default=str))
        part.replace(description)
    loaded = json.loads(description.read_text())
    loaded["path"] = path
    loaded["members"] = tuple(Member(**member) for member in loaded["members"])
    return Archive(**loaded)


def _create(name: str, files: Files, path: Path) -> Archive:
    path.unlink(missing_ok=True)
    packer = None if name in _BY_ZIPFILE else shutil.which("7zz") or shutil.which("7z")
    if packer:
        _pack_by_7zip(packer, files, path)
    else:
        _pack_by_zipfile(files, path)
    return _describe(name, path, "7zz -mx=1" if packer else "Python zipfile, level 1", files)


def _pack_by_7zip(packer: str, files: Files, path: Path) -> None:
    """Pack as the service does, from files in a temporary directory."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        for name, content in files.items():
            target = Path(scratch, TOP, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for piece in _pieces(content):
                    file.write(piece)
            os.utime(target, (_MTIME, _MTIME))
        for stored in (True, False):
            names = [TOP + name for name in files if (name in _STORED) is stored]
            if names:
                level = "-mx=0" if stored else "-mx=1"
                command = [packer, "a", "-tzip", level, "-bd", str(path), *names]
                subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)


def _pack_by_zipfile(files: Files, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as target:
        for name, content in files.items():
            entry = zipfile.ZipInfo(TOP + name, _DATE)
            entry.compress_type = zipfile.ZIP_STORED if name in _STORED else zipfile.ZIP_DEFLATED
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry._compresslevel = 1  # type: ignore[attr-defined]  # renamed in 3.13; the old name still works
            entry.file_size = sum(len(piece) for piece in _pieces(content))
            with target.open(entry, "w") as file:
                for piece in _pieces(content):
                    file.write(piece)


def _pieces(content: Content | bytes) -> Iterable[bytes]:
    return [content] if isinstance(content, bytes) else content.pieces()


def _describe(name: str, path: Path, encoder: str, files: Files) -> Archive:
    """Return the description; raise RuntimeError if the packed members are wrong."""
    with zipfile.ZipFile(path) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        directory = path.stat().st_size - archive.start_dir
    members = tuple(
        Member(e.filename.removeprefix(TOP), e.file_size, e.compress_size, e.CRC) for e in entries
    )
    wrong = {m.name for m in members if m.crc != _crc(files[m.name])} | (
        {m.name for m in members} ^ files.keys()
    )
    if wrong:
        raise RuntimeError(f"{path}: wrong member {min(wrong)}")
    return Archive(name, path, path.stat().st_size, directory, encoder, members)


def _crc(content: Content | bytes) -> int:
    crc = 0
    for piece in _pieces(content):
        crc = zlib.crc32(piece, crc)
    return crc
