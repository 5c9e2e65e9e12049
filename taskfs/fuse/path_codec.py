"""The codec of names on a mount: UTF-8, where other bytes become surrogates and back.

fusepy decodes and encodes names with the strict form of a codec, so one name that is not UTF-8
would fail a whole listing. It takes the codec by name, and this one is never strict.
"""

import codecs
from typing import Any, Final

NAME: Final = "taskfs_names"


def decode_name(raw: bytes) -> str:
    """Return a name or path of the kernel as text."""
    return raw.decode("utf-8", "surrogateescape")


def encode_name(name: str) -> bytes:
    """Return the bytes of a name or path; the inverse of `decode_name`."""
    return name.encode("utf-8", "surrogateescape")


def register() -> None:
    """Make the codec known to Python under NAME. Calling it again has no effect."""
    codecs.register(_find)


def _find(name: str) -> codecs.CodecInfo | None:
    return codecs.CodecInfo(_encode, _decode, name=NAME) if name == NAME else None


def _encode(text: str, errors: str = "strict", /) -> tuple[bytes, int]:
    return encode_name(text), len(text)


def _decode(raw: Any, errors: str = "strict", /) -> tuple[str, int]:
    data = bytes(raw)
    return decode_name(data), len(data)
