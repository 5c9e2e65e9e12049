"""Names of archive members: what unzip, 7-Zip and bsdtar normalise, and which two are the same."""

import contextlib
from typing import Final

from taskfs.archive.end_record import CENTRAL_MAGIC

# Where the field "version made by" names these systems (APPNOTE 4.4.2), `\` may separate
# components: FAT, NTFS and VFAT. Archives of other systems have it in names.
WINDOWS: Final = frozenset({0, 10, 14})


def normalise(name: str) -> str:
    """Return *name* without the components `.` and empty ones.

    A slash at its start stays, so that an absolute path is still one; so does one at its end, which
    tells a directory. `..` stays: such a name is not shown.
    """
    components = name.split("/")
    kept = [component for component in components if component not in ("", ".")]
    is_folder = kept and components[-1] in ("", ".")
    return "/" * name.startswith("/") + "/".join(kept) + "/" * bool(is_folder)


def has_windows_separators(directory: bytes) -> bool:
    r"""Whether `\` separates components in the names of a central directory.

    It does where all members were made on Windows and no name has a `/`: .NET writes such archives.
    """
    if b"\\" not in directory:
        return False
    at, limit = 0, len(directory)
    while at + 46 <= limit and directory.startswith(CENTRAL_MAGIC, at):
        length = int.from_bytes(directory[at + 28 : at + 30], "little")
        if directory[at + 5] not in WINDOWS or directory.find(b"/", at + 46, at + 46 + length) >= 0:
            return False
        behind = directory[at + 30 : at + 34]  # lengths of the extra fields and of the comment
        at += 46 + length + int.from_bytes(behind[:2], "little")
        at += int.from_bytes(behind[2:], "little")
    return True


def is_same_name(local_name: bytes, raw_name: bytes, name: str) -> bool:
    r"""Whether a local header's name says what the directory says: *raw_name*, shown as *name*.

    Some writers give one name in CP437 and in UTF-8, or with `\` and with `/`.
    """
    return bool(_readings(local_name) & {*_readings(raw_name), name})


def _readings(raw_name: bytes) -> set[str]:
    """Return what the bytes may say: as UTF-8 if they are valid, and as CP437."""
    texts = [raw_name.decode("cp437")]
    with contextlib.suppress(UnicodeDecodeError):
        texts.append(raw_name.decode("utf-8"))
    return {normalise(text.replace("\\", "/")) for text in texts}
