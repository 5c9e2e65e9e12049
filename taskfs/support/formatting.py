"""Sizes, counts, times and untrusted names as text for users."""

import math
from datetime import datetime
from typing import Final

_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}


def escape_controls(text: str) -> str:
    """Return *text* with control characters as `\\xNN`.

    A name from an archive then cannot begin a new line or send commands to a terminal.
    """
    return text if text.isprintable() else text.translate(_ESCAPES)


def format_size(count: float) -> str:
    """Return *count* bytes as the public client writes sizes: `859 B`, `3.12 KB` (1000 B)."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("KB", "MB", "GB", "TB"):
        count /= 1000
        if count < 1000:
            return f"{count:.2f} {unit}"
    return f"{count / 1000:.2f} PB"


def format_count(count: int, noun: str) -> str:
    """Return *count* with its *noun*: `1 file`, `2 files`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_elapsed(seconds: float | None) -> str:
    """Return *seconds* as `HH:MM:SS`, with more than 99 hours if need be; empty for None."""
    if seconds is None:
        return ""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def format_local_time(time_ns: int | None) -> str:
    """Return a time as `2024-02-08 13:25:49` in the local time zone, empty for None."""
    if time_ns is None:
        return ""
    return datetime.fromtimestamp(time_ns / 1e9).strftime("%Y-%m-%d %H:%M:%S")


def format_money(amount: float) -> str:
    """Return *amount* with two decimals, or for small amounts with two significant digits."""
    digits = 2 if not 0 < amount < 0.1 else 1 - math.floor(math.log10(amount))
    return f"{amount:.{digits}f}"


def format_age(seconds: float) -> str:
    """Return *seconds* in its largest whole unit: `45 s`, `12 min`, `3 h`, `2 d`."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= length:
            return f"{whole // length} {unit}"
    return f"{whole} s"
