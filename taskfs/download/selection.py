"""Choosing members of an archive by the names on the command line."""

import fnmatch
import os
import re
from array import array
from collections.abc import Callable, Sequence

from taskfs.archive.member import Member
from taskfs.errors import NotFound

Matcher = Callable[[str], object]


def select_members(members: Sequence[Member], names: Sequence[str]) -> Sequence[int]:
    """Return the positions of the members that match any of *names*, in archive order; all without
    names.

    A name is a member's path, a directory (everything beneath it) or a glob, whose `*` crosses
    `/`. The members, of which there may be millions, are read once, one after another.

    Raises:
        NotFound: some names match no member; the text lists them.
    """
    if not names:
        return range(len(members))
    choices = [_Choice(name) for name in names]
    for position, member in enumerate(members):
        for choice in choices:
            choice.note(position, member.path)
    missing = [choice.name for choice in choices if not choice.found()]
    if missing:
        raise NotFound(f"not in the archive: {', '.join(missing)}")
    chosen = bytearray(len(members))
    for choice in choices:
        for position in choice.found():
            chosen[position] = 1
    return array("I", (position for position, is_chosen in enumerate(chosen) if is_chosen))


class _Choice:
    """The members that one name matches, by each way to read it. The first way that finds one
    counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        readings = [name] if (other := _read_as_utf8(name)) in (None, name) else [name, other]
        self._ways = [(way, array("I")) for each in readings for way in _ways(str(each))]

    def note(self, position: int, path: str) -> None:
        """Note the member with this path."""
        for matches, found in self._ways:
            if matches(path):
                found.append(position)
                return

    def found(self) -> Sequence[int]:
        """Return the positions of the members."""
        return next((found for _, found in self._ways if found), array("I"))


def _ways(name: str) -> list[Matcher]:
    name = name.removeprefix("./")
    folder = name.rstrip("/") + "/"
    ways: list[Matcher] = [name.__eq__, lambda path: path.startswith(folder)]
    if re.search(r"[*?\[]", name):
        pattern = fnmatch.translate(f"{folder}*" if name.endswith("/") else name)
        ways.append(re.compile(pattern).match)
    return ways


def _read_as_utf8(name: str) -> str | None:
    """Return the bytes of *name* decoded as UTF-8, or None if they are not UTF-8.

    A terminal may send UTF-8 even if the locale has another encoding.
    """
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeError:
        return None
