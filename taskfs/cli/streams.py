"""Standard streams that never fail over a character: the terminal's encoding may lack it."""

import codecs
import sys
from io import TextIOWrapper
from typing import Final

_HANDLER: Final = "taskfs.replace"
# The characters of our own texts and of rich's tables, as ASCII shows them.
_LOOKALIKES: Final = {"…": ".", "↑": "^", "↓": "v", "━": "-", "│": "|"}


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for the characters that cannot be encoded (codecs error handler)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_LOOKALIKES.get(character, "?") for character in text), error.end


def tolerate_encodings() -> None:
    """Let standard output and error replace what their encoding lacks.

    Standard input replaces what it cannot decode. PYTHONIOENCODING still decides the encoding, but
    not that an error is raised.
    """
    codecs.register_error(_HANDLER, _replace)
    for stream, errors in ((sys.stdout, _HANDLER), (sys.stderr, _HANDLER), (sys.stdin, "replace")):
        if isinstance(stream, TextIOWrapper):  # None where the descriptor is closed
            stream.reconfigure(errors=errors)
