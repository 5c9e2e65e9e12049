"""`SpillFile`: bytes that are appended and read back, in a temporary file once they are many."""

import os
import tempfile
from pathlib import Path
from typing import Final

from taskfs.support.buffers import Buffer

# Bytes that are kept in memory; more take a file descriptor.
IN_MEMORY: Final = 1 << 20


class SpillFile:
    """Bytes in a temporary file without a name; in memory up to `IN_MEMORY` bytes, and if no file
    can be written. Not safe for concurrent use.

    The file lies in *directory*, or where the system keeps temporary files. Once the disk of
    *directory* is full, the content moves there, too.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._memory = bytearray()
        self._descriptor = -1
        self._can_spill = True
        self.size = 0

    def append(self, piece: Buffer) -> None:
        """Append *piece*."""
        written = self.size
        self.size += len(piece)
        if self._can_spill and self._descriptor < 0 and self.size > IN_MEMORY:
            self._spill()
        if self._descriptor < 0:
            self._memory += piece
            return
        try:
            write_all(self._descriptor, piece)
        except OSError:  # the disk is full
            self._move(written, piece)

    def __getitem__(self, part: slice) -> bytes:
        """Return a part of the content that was written so far."""
        if self._descriptor < 0:
            return bytes(self._memory[part])
        start, stop, _ = part.indices(self.size)
        return os.pread(self._descriptor, stop - start, start)

    def discard(self) -> None:
        """Close the file, which is then gone."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _create(self) -> int:
        """Return the descriptor of a new file.

        Raises:
            OSError: there can be none.
        """
        with tempfile.TemporaryFile(buffering=0, dir=self._directory) as file:
            return os.dup(file.fileno())

    def _spill(self) -> None:
        """Move the content from memory to a file, if one can be written."""
        while self._can_spill:
            try:
                self._descriptor = self._create()
                write_all(self._descriptor, self._memory)
            except OSError:
                self._leave_directory()
            else:
                self._memory.clear()
                return

    def _move(self, written: int, piece: Buffer) -> None:
        """Continue elsewhere with the first *written* bytes of the file, and *piece*."""
        with open(os.dup(self._descriptor), "rb", buffering=0) as full:
            self._leave_directory()
            if self._can_spill:
                try:
                    self._descriptor = self._create()
                    for at in range(0, written, IN_MEMORY):
                        count = min(IN_MEMORY, written - at)
                        write_all(self._descriptor, os.pread(full.fileno(), count, at))
                    return write_all(self._descriptor, piece)
                except OSError:
                    self._leave_directory()
            self._memory = bytearray(os.pread(full.fileno(), written, 0))
        self._memory += piece

    def _leave_directory(self) -> None:
        """Give up the file. The next one lies where the system keeps temporary files; if this one
        did, there is none."""
        self.discard()
        self._can_spill = self._directory is not None
        self._directory = None


def write_all(descriptor: int, piece: Buffer) -> None:
    """Write all of *piece*.

    Raises:
        OSError: the file takes no more.
    """
    with memoryview(piece) as view:
        at = 0
        while at < len(view):
            at += os.write(descriptor, view[at:])
