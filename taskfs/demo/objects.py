"""The objects of the store: archives made when first asked for, and whatever a test puts there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from taskfs.demo.archives import BuiltArchive
from taskfs.demo.sources import ByteSource, BytesSource

_ETAG_EDGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class CloudObject:
    """One version of an object; *modified* in Unix seconds, *etag* strong and with its quotes."""

    source: ByteSource
    etag: str
    modified: float


class LazyArchive:
    """An archive built by the first who needs it, and kept. Safe for concurrent use."""

    def __init__(self, build: Callable[[], BuiltArchive], modified: float) -> None:
        self._build = build
        self._modified = modified
        self._lock = threading.Lock()
        self._built: tuple[BuiltArchive, CloudObject] | None = None

    @property
    def archive(self) -> BuiltArchive:
        return self._both()[0]

    @property
    def stored(self) -> CloudObject:
        return self._both()[1]

    def _both(self) -> tuple[BuiltArchive, CloudObject]:
        with self._lock:
            if self._built is None:
                archive = self._build()
                self._built = archive, CloudObject(archive.source, _etag(archive), self._modified)
            return self._built


def _etag(archive: BuiltArchive) -> str:
    # A ZIP ends with its directory, and that has every CRC: the end tells versions apart, after a
    # restart too, without reading the whole of a large one.
    source = archive.source
    edge = source.read(max(0, source.size - _ETAG_EDGE_BYTES), source.size)
    return f'"{hashlib.sha256(b"%d:" % source.size + edge).hexdigest()[:32]}"'


class ObjectTable:
    """Objects by path. Safe for concurrent use: one lock around the table, none while building."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, CloudObject | LazyArchive] = {}
        self._generation = count(1)

    def put(self, path: str, content: bytes | ByteSource) -> CloudObject:
        """Store *content* at *path*, as a new version if there is one already."""
        source = BytesSource(content) if isinstance(content, bytes) else content
        etag = f'"{next(self._generation):016x}"'
        stored = CloudObject(source, etag, self._clock())
        with self._lock:
            self._objects[path] = stored
        return stored

    def put_lazily(self, path: str, archive: LazyArchive) -> None:
        with self._lock:
            self._objects[path] = archive

    def remove(self, path: str) -> None:
        """Forget the object at *path*, or all objects beneath it where it ends in `/`."""
        with self._lock:
            under = [name for name in self._objects if path.endswith("/") and name.startswith(path)]
            for name in [path, *under]:
                self._objects.pop(name, None)

    def __contains__(self, path: object) -> bool:
        with self._lock:
            return path in self._objects

    def get(self, path: str) -> CloudObject | None:
        with self._lock:
            found = self._objects.get(path)
        return found.stored if isinstance(found, LazyArchive) else found

    def archive(self, path: str) -> BuiltArchive | None:
        """Return the archive the cloud itself made for *path*, with its metrics, if it did."""
        with self._lock:
            found = self._objects.get(path)
        return found.archive if isinstance(found, LazyArchive) else None

    def paths(self) -> list[str]:
        with self._lock:
            return list(self._objects)
