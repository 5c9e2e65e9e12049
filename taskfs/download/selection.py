"""Choosing members of an archive by the names on the command line."""

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence

from taskfs.archive.member import Member
from taskfs.errors import NotFound


def select_members(members: Iterable[Member], names: Sequence[str]) -> list[Member]:
    """Return the members that match any of *names*, in archive order; all without names.

    A name is a member's path, a directory (everything beneath it) or a glob, whose `*` crosses
    `/`.

    Raises:
        NotFound: some names match no member; the text lists them.
    """
    members = list(members)
    if not names:
        return members
    chosen: set[str] = set()
    missing = []
    for name in names:
        found = _matching(members, name)
        if not found and (other := _read_as_utf8(name)):
            found = _matching(members, other)
        chosen.update(found)
        if not found:
            missing.append(name)
    if missing:
        raise NotFound(f"not in the archive: {', '.join(missing)}")
    return [member for member in members if member.path in chosen]


def _read_as_utf8(name: str) -> str | None:
    """Return the bytes of *name* decoded as UTF-8, or None if they are not UTF-8.

    A terminal may send UTF-8 even if the locale has another encoding.
    """
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return None


def _matching(members: Sequence[Member], name: str) -> set[str]:
    name = name.removeprefix("./")
    exact = {member.path for member in members if member.path == name}
    if exact:
        return exact
    folder = name.rstrip("/") + "/"
    beneath = {member.path for member in members if member.path.startswith(folder)}
    if beneath or not re.search(r"[*?\[]", name):
        return beneath
    matches = re.compile(fnmatch.translate(f"{folder}*" if name.endswith("/") else name)).match
    return {member.path for member in members if matches(member.path)}
