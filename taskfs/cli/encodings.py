"""Standard streams that replace characters which the terminal's encoding lacks."""

import codecs
import sys
from io import TextIOWrapper
from typing import Final

_HANDLER: Final = "taskfs.replace"
# ASCII for the characters in our own texts and in rich's tables.
_ASCII: Final = {"…": ".", "↑": "^", "↓": "v", "━": "-", "│": "|"}


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return the replacement and the position to continue at (a codecs error handler)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in text), error.end


def replace_unencodable() -> None:
    """Make the standard streams replace characters instead of raising UnicodeError.

    PYTHONIOENCODING still selects the encoding, but not the error handler.
    """
    codecs.register_error(_HANDLER, _replace)
    for stream, errors in ((sys.stdout, _HANDLER), (sys.stderr, _HANDLER), (sys.stdin, "replace")):
        if isinstance(stream, TextIOWrapper):  # None where the descriptor is closed
            stream.reconfigure(errors=errors)
