"""The log of optimisations that the system refuses; the caller then uses a slower way."""

import logging
from typing import Final

log = logging.getLogger(__name__)

logged_calls: Final[set[str]] = set()  # the calls whose refusal this process has logged


def log_fallback(call: str, reason: object) -> None:
    """Log that the system refuses *call*, once per call and process."""
    if call not in logged_calls:
        logged_calls.add(call)
        log.debug(
            "the system refuses %s (%s): a slower way is used, and nothing fails", call, reason
        )
