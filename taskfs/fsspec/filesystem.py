"""`TaskFileSystem`: the tree as an fsspec file system.

Paths are the same as beneath a mountpoint: `taskfs://<task id>/outputs/x.csv`. The root lists only
the tasks; the views exist by name, and their links appear as directories. Errors are OSErrors with
the errno that a mount gives.
"""

import errno
import os
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Final, NoReturn

from fsspec import AbstractFileSystem

from taskfs.api_key import Secret
from taskfs.config import load_config
from taskfs.errors import ConfigError
from taskfs.fsspec.block_file import BlockFile
from taskfs.fsspec.file import TaskFile
from taskfs.fsspec.globbing import may_match_beneath
from taskfs.fsspec.node_info import describe, list_directory, node_type, resolve
from taskfs.fsspec.ranges import read_range, read_ranges
from taskfs.fsspec.shared_core import SharedCore, as_oserror, shared_core
from taskfs.tree.control_nodes import CONTROL_DIR
from taskfs.tree.handles import Handle
from taskfs.tree.nodes import Directory, Node
from taskfs.tree.raw_archive_node import RawArchiveNode

# Options that callers pass to any fsspec file system. They are accepted and ignored, because the
# core itself caches listings, batches ranges and has its own threads.
_FSSPEC_OPTIONS: Final = frozenset(
    {
        *("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"),
        *("asynchronous", "loop", "batch_size"),
    }
)


class TaskFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec is untyped
    """The tasks of one account. Safe for concurrent use, also in forked processes.

    The storage options are the rows of `options.OPTIONS` for `FSSPEC`, and `api_key`. Others come
    from the environment and the configuration file. Only the storage options are pickled, so each
    machine uses its own environment. The first call that needs the API reads the key and sends
    the first request.

    Raises:
        ValueError: an option is unknown or has an invalid value.
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
        self._last_core: SharedCore | None = None

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options with which another process creates an equal file system."""
        options: dict[str, Any] = self.__dict__["storage_options"]
        return options

    @storage_options.setter
    def storage_options(self, options: dict[str, Any]) -> None:
        # An event loop belongs to one process and cannot be pickled.
        self.__dict__["storage_options"] = {k: v for k, v in options.items() if k != "loop"}

    @property
    def _shared(self) -> SharedCore:
        """The core of this process, opened on first use."""
        shared = self._last_core
        if shared is None or not shared.is_usable:
            key = load_config(storage_options=self._own_options).api_key
            shared = self._last_core = shared_core(replace(self._config, api_key=key))
        return shared

    def _resolve(self, path: str) -> tuple[Node, str | None]:
        return resolve(self._shared.core.tree, path)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        stripped = super()._strip_protocol(path)
        return stripped.lstrip("/") if isinstance(stripped, str) else stripped

    # Listings and details.

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Return `name`, `size`, `type`, `mtime` and `created` (seconds since 1970).

        A file in an archive also has `crc32` (hexadecimal), `compressed_size` and `compression`;
        a raw archive and its files have the `ETag` of the object; a link has `islink` and
        `destination`.
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
        """List a directory, or a single file.

        Without *sizes* the `size` of files is None, and only a listing within an archive reads one.
        With the *pattern* of a `glob`, a directory that cannot contain a match is returned as
        empty.
        """
        path = self._strip_protocol(path)
        if pattern is not None and not may_match_beneath(path, pattern):
            return []
        with as_oserror(path):
            node, destination = self._resolve(path)
            if not isinstance(node, Directory):
                listed = [describe(path, node, destination)]
            else:
                tree = self._shared.core.tree
                listed = list(list_directory(tree, path, node, full=detail and sizes))
        return listed if detail else [info["name"] for info in listed]

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **kwargs: Any,
    ) -> Any:
        """Walk as fsspec does, except that "omit" leaves out only paths that do not exist.

        A directory whose listing fails for another reason must not look empty.
        """
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
                return node_type(self._resolve(path)[0])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether *path* exists. An error other than "not found" is raised."""
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
        """Drop cached listings and task data, as a write to `.taskfs/refresh` does."""
        super().invalidate_cache(path)
        if self._last_core is not None:
            with as_oserror(""):
                refresh = self._shared.core.tree.resolve(f"/{CONTROL_DIR}/refresh")
                refresh.open(writing=True).write(b"1")

    # Contents.

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
        if kwargs.get("cache_type") == "none":  # fsspec's `blockcache::` adds its own cache
            return BlockFile(self, path, block_size, kwargs.get("size"))
        return TaskFile(self, path, block_size)

    def open_handle(self, path: str) -> tuple[Handle, SharedCore]:
        """Return an open handle of the file at *path*, and the core that it belongs to."""
        with as_oserror(path):
            return self._shared.open(self._resolve(path)[0]), self._shared

    def sign(self, path: str, expiration: int | None = None, **kwargs: Any) -> str:
        """Return a signed URL that reads a raw archive (`<id>/output.zip`).

        The service decides how long it is valid; *expiration* is ignored.

        Raises:
            NotImplementedError: *path* is another file, which has no URL.
        """
        path = self._strip_protocol(path)
        with as_oserror(path):
            node, _ = self._resolve(path)
            if not isinstance(node, RawArchiveNode):
                text = "only a raw archive has a URL: sign('<id>/output.zip') or '<id>/input.zip'"
                raise NotImplementedError(f"{path}: {text}")
            path, region = node.remote_path
            return self._shared.core.client.signed_url(path, region)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return the bytes [start, end), which may be None or negative as in a slice."""
        path = self._strip_protocol(path)
        with as_oserror(path):
            handle = self._shared.open(self._resolve(path)[0])
            try:
                return read_range(handle, start, end)
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
        """Return the bytes of each range, fetched concurrently; no block is fetched twice.

        *max_gap* is ignored, because ranges in the same block share one request anyway.
        """
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        starts, ends = (x if isinstance(x, list) else [x] * len(paths) for x in (starts, ends))
        if not len(paths) == len(starts) == len(ends):
            raise ValueError("paths, starts and ends differ in length")
        stripped = [self._strip_protocol(path) for path in paths]
        outcomes = read_ranges(self.open_handle, stripped, starts, ends)
        if on_error == "raise":
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
        return outcomes

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """Return the bytes of one file, or a dictionary from paths to bytes, read concurrently."""
        paths = self.expand_path(path, recursive=recursive)
        if isinstance(path, str) and paths == [self._strip_protocol(path)] and not recursive:
            return self.cat_file(paths[0])
        files = [path for path in paths if not (recursive and self.isdir(path))]
        on_range_error = "raise" if on_error == "raise" else "return"
        contents = self.cat_ranges(files, None, None, on_error=on_range_error)
        found = dict(zip(files, contents, strict=True))
        if on_error == "omit":
            return {name: content for name, content in found.items() if isinstance(content, bytes)}
        return found

    # Changes, which are refused.

    def _refuse(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Raise EROFS. Tasks are changed through a mount or the commands."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    mkdir = rmdir = rm = rm_file = _rm = touch = pipe_file = _refuse
    put = put_file = copy = cp_file = mv = _refuse

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        if not (exist_ok and self.isdir(path)):
            self._refuse(path)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """Return the options, with a passed `api_key` only if *include_password* is true."""
        options: dict[str, Any] = super().to_dict(include_password=include_password)
        if not include_password:
            options.pop("api_key", None)
        return options


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
