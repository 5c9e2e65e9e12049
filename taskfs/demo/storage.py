"""The storage calls of the API: presigned URLs, and the contents of archives."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web

from taskfs.demo.account import Account
from taskfs.demo.endpoint import CloudResponse, ErrorResponse, Route, json_response
from taskfs.demo.sources import ByteSource, SourceFile
from taskfs.demo.store import StoreEndpoint

_LOCAL_HEADER_BYTES: Final = 30


class StorageCalls:
    """The routes under `/storage`."""

    def __init__(self, account: Account, store: StoreEndpoint) -> None:
        self._account = account
        self._objects = account.objects
        self._store = store

    def routes(self) -> list[Route]:
        return [
            ("GET", "/storage/signed-urls", self._signed_urls),
            ("GET", "/storage/zip-contents", self._zip_contents),
            ("GET", "/storage/zip-file-range", self._zip_file_range),
            ("DELETE", "/storage/", self._delete),
        ]

    async def _signed_urls(self, request: web.Request) -> CloudResponse:
        paths = request.query.getall("paths", [])
        if not paths:
            raise _error_response(422, [{"loc": ["query", "paths"], "msg": "Field required"}])
        if request.query.get("operation") != "download":
            raise _error_response(403, "This cloud signs URLs for downloads only.")
        return json_response([self._store.signed_url(path) for path in paths])

    async def _zip_contents(self, request: web.Request) -> CloudResponse:
        top = request.query.get("zip_relative_path", "").rstrip("/")
        recursive = request.query.get("recursive", "false").lower() == "true"
        source, archive = self._archive(request)
        prefix = f"{top}/" if top else ""
        files = [i for i in archive.infolist() if i.filename.startswith(prefix) and not i.is_dir()]
        rows: dict[str, dict[str, Any]] = {}
        for entry in files:
            name, slash, _ = entry.filename[len(prefix) :].partition("/")
            if slash and not recursive:
                row = rows.setdefault(f"{name}/", _row(f"{name}/"))
                row["size"] += entry.file_size
                row["compressed_size"] += entry.compress_size
            else:
                name = entry.filename[len(prefix) :]
                rows[name] = _row(name, source, entry)
        return json_response({"size": source.size, "contents": list(rows.values())})

    async def _zip_file_range(self, request: web.Request) -> CloudResponse:
        top = request.query.get("zip_relative_path", "").rstrip("/")
        name = request.query.get("filename", "")
        source, archive = self._archive(request)
        try:
            entry = archive.getinfo(f"{top}/{name}" if top else name)
        except KeyError:
            raise _error_response(404, f"{name} is not in the archive.") from None
        start = _data_start(source, entry)
        return json_response(
            {
                "range_start": start,
                "range_end": start + max(0, entry.compress_size - 1),
                "compress_type": entry.compress_type,
            }
        )

    async def _delete(self, request: web.Request) -> CloudResponse:
        path = request.query.get("path", "")
        if not any(name == path or name.startswith(path) for name in self._objects.paths()):
            raise _error_response(404, f"{path} was not found.")
        self._account.remove_object(path)
        return json_response(None)

    def _archive(self, request: web.Request) -> tuple[ByteSource, zipfile.ZipFile]:
        path = request.query.get("path", "")
        stored = self._objects.get(path)
        if stored is None:
            raise _error_response(404, f"{path} was not found.")
        try:
            return stored.source, zipfile.ZipFile(SourceFile(stored.source))
        except zipfile.BadZipFile:
            raise _error_response(400, f"{path} is not a ZIP archive.") from None


def _error_response(status: int, detail: str | Iterable[dict[str, Any]]) -> ErrorResponse:
    return ErrorResponse(json_response({"detail": detail}, status))


def _row(
    name: str, source: ByteSource | None = None, entry: zipfile.ZipInfo | None = None
) -> dict[str, Any]:
    year, *rest = entry.date_time if entry else (1980, 1, 1, 0, 0, 0)
    return {
        "name": name,
        "size": entry.file_size if entry else 0,
        "compressed_size": entry.compress_size if entry else 0,
        "range_start": _data_start(source, entry) if source and entry else None,
        "creation_time": "{}-{:02}-{:02}T{:02}:{:02}:{:02}+00:00".format(year, *rest),
        "compress_type": entry.compress_type if entry else None,
    }


def _data_start(source: ByteSource, entry: zipfile.ZipInfo) -> int:
    """Return the offset of the member's compressed bytes, after its local header (4.3.7)."""
    start = entry.header_offset
    header = bytes(source.read(start, start + _LOCAL_HEADER_BYTES))
    name_size, extra_size = struct.unpack("<2H", header[26:])
    return start + _LOCAL_HEADER_BYTES + int(name_size) + int(extra_size)
