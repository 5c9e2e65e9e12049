"""Sizes, counts, times and untrusted names as text for users."""

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
