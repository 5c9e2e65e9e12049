"""A task with a large archive for the soak test: its names, its table and some of its files."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Final

from tests.fake_api import FakeCloud
from tests.large_archives import FIELDS, TIMES, add_large_task, body_of, count_entries, name_of

from .readers import Action, Context, ShortListing, Violation

LISTED: Final = 20  # directories that are listed one after another
COPIED: Final = 30  # files that are read one after another


class LargeArchive:
    """A finished task with *members* small files, whose archive lies in *folder*. Immutable."""

    def __init__(self, cloud: FakeCloud, folder: Path, members: int) -> None:
        self.members = members
        self.id = add_large_task(cloud, folder / "large.zip", members)

    @property
    def directories(self) -> int:
        return -(-self.members // FIELDS)

    def names_in(self, directory: int) -> list[str]:
        """Return the names in the directory with this number."""
        first = directory * FIELDS
        numbers = range(first, min(first + FIELDS, self.members))
        return [name_of(number).rpartition("/")[2] for number in numbers]


def _check_file(path: Path, number: int) -> None:
    if (body := path.read_bytes()) != body_of(number):
        raise Violation(f"member {number} of the large archive: {body!r}")


def read_large(context: Context, rng: random.Random) -> None:
    """Read members at random places."""
    large = context.large
    for _ in range(10):
        number = rng.randrange(large.members)
        _check_file(context.mount / large.id / "outputs" / name_of(number), number)


def copy_large(context: Context, rng: random.Random) -> None:
    """Read members one after another."""
    large = context.large
    first = rng.randrange(large.members)
    for number in range(first, min(first + COPIED, large.members)):
        _check_file(context.mount / large.id / "outputs" / name_of(number), number)


def list_large(context: Context, rng: random.Random) -> None:
    """List some directories with the sizes of their files."""
    large = context.large
    first = rng.randrange(large.directories)
    for directory in range(first, min(first + LISTED, large.directories)):
        path = (context.mount / large.id / "outputs" / name_of(directory * FIELDS)).parent
        with os.scandir(path) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries}
        expected = large.names_in(directory)
        if sorted(found) != expected:
            raise ShortListing(f"{path}: {len(found)} names, not {len(expected)}")
        numbers = range(directory * FIELDS, directory * FIELDS + len(expected))
        if list(map(found.get, expected)) != [len(body_of(number)) for number in numbers]:
            raise Violation(f"{path}: wrong sizes")


def walk_large(context: Context, rng: random.Random) -> None:
    """Count all names beneath one processor, as `find` does."""
    large = context.large
    count = -(-large.directories // TIMES)
    processor = rng.randrange(count)
    first = processor * TIMES * FIELDS
    top = context.mount / large.id / "outputs" / f"processor{processor}"

    def stop(error: OSError) -> None:
        raise error

    found = 0
    for _, directories, names in os.walk(top, onerror=stop):
        found += len(directories) + len(names)
        context.progress()
    expected = count_entries(min(large.members - first, TIMES * FIELDS)) - 1
    if found != expected:
        raise ShortListing(f"{top}: {found} names, not {expected}")


def read_table(context: Context, rng: random.Random) -> None:
    """Read the end of `output_files_info`, after a `stat`."""
    large = context.large
    with open(context.mount / large.id / "output_files_info", "rb") as table:
        table.seek(max(0, os.fstat(table.fileno()).st_size - 200))
        end = table.read()
    if not end.endswith(b" " + name_of(large.members - 1).encode() + b"\n"):
        raise Violation(f"the table of the large archive ends with {end!r}")


LARGE_ACTIONS: Final[dict[Action, int]] = {
    read_large: 8,
    copy_large: 4,
    list_large: 4,
    walk_large: 1,
    read_table: 2,
}
