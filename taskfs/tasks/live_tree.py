"""The names in a running task's output directory, as its machine lists them.

Names are bytes. A name that is not UTF-8 arrives as lone surrogates, each for one byte, and is
sent back in the same form. Listings are not trusted: a name that leaves the directory is left out.
"""

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from taskfs.errors import BadResponse, NotADirectory, NotFound

log = logging.getLogger(__name__)

# Levels of directories; links to directories are followed on the machine, and may form a circle.
MAX_DEPTH: Final = 64


class LiveDirectory(NamedTuple):
    """A directory: its names in the order of the machine's listing; None stands for a file."""

    entries: Mapping[bytes, "LiveDirectory | None"]

    def find(self, path: bytes) -> "LiveDirectory | None":
        """Return what *path* names below this directory, itself for an empty path, None for a file.

        Raises:
            NotFound, NotADirectory: there is nothing of that name.
        """
        found: LiveDirectory | None = self
        for name in path.split(b"/") if path else ():
            if found is None:
                raise NotADirectory(f"{path!r} continues beneath a file")
            if name not in found.entries:
                raise NotFound(f"the task's machine lists no {path!r}")
            found = found.entries[name]
        return found


def parse_listing(message: Any) -> LiveDirectory:
    """Return the tree in the answer to `ls`; raise BadResponse for anything else."""
    return _directory(message, 0)


def _directory(message: Any, depth: int) -> LiveDirectory:
    if not isinstance(message, list):
        raise BadResponse("the task's machine answered ls with something else than a listing")
    entries: dict[bytes, LiveDirectory | None] = {}
    for item in message:
        if isinstance(item, str):
            if (name := name_bytes(item)) is not None:
                entries.setdefault(name, None)
        elif isinstance(item, dict) and len(item) == 1:
            (text, below), *_ = item.items()
            name = name_bytes(text)
            if name is None:
                continue
            if depth < MAX_DEPTH:
                entries.setdefault(name, _directory(below, depth + 1))
        else:
            raise BadResponse("the task's machine answered ls with something else than names")
    return LiveDirectory(entries)


def name_bytes(text: str) -> bytes | None:
    """Return the bytes of a listed name; None for a name that no directory has."""
    try:
        name = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        name = b""
    is_name = name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
    if not is_name or name_text(name) != text:
        log.info("a name in a machine's listing is left out: %r", text[:100])
        return None
    return name


def name_text(name: bytes) -> str:
    """Return the form in which the machine takes a name or path."""
    return name.decode("utf-8", "surrogateescape")
