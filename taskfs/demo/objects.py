"""The objects of the store: archives that are built on first use, and uploads by tests."""

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
    """One version of an object; *modified* in Unix seconds, *etag* strong and quoted."""

    source: ByteSource
    etag: str
    modified: float


class LazyArchive:
    """An archive that is built on first use and kept. Safe for concurrent use."""

    def __init__(self, build: Callable[[], BuiltArchive], modified: float) -> None:
        self._build = build
        self._modified = modified
        self._lock = threading.Lock()
        self._built: tuple[BuiltArchive, CloudObject] | None = None

    @property
    def archive(self) -> BuiltArchive:
        return self._built_once()[0]

    @property
    def stored(self) -> CloudObject:
        return self._built_once()[1]

    def _built_once(self) -> tuple[BuiltArchive, CloudObject]:
        with self._lock:
            if self._built is None:
                archive = self._build()
                self._built = archive, CloudObject(archive.source, _etag(archive), self._modified)
            return self._built


def _etag(archive: BuiltArchive) -> str:
    # The end of a ZIP holds its directory, with every CRC. A hash of it identifies the version,
    # also after a restart, and does not read all of a large archive.
    source = archive.source
    edge = source.read(max(0, source.size - _ETAG_EDGE_BYTES), source.size)
    return f'"{hashlib.sha256(b"%d:" % source.size + edge).hexdigest()[:32]}"'


class ObjectTable:
    """Objects by path. Safe for concurrent use: one lock guards the table, not the building."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._objects: dict[str, CloudObject | LazyArchive] = {}
        self._generation = count(1)

    def put(self, path: str, content: bytes | ByteSource) -> CloudObject:
        """Store *content* at *path*, replacing any earlier version."""
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
        """Remove the object at *path*, or all objects beneath a *path* that ends in `/`."""
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
        """Return the archive at *path* with its metrics; None unless the cloud built it."""
        with self._lock:
            found = self._objects.get(path)
        return found.archive if isinstance(found, LazyArchive) else None

    def paths(self) -> list[str]:
        with self._lock:
            return list(self._objects)
