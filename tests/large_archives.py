"""Archives of up to millions of small members, written without an object for each."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from taskfs.demo.sources import FileSource
from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO
from tests.zips import build

TOP: Final = "artifacts/"
FIELDS: Final = 100  # files of one directory
TIMES: Final = 500  # directories of one processor
# Times as 7-Zip writes them, all 2022-06-18.
_NTFS: Final = struct.pack("<HHIHH3Q", 0x0A, 32, 0, 1, 24, *[133_000_000_000_000_000] * 3)
_STRIDE: Final = 10_000  # members that are written at once


def name_of(number: int) -> str:
    """Return the path of a member, like those of a parallel case: processor, time, field."""
    directory, field = divmod(number, FIELDS)
    processor, time = divmod(directory, TIMES)
    return f"processor{processor}/{time}/field{field:03}"


def body_of(number: int) -> bytes:
    return b"%d\n" % number


def count_entries(members: int) -> int:
    """Return the number of files and directories beneath the top."""
    directories = -(-members // FIELDS)
    return members + directories + -(-directories // TIMES)


def directory_pieces(members: int, at: int = 0) -> Iterator[bytes]:
    """Yield the central directory in pieces; the first local header is at *at*."""
    for start in range(0, members, _STRIDE):
        piece = bytearray()
        for number in range(start, min(start + _STRIDE, members)):
            name, body = (TOP + name_of(number)).encode(), body_of(number)
            sizes = zlib.crc32(body), len(body), len(body), len(name), len(_NTFS)
            piece += struct.pack(
                "<4s6H3L5H2L",
                *(b"PK\1\2", 0x033F, 20, 0, 0, 0x4000, 0x5ACC, *sizes, 0, 0, 0, 0o100644 << 16, at),
            )
            piece += name + _NTFS
            at += 30 + len(name) + len(body)
        yield bytes(piece)


def _local_pieces(members: int) -> Iterator[bytes]:
    for start in range(0, members, _STRIDE):
        piece = bytearray()
        for number in range(start, min(start + _STRIDE, members)):
            name, body = (TOP + name_of(number)).encode(), body_of(number)
            fields = 20, 0, 0, 0x4000, 0x5ACC, zlib.crc32(body), len(body), len(body), len(name), 0
            piece += struct.pack("<4s5H3L2H", b"PK\3\4", *fields) + name + body
        yield bytes(piece)


def write_archive(path: Path, members: int) -> int:
    """Write an archive of *members* stored members; return the length of its directory."""
    with path.open("wb") as file:
        file.writelines(_local_pieces(members))
        start = file.tell()
        file.writelines(directory_pieces(members))
        stop = file.tell()
        size = stop - start
        counts = 44, 45, 45, 0, 0, members, members, size, start
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", *counts))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, stop, 1))
        wide = 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", *wide))
    return size


def add_large_task(cloud: FakeCloud, path: Path, members: int) -> str:
    """Add a finished task whose outputs are such an archive, written to *path*; return its id."""
    write_archive(path, members)
    task = cloud.add_task(end_time=LONG_AGO, metrics={"output_total_files": members})
    cloud.put_object(f"{task}/output.zip", FileSource(path))
    return task


class OversizedArchive:
    """An object whose end record says that its directory is longer than one may be."""

    def __init__(self) -> None:
        self._end = build([], zip64=True, end64={"size": (1 << 30) + 1, "offset": 0})
        self.size = (1 << 30) + (1 << 20)

    def read(self, start: int, stop: int) -> bytes:
        zeros = self.size - len(self._end)
        end = self._end[max(0, start - zeros) : max(0, stop - zeros)]
        return bytes(max(0, min(stop, zeros) - start)) + end
