"""One notice, to a person at a terminal, that a first answer takes long and is still tried for.

The notice belongs to the process: it is given at most once, and never after an answer.
"""

import re
import time
from collections.abc import Callable
from typing import Final

# Seconds of trying without a word: a person then wonders whether anything happens.
NOTICE_S: Final = 2.0
_NO_ANSWER: Final = re.compile(r"no answer \((.*)\)$")

_tell: Callable[[str], object] | None = None


def tell_with(tell: Callable[[str], object] | None) -> None:
    """Have *tell* called with the notice; None takes that back."""
    global _tell
    _tell = tell


def pause(seconds: float, began_s: float, timeout_s: float, failure: str) -> None:
    """Sleep *seconds* before another try of what *began_s* (`time.monotonic`), and give the notice
    once it has been tried for NOTICE_S. *failure* is the text of the last try's error."""
    due_s = began_s + NOTICE_S - time.monotonic()
    if _tell is not None and due_s < seconds:
        time.sleep(max(0.0, due_s))
        seconds -= max(0.0, due_s)
        tell = _tell
        if tell is not None:
            tell_with(None)
            match = _NO_ANSWER.search(failure)
            reason = match[1] if match else failure
            tell(f"no answer yet ({reason}), trying until {timeout_s:g} s")
    time.sleep(seconds)
