"""The fuzz target: each input is an archive, or a recipe from which one is built.

Runs in its own environment, which has atheris. Random bytes are rarely an archive, and even more
rarely one with correct checksums. So every other input chooses the wrong fields that
`tests.zips.build` writes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["taskfs"]):
    # Fuzzed members have a few KB, so spans and checkpoint distances must be smaller still. Set
    # these constants first: the other modules copy them when they are imported.
    from taskfs.archive import prefetch

    setattr(prefetch, "SPAN", 1 << 10)  # noqa: B010 - the constants are Final
    from taskfs.archive import cursor_pool

    assert hasattr(cursor_pool, "FIRST_SPACING")
    setattr(cursor_pool, "FIRST_SPACING", 4 << 10)  # noqa: B010
    from tests.against_zipfile import compare

from tests.zips import BZIP2, DEFLATED, LZMA, ROOT, STORED, Entry, build, field, unicode_field

COUNTS: Final[Counter[str]] = Counter()
SAVE_EVERY: Final = 500  # inputs; atheris ends the process without cleanup
METHODS: Final = [STORED, DEFLATED, DEFLATED, BZIP2, LZMA, 9, 93, 99]
NAMES: Final = [b"a", b"b", b"a/b", b"a/", b"./x", b"../x", b"a//b", b"\\x", b"\xff", b"n" * 256]
KINDS: Final = [0x0001, 0x000A, 0x5455, 0x7075, 0x9901]


def check_input(content: bytes) -> None:
    """Compare one input. Every exception is a finding."""
    source = atheris.FuzzedDataProvider(content)
    body = _build(source) if source.ConsumeBool() else source.ConsumeBytes(len(content))
    COUNTS.update(compare(body))
    COUNTS["inputs"] += 1
    if COUNTS["inputs"] % SAVE_EVERY == 0:
        _save_counts()


def _build(source: Any) -> bytes:
    entries = [_entry(source) for _ in range(source.ConsumeIntInRange(0, 4))]
    body = bytearray(
        build(
            entries,
            prepended=_bytes(source, 40),
            shifted=source.ConsumeBool(),
            gap=_bytes(source, 20),
            comment=_bytes(source, 60),
            trailing=_bytes(source, 10),
            zip64=source.ConsumeBool(),
            end=_wrong_field(source, ["disk", "here", "entries", "size", "offset", "comment"]),
            end64=_wrong_field(source, ["record", "here", "entries", "size", "offset"]),
            locator=_wrong_field(source, ["disk", "at", "disks"]),
        )
    )
    for _ in range(source.ConsumeIntInRange(1, 3) if _rarely(source) else 0):
        body[-1 - source.ConsumeIntInRange(0, len(body) - 1)] = source.ConsumeIntInRange(0, 255)
    return bytes(body)


def _entry(source: Any) -> Entry:
    name = _bytes(source, 30) if _rarely(source) else ROOT.encode() + _name(source)
    return Entry(
        name,
        _bytes(source, 60) * source.PickValueInList([1, 1, 7, 900]),
        method=source.PickValueInList(METHODS),
        level=source.ConsumeIntInRange(0, 9),
        flags=source.PickValueInList([0, 0, 0, 0, 1, 2, 8, 0x40, 0x800, 0x2000]),
        packed=_bytes(source, 200) if _rarely(source) else None,
        crc=_wrong_number(source, 4),
        size=_wrong_number(source, 4),
        compressed_size=_wrong_number(source, 4),
        offset=_wrong_number(source, 4),
        date=source.ConsumeUInt(2),
        time=source.ConsumeUInt(2),
        extra=_extra(source, name),
        comment=_bytes(source, 20),
        zip64=source.ConsumeBool(),
        is_streamed=source.ConsumeBool(),
        local_name=_bytes(source, 30) if _rarely(source) else None,
        local_extra=_extra(source, name),
        is_listed=not _rarely(source),
    )


def _extra(source: Any, name: bytes) -> bytes:
    extra = b""
    for _ in range(source.ConsumeIntInRange(0, 2)):
        value = _bytes(source, 40)
        if _rarely(source):
            extra += unicode_field(value, name)
        else:
            extra += field(source.PickValueInList(KINDS), value)
    return extra + (_bytes(source, 6) if _rarely(source) else b"")


def _bytes(source: Any, max_length: int) -> bytes:
    return bytes(source.ConsumeBytes(source.ConsumeIntInRange(0, max_length)))


def _name(source: Any) -> bytes:
    return bytes(source.PickValueInList(NAMES))


def _rarely(source: Any) -> bool:
    """Return True one time in eight; False once the input is used up."""
    return bool(source.ConsumeIntInRange(0, 7) == 7)


def _wrong_number(source: Any, width: int) -> int | None:
    """Return a number of one or *width* bytes that replaces a correct field; mostly None."""
    if not _rarely(source):
        return None
    return int(source.ConsumeUInt(width) if source.ConsumeBool() else source.ConsumeUInt(1))


def _wrong_field(source: Any, names: list[str]) -> dict[str, int]:
    """Return a wrong value for one of the fields *names*; mostly an empty dict."""
    value = _wrong_number(source, 2)
    return {} if value is None else {source.PickValueInList(names): value}


def _save_counts() -> None:
    if path := os.environ.get("TASKFS_FUZZ_COUNTS"):
        Path(path).write_text(json.dumps(COUNTS))


def _seeds() -> list[bytes]:
    """Return correct archives, each with the byte that marks an input as an archive."""
    entries = [
        Entry(ROOT.encode() + name, b"content " * 9, method, zip64=wide, is_streamed=not wide)
        for name, method, wide in ((b"a", 8, False), (b"d/b", 0, True), (b"d/", 0, False))
    ]
    more = [Entry(ROOT.encode() + b"%d" % method, b"text" * 99, method) for method in (12, 14)]
    archives = [build(entries), build(entries, zip64=True, comment=b"c"), build(more), build([])]
    # FuzzedDataProvider takes numbers and booleans from the end of the input.
    return [archive + b"\0" for archive in archives]


def main() -> None:
    logging.disable(logging.CRITICAL)
    paths = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    for path in paths:
        if path.is_dir() and not any(path.iterdir()):
            for number, seed in enumerate(_seeds()):
                (path / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, check_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
