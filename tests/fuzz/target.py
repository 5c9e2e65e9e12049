"""What atheris calls: an input is an archive as it is, or a recipe to build one from.

Runs in an environment of its own, with atheris. Random bytes rarely are an archive, and one whose
checksums are right even less; so every other input says which lies `tests.zips.build` shall tell.
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
    from taskfs.archive import archive
    from taskfs.archive import decode_cursor as cursors
    from taskfs.archive import seekable_decoder as inflate
    from tests.against_zipfile import compare

from tests.zips import BZIP2, DEFLATED, LZMA, ROOT, STORED, Entry, build, field, unicode_field

SEEN: Final[Counter[str]] = Counter()
SAVED_EVERY: Final = 500
METHODS: Final = [STORED, DEFLATED, DEFLATED, BZIP2, LZMA, 9, 93, 99]
NAMES: Final = [b"a", b"b", b"a/b", b"a/", b"./x", b"../x", b"a//b", b"\\x", b"\xff", b"n" * 256]
KINDS: Final = [0x0001, 0x000A, 0x5455, 0x7075, 0x9901]


def look(content: bytes) -> None:
    """Compare one input; whatever `compare` raises is a finding."""
    source = atheris.FuzzedDataProvider(content)
    body = _built(source) if source.ConsumeBool() else source.ConsumeBytes(len(content))
    SEEN.update(compare(body))
    SEEN["inputs"] += 1
    if SEEN["inputs"] % SAVED_EVERY == 0:
        _save_counts()


def _built(source: Any) -> bytes:
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
            end=_lie(source, ["disk", "here", "entries", "size", "offset", "comment"]),
            end64=_lie(source, ["record", "here", "entries", "size", "offset"]),
            locator=_lie(source, ["disk", "at", "disks"]),
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
        crc=_maybe(source, 4),
        size=_maybe(source, 4),
        compressed_size=_maybe(source, 4),
        offset=_maybe(source, 4),
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


def _bytes(source: Any, most: int) -> bytes:
    return bytes(source.ConsumeBytes(source.ConsumeIntInRange(0, most)))


def _name(source: Any) -> bytes:
    return bytes(source.PickValueInList(NAMES))


def _rarely(source: Any) -> bool:
    """One time in eight; never once the input is used up, so that what follows is honest."""
    return bool(source.ConsumeIntInRange(0, 7) == 7)


def _maybe(source: Any, width: int) -> int | None:
    """Return a lie of so many bytes, mostly none: a small one, or any."""
    if not _rarely(source):
        return None
    return int(source.ConsumeUInt(width) if source.ConsumeBool() else source.ConsumeUInt(1))


def _lie(source: Any, names: list[str]) -> dict[str, int]:
    """Return one field of a record that lies, mostly none."""
    value = _maybe(source, 2)
    return {} if value is None else {source.PickValueInList(names): value}


def _save_counts() -> None:
    if place := os.environ.get("TASKFS_FUZZ_COUNTS"):
        Path(place).write_text(json.dumps(SEEN))


def _seeds() -> list[bytes]:
    """Return archives as they are, with the byte in front that says so."""
    entries = [
        Entry(ROOT.encode() + name, b"content " * 9, method, zip64=wide, is_streamed=not wide)
        for name, method, wide in ((b"a", 8, False), (b"d/b", 0, True), (b"d/", 0, False))
    ]
    more = [Entry(ROOT.encode() + b"%d" % method, b"text" * 99, method) for method in (12, 14)]
    archives = [build(entries), build(entries, zip64=True, comment=b"c"), build(more), build([])]
    return [
        archive + b"\0" for archive in archives
    ]  # what is consumed as numbers stands at the end


def main() -> None:
    logging.disable(logging.CRITICAL)
    # Inputs are small: so are spans and the ways between checkpoints, else none would ever be left.
    for module in (archive, cursors, inflate):
        setattr(module, "SPAN", 1 << 10)  # noqa: B010 - it is final to all others
    setattr(inflate, "FIRST_SPACING", 4 << 10)  # noqa: B010
    places = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    for place in places:
        if place.is_dir() and not any(place.iterdir()):
            for number, seed in enumerate(_seeds()):
                (place / f"seed-{number}").write_bytes(seed)
    atheris.Setup(sys.argv, look)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
