"""Import rarely used modules once a mount is live, because its daemon outlives its package.

`pip install -U`, pipx and conda remove files under a running daemon. A module that is imported
after that fails to load, and the request that needs it fails too. Requests run while this module
imports, and may import the same modules. Both threads import by full module name, so Python's lock
for that module makes one wait.
"""

import codecs
import logging
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Final

from taskfs.archive import isal
from taskfs.remote.trust import tls_context
from taskfs.support.checksum import crc32
from taskfs.support.redaction import RedactingFormatter

log = logging.getLogger(__name__)

LOADED: Final = "all modules are loaded"
# The modules that the first look into an archive needs.
_ARCHIVES: Final = ("taskfs.tree.archive_nodes", "taskfs.archive.open_archive")
# The first needed come first, because the files may be removed at any moment.
_MODULES: Final = (
    "netrc",  # requests, for each new host
    "idna",  # requests, for a redirect to a host that is not ASCII
    "ctypes",  # `mountpoint`
    "concurrent.futures.thread",
    "email.message",  # headers of responses, and their dates
    "email.header",
    "email.generator",
    "email.quoprimime",
    "email.base64mime",
    "http.cookies",
    "_strptime",
    "decimal",
    "uuid",
    "taskfs.tree.raw_archive_node",
    "taskfs.tree.live_nodes",
    "taskfs.fuse.events",  # otherwise imported only after the first request
    "taskfs.fuse.event_sender",
    "taskfs.fuse.watchers",
    # Without aiortc, which takes 40 MB: the first access to `live/` imports it.
    "taskfs.remote.live_channel",
)
# For host names, headers of responses, and names in archives.
_CODECS: Final = ("idna", "punycode", "ascii", "latin-1", "cp437", "utf-8-sig", "unicode_escape")


def load_archives() -> None:
    """Import the modules that read archives."""
    _try_each(_import(name) for name in _ARCHIVES)


def load_rest() -> None:
    """Import every module that a daemon may need later; skip those that are not installed."""
    loads: list[Callable[[], object]] = [
        lambda: crc32(b""),
        isal.make_decoder,
        tls_context,  # its CA bundle is a file of a package
        *(_import(name) for name in (*_ARCHIVES, *_MODULES)),
        *(_find_codec(name) for name in _CODECS),
        _format_errors,
    ]
    _try_each(loads)
    log.debug(LOADED)


def _try_each(loads: Iterable[Callable[[], object]]) -> None:
    for load in loads:
        try:
            load()
        except Exception as exc:
            log.debug("not loaded: %s: %s", type(exc).__name__, exc)


def _import(name: str) -> Callable[[], ModuleType]:
    return lambda: import_module(name)


def _find_codec(name: str) -> Callable[[], object]:
    return lambda: codecs.lookup(name)


def _format_errors() -> None:
    """Format exceptions as the log does: for some types, Python imports more modules."""
    formatter = RedactingFormatter("%(message)s")
    failures: tuple[Callable[[], object], ...] = (
        lambda: [1, 2][len("..") + 1] / 0,
        # Misspelt on purpose: for such errors Python looks for the name that was meant.
        lambda: sys.modlues,  # type: ignore[attr-defined]
        lambda: modlues,  # type: ignore[name-defined]  # noqa: F821
        lambda: import_module("taskfs.no_such_module"),
        lambda: b"\xff".decode(),
    )
    for fail in failures:
        try:
            fail()
        except Exception:
            record = log.makeRecord(
                __name__, logging.DEBUG, __file__, 0, "formatted", (), sys.exc_info()
            )
            formatter.format(record)
