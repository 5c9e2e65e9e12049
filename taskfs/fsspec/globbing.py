"""Pruning of directories for fsspec's globs."""

import re
from collections.abc import Iterable, Iterator

from fsspec.utils import glob_translate


def may_match_beneath(path: str, pattern: str) -> bool:
    """Whether a path beneath the directory *path* may match the glob *pattern*."""
    return all(_matches(path.split("/") if path else [], pattern.split("/")))


def _matches(names: Iterable[str], patterns: Iterable[str]) -> Iterator[bool]:
    """Yield for each name whether its pattern matches, up to the first `**`."""
    for name, pattern in zip(names, patterns, strict=False):
        if "**" in pattern:
            return
        yield re.match(glob_translate(pattern), name) is not None
