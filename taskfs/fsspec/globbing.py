"""Which directories a glob of fsspec has to look into."""

import re
from collections.abc import Iterable, Iterator

from fsspec.utils import glob_translate


def may_hold(path: str, pattern: str) -> bool:
    """Whether what lies beneath *path* may match the *pattern* of a glob."""
    return all(_matches(path.split("/") if path else [], pattern.split("/")))


def _matches(names: Iterable[str], patterns: Iterable[str]) -> Iterator[bool]:
    for name, pattern in zip(names, patterns, strict=False):
        if "**" in pattern:
            return
        yield re.match(glob_translate(pattern), name) is not None
