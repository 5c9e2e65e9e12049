"""`TaskFileSystem`: the tree as an fsspec file system, read-only, without a mount and without FUSE.

Paths are those beneath a mountpoint: `taskfs://<task id>/outputs/x.csv`. The root lists the tasks
alone; the views are there by name, and what they link to is a directory there. Failures are
OSErrors with the errno that the mount gives.
"""

import errno
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Final, NoReturn

from fsspec import AbstractFileSystem

from taskfs.api_key import Secret
from taskfs.config import load_config
from taskfs.download.fetch import chunks
from taskfs.errors import ConfigError
from taskfs.fsspec.block_file import BlockFile
from taskfs.fsspec.file import TaskFile
from taskfs.fsspec.globbing import may_hold
from taskfs.fsspec.node_info import describe, kind, listing, resolve
from taskfs.fsspec.shared_core import SharedCore, as_oserror, shared_core
from taskfs.tree.archive_nodes import RawArchiveNode
from taskfs.tree.control_nodes import CONTROL_DIR
from taskfs.tree.handles import Handle
from taskfs.tree.nodes import Directory, Node

# Options that callers give to every fsspec file system. They change nothing here: the core caches
# listings, batches ranges and has threads of its own.
_FSSPEC_OPTIONS: Final = frozenset(
    {
        *("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"),
        *("asynchronous", "loop", "batch_size"),
    }
)


class TaskFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """The tasks of one account. Safe for concurrent use, and in forked processes.

    The storage options are the rows of `options.OPTIONS` for `FSSPEC`, and `api_key`. Where they
    say nothing the environment and the configuration file do, on each machine its own: what is
    pickled are the options alone. Nothing goes out, and no key is looked for, before the first
    call that needs it.

    Raises:
        ValueError: an option that is unknown or cannot be used.
    """

    protocol = "taskfs"

    def __init__(self, **storage_options: Any) -> None:
        super().__init__(**storage_options)
        own = {k: v for k, v in storage_options.items() if k not in _FSSPEC_OPTIONS}
        if own.get("api_key"):
            own["api_key"] = Secret(own["api_key"])
        try:
            self._config = load_config(storage_options=own, need_key=False)
        except ConfigError as exc:
            raise ValueError(str(exc)) from None
        self._own_options = own
        self._shared: SharedCore | None = None

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options by which another process makes this file system."""
        found: dict[str, Any] = self.__dict__["storage_options"]
        return found

    @storage_options.setter
    def storage_options(self, given: dict[str, Any]) -> None:
        # An event loop belongs to one process and cannot be pickled.
        self.__dict__["storage_options"] = {k: v for k, v in given.items() if k != "loop"}

    @property
    def _core(self) -> SharedCore:
        shared = self._shared
        if shared is None or not shared.is_here:
            key = load_config(storage_options=self._own_options).api_key
            shared = self._shared = shared_core(replace(self._config, api_key=key))
        return shared

    def _resolve(self, path: str) -> tuple[Node, str | None]:
        return resolve(self._core.core.tree, path)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    # What is there.

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return `name`, `size`, `type`, `mtime` and `created` (seconds since 1970).

        Of a file in an archive also `crc32` (hexadecimal), `compressed_size` and `compression`; of
        bytes that the store has, its `ETag`; of a link `islink` and its `destination`.
        """
        path = self._strip_protocol(path)
        with as_oserror(path):
            return describe(path, *self._resolve(path))

    def ls(
        self,
        path: str,
        detail: bool = True,
        pattern: str | None = None,
        sizes: bool = True,
        **kwargs: Any,
    ) -> Any:
        """List a directory, or the one file.

        Without *sizes* the `size` of files is None and no archive is asked for. With a *pattern*
        of `glob`, a directory that cannot hold what matches is shown as empty.
        """
        path = self._strip_protocol(path)
        if pattern is not None and not may_hold(path, pattern):
            return []
        with as_oserror(path):
            node, destination = self._resolve(path)
            if not isinstance(node, Directory):
                listed = [describe(path, node, destination)]
            else:
                tree = self._core.core.tree
                listed = list(listing(tree, path, node, full=detail and sizes))
        return listed if detail else [info["name"] for info in listed]

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Any:
        """Walk as fsspec does, but "omit" leaves out only what is not there (any more): no answer
        from the network must not look like an empty directory."""
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        if on_error == "omit":
            on_error = _raise_unless_missing
        return super().walk(path, maxdepth, topdown, on_error, **kwargs)

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        kwargs.setdefault("sizes", detail)
        return super().find(path, maxdepth, withdirs, detail, **kwargs)

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        kwargs.setdefault("sizes", kwargs.get("detail", False))
        kwargs["pattern"] = self._strip_protocol(path)
        return super().glob(path, maxdepth, **kwargs)

    def _kind(self, path: str) -> str | None:
        path = self._strip_protocol(path)
        try:
            with as_oserror(path):
                return kind(self._resolve(path)[0])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is such a path; where nobody can tell, that is raised."""
        return self._kind(path) is not None

    def isdir(self, path: str) -> bool:
        return self._kind(path) == "directory"

    def isfile(self, path: str) -> bool:
        return self._kind(path) == "file"

    def created(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["created"], tz=timezone.utc)

    def modified(self, path: str) -> datetime:
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=timezone.utc)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is kept of the remote side, as a write to `.taskfs/refresh` does."""
        super().invalidate_cache(path)
        if self._shared is not None:
            refresh = self._core.core.tree.resolve(f"/{CONTROL_DIR}/refresh")
            refresh.open(writing=True).write(b"1")

    # What is in it.

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **kwargs: Any,
    ) -> TaskFile | BlockFile:
        if mode != "rb":
            self._refuse(path)
        if kwargs.get("cache_type") == "none":  # `blockcache::` brings a cache of its own
            return BlockFile(self, path, block_size, kwargs.get("size"))
        return TaskFile(self, path, block_size)

    def open_handle(self, path: str) -> tuple[Handle, SharedCore]:
        """Return what a `TaskFile` reads through."""
        with as_oserror(path):
            return self._core.open(self._resolve(path)[0]), self._core

    def sign(self, path: str, expiration: int | None = None, **kwargs: Any) -> str:
        """Return a new signed URL of a raw archive (`<id>/output.zip`), good for GET for a while.

        The service decides for how long; *expiration* changes nothing.

        Raises:
            NotImplementedError: another file, which has no URL.
        """
        path = self._strip_protocol(path)
        with as_oserror(path):
            node, _ = self._resolve(path)
            if not isinstance(node, RawArchiveNode):
                text = "only a raw archive has a URL: sign('<id>/output.zip') or '<id>/input.zip'"
                raise NotImplementedError(f"{path}: {text}")
            stored, region = node.stored_at
            return self._core.core.client.signed_url(stored, region)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return the bytes [start, end), which may count from the end, as in a slice."""
        path = self._strip_protocol(path)
        with as_oserror(path):
            handle = self._core.open(self._resolve(path)[0])
            try:
                return _read(handle, start, end)
            finally:
                handle.close()

    def cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[Any]:
        """Return the ranges, several fetched at a time; each block goes over the wire once.

        *max_gap* has no meaning here: what lies in one block is fetched together.
        """
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        starts, ends = (x if isinstance(x, list) else [x] * len(paths) for x in (starts, ends))
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends differ in length")
        outcomes = self._cat_at_once([self._strip_protocol(path) for path in paths], starts, ends)
        if on_error == "raise":
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return outcomes

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """Return one file's bytes, or of several a table by path, several fetched at a time."""
        paths = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and paths == [self._strip_protocol(path)] and not recursive:
            return self.cat_file(paths[0])
        files = [path for path in paths if not (recursive and self.isdir(path))]
        how = "raise" if on_error == "raise" else "return"
        found = dict(zip(files, self.cat_ranges(files, None, None, on_error=how), strict=True))
        if on_error == "omit":
            return {name: piece for name, piece in found.items() if isinstance(piece, bytes)}
        return found

    def _cat_at_once(
        self, paths: Sequence[str], starts: Sequence[Any], ends: Sequence[Any]
    ) -> list[Any]:
        handles: dict[str, Handle] = {}
        outcomes: list[Any] = [None] * len(paths)
        futures: dict[int, Future[bytes]] = {}
        # In the order of the bytes: a compressed file is decoded once from front to back.
        order = sorted(range(len(paths)), key=lambda n: (paths[n], starts[n] or 0))
        for n in order:
            path = paths[n]
            try:
                with as_oserror(path):
                    if path not in handles:
                        handles[path] = self._core.open(self._resolve(path)[0])
            except OSError as exc:
                outcomes[n] = exc
                continue
            futures[n] = self._core.pool.submit(
                self._read_range, path, handles[path], starts[n], ends[n]
            )
        try:
            for n, future in futures.items():
                outcomes[n] = future.exception() or future.result()
        finally:
            for future in futures.values():
                future.cancel()
            if all(future.done() for future in futures.values()):
                for handle in handles.values():
                    handle.close()
            else:  # we were interrupted, and some are being read
                self._core.left.extend(handles.values())
        return outcomes

    @staticmethod
    def _read_range(path: str, handle: Handle, start: int | None, end: int | None) -> bytes:
        with as_oserror(path):
            return _read(handle, start, end)

    # What is refused.

    def _refuse(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse a change: kills and metadata are for the mount and the commands."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    mkdir = rmdir = rm = rm_file = _rm = touch = pipe_file = _refuse
    put = put_file = copy = cp_file = mv = _refuse

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not (exist_ok and self.isdir(path)):
            self._refuse(path)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return the options, with `api_key` only where it was one and passwords are asked for."""
        told: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            told.pop("api_key", None)
        return told


def _read(handle: Handle, start: int | None, end: int | None) -> bytes:
    begin, stop, _ = slice(start, end).indices(handle.size)
    return b"".join(chunks(handle.read_at, begin, stop))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
