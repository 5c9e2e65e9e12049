"""Imports of the rare paths, made once a mount is live: its daemon outlives its package.

`pip install -U`, pipx and conda remove files under a running daemon. A module that is imported late
would then fail, and with it every retry. Requests may run meanwhile, and may import the same: both
name a module in the same way, so one waits for the other and neither for a cycle.
"""

import codecs
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Final

from taskfs.archive import isal as igzip
from taskfs.remote.trust import tls_context
from taskfs.support.checksum import crc32
from taskfs.support.redaction import RedactingFormatter

log = logging.getLogger(__name__)

LOADED: Final = "all modules are loaded"
# The most needed first: a removal may come at any moment.
_MODULES: Final = (
    "netrc",  # requests, for each new host
    "idna",  # requests, for a redirect to a host that is not ASCII
    "ctypes",  # `mountpoint.detach`
    "concurrent.futures.thread",
    "email.message",  # heads of answers, and their dates
    "email.header",
    "email.generator",
    "email.quoprimime",
    "email.base64mime",
    "http.cookies",
    "_strptime",
    "decimal",
    "uuid",
)
# For host names, heads of answers, and names in archives.
_CODECS: Final = ("idna", "punycode", "ascii", "latin-1", "cp437", "utf-8-sig", "unicode_escape")


def load_rest() -> None:
    """Import all that a daemon may need later; what is not there is left out."""
    loads: list[Callable[[], object]] = [
        *(_importing(name) for name in _MODULES[:1]),
        lambda: crc32(b""),
        igzip.make_decoder,
        tls_context,  # its CA bundle is a file of a package
        *(_importing(name) for name in _MODULES[1:]),
        *(_finding(name) for name in _CODECS),
        _format_errors,
    ]
    for load in loads:
        try:
            load()
        except Exception as exc:
            log.debug("not loaded: %s: %s", type(exc).__name__, exc)
    log.debug(LOADED)


def _importing(name: str) -> Callable[[], ModuleType]:
    return lambda: import_module(name)


def _finding(name: str) -> Callable[[], object]:
    return lambda: codecs.lookup(name)


def _format_errors() -> None:
    """Format exceptions as the log does: Python imports what marks and explains them by kind."""
    formatter = RedactingFormatter("%(message)s")
    failures: tuple[Callable[[], object], ...] = (
        lambda: [1, 2][len("..") + 1] / 0,
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
