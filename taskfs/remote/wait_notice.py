"""One notice to the user that the first response is late, and that the request is tried again.

The notice belongs to the process. It is given at most once, and never after a success.
"""

import re
import time
from collections.abc import Callable
from typing import Final

# Seconds without a response before the notice: users then wonder whether anything happens.
NOTICE_S: Final = 2.0
_NO_RESPONSE: Final = re.compile(r"no response \((.*)\)$")

_notify: Callable[[str], object] | None = None


def set_notifier(notify: Callable[[str], object] | None) -> None:
    """Have *notify* called with the text of the notice; None switches the notice off."""
    global _notify
    _notify = notify


def pause_before_retry(pause_s: float, began_s: float, timeout_s: float, failure: str) -> None:
    """Sleep *pause_s* seconds, and give the notice once NOTICE_S seconds have passed.

    The operation began at *began_s*, by `time.monotonic`, and ends after *timeout_s* seconds;
    *failure* is the text of its last error.
    """
    due_s = max(0.0, began_s + NOTICE_S - time.monotonic())
    if _notify is not None and due_s < pause_s:
        time.sleep(due_s)
        pause_s -= due_s
        notify = _notify
        if notify is not None:
            set_notifier(None)
            match = _NO_RESPONSE.search(failure)
            reason = match[1] if match else failure
            notify(f"no response yet ({reason}), trying until {timeout_s:g} s")
    time.sleep(pause_s)
