"""Parsers of the values of settings: each converts a text, or raises ConfigError with the fix."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from taskfs.errors import ConfigError

_SECONDS_PER_UNIT: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgtp]?)(i?b)?", re.IGNORECASE)
# Seconds of the longest duration, 100 years: the system's timeouts overflow after 292.
_MAX_DURATION_S: Final = 36_500 * 86_400
# Bytes: 1 EiB, an eighth of the largest size that a file can have.
_MAX_SIZE: Final = 1 << 60
_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def parse_duration(text: str) -> float:
    """Parse a duration to seconds: `10s`, `500ms`, `2m`, `1h`, `1m30s`, or a number of seconds."""
    text = text.strip().lower()
    with_units = f"{text}s" if re.fullmatch(_NUMBER, text) else text
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", with_units):
        raise ConfigError(f"{text!r} is not a duration: write 10s, 500ms, 2m, 1h or seconds")
    parts = _DURATION.findall(with_units)
    seconds = sum(float(number) * _SECONDS_PER_UNIT[unit] for number, unit in parts)
    if seconds > _MAX_DURATION_S:
        raise ConfigError(f"{text!r} is too long: write 36500d or less")
    return seconds


def parse_positive_duration(text: str) -> float:
    """Parse a duration above 0 to seconds, spelled as for `parse_duration`."""
    seconds = parse_duration(text)
    if not seconds:
        raise ConfigError(
            f"{text!r} is not a duration above 0: write 10s, 500ms, 2m, 1h or seconds"
        )
    return seconds


def parse_size(text: str) -> int:
    """Parse a size to bytes; a number without a unit is bytes.

    K, M, G, T, P and KiB, MiB, … are powers of 1024, as in rclone. KB, MB, … are powers of 1000, as
    in the output of taskfs.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write 10G, 512M, 100KB or bytes")
    number, unit, suffix = match.groups()
    base = 1000 if unit and (suffix or "").lower() == "b" else 1024
    size = float(number) * base ** " kmgtp".index(unit.lower() or " ")
    if size > _MAX_SIZE:
        raise ConfigError(f"{text!r} is too large: write 1024P or less")
    return int(size)


def parse_flag(text: str) -> bool:
    """Parse a word such as `yes`, `off` or `1` to a bool."""
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise ConfigError(f"{text!r} is neither yes nor no: write true or false") from None


def parse_switch(text: str) -> bool:
    """Return the value of `on` or `off`, for a setting whose flag takes a value."""
    return parse_flag(text)


def parse_text(text: str) -> str:
    """Return *text* as valid Unicode.

    Bytes of arguments and variables that the locale cannot decode reach Python as surrogates. They
    are decoded as UTF-8, because the API accepts no other encoding.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ConfigError(f"{text!r} is not UTF-8: write it in UTF-8") from None


def parse_words(text: str) -> tuple[str, ...]:
    """Parse a list of words that are separated by commas."""
    return tuple(word for word in (part.strip() for part in parse_text(text).split(",")) if word)


def parse_path(text: str) -> Path:
    """Parse a path to an absolute one, because the daemon's directory is `/`; `~` is the home."""
    if not text.strip():  # probably an unset variable of a script
        raise ConfigError("the path is empty: write one, or . for the current directory")
    return Path(os.path.abspath(_expand_home(text)))


def parse_relative_path(text: str) -> str:
    """Return a path relative to the start directory of the command; `~` is the home."""
    return _expand_home(text)


def _expand_home(text: str) -> str:
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):  # an unknown user, or no HOME
        raise ConfigError(f"{text!r}: there is no such home directory: write the whole path")
    if "\0" in expanded:
        raise ConfigError(f"{text!r} is not a path: write one without NUL")
    return expanded


def parse_count(text: str) -> int:
    """Parse a whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()) or int(text) < 1:
        raise ConfigError(f"{text!r} is not a count: write a whole number from 1")
    return int(text)


def parse_id(text: str) -> int:
    """Parse the number of a user or group."""
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()) or int(text) >= 2**32 - 1:
        raise ConfigError(f"{text!r} is not the number of a user or group: see id(1)")
    return int(text)


def parse_umask(text: str) -> int:
    """Parse the permission bits of a umask, in octal digits."""
    return _parse_bits(text, "a umask", "022")


def parse_mode(text: str) -> int:
    """Parse the permission bits of a mode, in octal digits; set-uid and the like are refused."""
    return _parse_bits(text, "a mode", "0644")


def _parse_bits(text: str, kind: str, example: str) -> int:
    if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", text.strip()) or int(text, 8) > 0o777:
        raise ConfigError(f"{text!r} is not {kind}: write octal digits, such as {example}")
    return int(text, 8)


def parse_source(text: str) -> str:
    """Return *text* if it can be the source of a mount in the table of mounts."""
    if not text or len(parse_text(text).encode()) > 255 or re.search(r"[\x00-\x1f\x7f,\\]", text):
        raise ConfigError(f"{text!r} is not the name of a source: write letters and digits")
    return text


def one_of(words: Sequence[str], kind: str) -> Callable[[str], str]:
    """Return a parser of one of *words*; *kind* describes them in errors: `a log level`."""

    def parse(text: str) -> str:
        if (word := text.strip().lower()) in words:
            return word
        raise ConfigError(f"{text!r} is not {kind}: write one of {', '.join(words)}")

    return parse
