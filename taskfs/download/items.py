"""The two things a download fetches: a member of an archive, and an archive itself."""

import os
import zlib
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from taskfs.archive.archive import Archive
from taskfs.archive.member import Member
from taskfs.download.destination import Destination, file_name, lock
from taskfs.download.run import DownloadRun
from taskfs.errors import CorruptData
from taskfs.support.checksum import crc32
from taskfs.support.chunks import read_chunks

# Bytes at the end of an archive that are compared to recognise it: they hold all of a usual
# central directory, and with it the CRC-32 of every member.
COMPARED_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class MemberDownload:
    """Downloads one member of an archive as a file.

    It holds the member's position and not the member, because there may be millions.
    """

    archive: Archive
    position: int  # in the index
    destination: Destination
    has_case_variant: bool = False  # the name of another member differs only in case

    @property
    def member(self) -> Member:
        """The member, read from the index."""
        return self.archive.index.members[self.position]

    @property
    def directory(self) -> Path:
        return self.destination.path

    @property
    def path(self) -> Path:
        return self.directory / self.member.path

    @property
    def remaining_bytes(self) -> int:
        return self.member.size

    def download(self, run: DownloadRun) -> None:
        member = self.member
        parent, _, name = member.path.rpartition("/")
        with self.destination.folder(parent, create=True) as folder:
            run.create_file(
                folder,
                file_name(name),
                lambda stream: self._fill(stream, member, run),
                has_case_variant=self.has_case_variant,
            )

    def _fill(self, stream: FileIO, member: Member, run: DownloadRun) -> None:
        try:
            self._copy(stream, member, run)
        except CorruptData:
            # The error has dropped the cached blocks. If the network damaged them, and not the
            # archive, a second attempt succeeds.
            run.count(-stream.tell())
            stream.seek(0)
            stream.truncate()
            self._copy(stream, member, run)
        run.set_time(stream, member.mtime_ns)

    def _copy(self, stream: FileIO, member: Member, run: DownloadRun) -> None:
        reader = self.archive.open_member(member)
        crc = 0
        try:
            for chunk in read_chunks(reader.read_at, 0, member.size):
                run.write(stream, chunk)
                crc = crc32(chunk, crc)
        finally:
            reader.close()
        if crc != member.crc32:
            raise CorruptData("the checksum does not match: the archive is damaged")


@dataclass(frozen=True, slots=True)
class ArchiveDownload:
    """Downloads an archive unchanged. The next run continues an interrupted download."""

    archive: Archive
    directory: Path
    name: str

    @property
    def path(self) -> Path:
        return self.directory / self.name

    @property
    def remaining_bytes(self) -> int:
        try:
            return max(0, self.archive.size - self.partial_path.stat().st_size)
        except OSError:  # there is no partial file, or an unreadable one
            return self.archive.size

    @property
    def partial_path(self) -> Path:
        """The partial file. Its name contains the version, so two versions never mix."""
        version = self.archive.version
        digest = zlib.crc32(f"{version.size} {version.etag}".encode())
        return self.directory / f".{self.name}.{digest:08x}.part"

    def is_complete(self) -> bool:
        """Whether the finished file exists: its size and its last bytes are the archive's."""
        start = max(0, self.archive.size - COMPARED_BYTES)
        try:
            with open(self.path, "rb") as stream:
                if os.fstat(stream.fileno()).st_size != self.archive.size:
                    return False
                stream.seek(start)
                tail = stream.read()
        except FileNotFoundError:
            return False
        return tail == self.archive.read_raw(start, self.archive.size - start)

    def download(self, run: DownloadRun) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self.partial_path, flags, 0o666), "wb", buffering=0) as stream:
            lock(stream)
            start = min(stream.seek(0, os.SEEK_END), self.archive.size)
            stream.seek(start)
            stream.truncate()
            reader = self.archive.open_raw()
            try:
                for chunk in read_chunks(reader.read_at, start, self.archive.size):
                    run.write(stream, chunk)
            finally:
                reader.close()
        os.replace(self.partial_path, self.path)
        for other_version in self.directory.glob(f".{self.name}.????????.part"):
            other_version.unlink(missing_ok=True)
