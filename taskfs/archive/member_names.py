"""Names of members: how they are decoded and normalised, and which ones count as equal."""

import contextlib


def decode_name(raw_name: bytes) -> str:
    """Return the name as UTF-8 if it is valid, else as CP437, in which every byte is valid.

    Flag bit 11 (the name is UTF-8) is not used: many writers leave it out, and some set it for
    other encodings.
    """
    try:
        return raw_name.decode("utf-8")
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def normalise(name: str) -> str:
    """Return *name* without empty and `.` components, as unzip, 7-Zip and bsdtar do.

    A slash at the start stays: the path is absolute, and is not shown. A slash at the end stays: it
    marks a directory. `..` stays: such a name is not shown.
    """
    components = name.split("/")
    kept = [component for component in components if component not in ("", ".")]
    is_folder = kept and components[-1] in ("", ".")
    return "/" * name.startswith("/") + "/".join(kept) + "/" * bool(is_folder)


def is_same_name(local_name: bytes, raw_name: bytes, name: str) -> bool:
    r"""Whether the name in a local header agrees with the directory's *raw_name*, shown as *name*.

    Some writers store one name in CP437 and in UTF-8, or with `\` and with `/`.
    """
    return bool(_readings(local_name) & {*_readings(raw_name), name})


def _readings(raw_name: bytes) -> set[str]:
    """Return the names that the bytes may mean: in UTF-8, if they are valid, and in CP437."""
    texts = [raw_name.decode("cp437")]
    with contextlib.suppress(UnicodeDecodeError):
        texts.append(raw_name.decode("utf-8"))
    return {normalise(text.replace("\\", "/")) for text in texts}
