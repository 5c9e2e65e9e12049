"""The log of optimisations that the system refuses; the caller then uses a slower way."""

import logging
from typing import Final

log = logging.getLogger(__name__)

_logged: Final[set[str]] = set()


def log_fallback(call: str, reason: object) -> None:
    """Log that the system refuses *call*, once per call and process."""
    if call not in _logged:
        _logged.add(call)
        log.debug(
            "the system refuses %s (%s): a slower way is used, and nothing fails", call, reason
        )
