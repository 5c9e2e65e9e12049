"""Optimisations that the system may refuse: the plain way is taken then, and logged once."""

import logging
from typing import Final

log = logging.getLogger(__name__)

_logged: Final[set[str]] = set()


def note_refusal(call: str, reason: object) -> None:
    """Log, the first time for each *call*, that the system refuses it."""
    if call not in _logged:
        _logged.add(call)
        log.debug("%s is refused (%s): the plain way is taken", call, reason)
