"""The promises of docs/semantics.md and the tests that cite them."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
CONTRACT: Final = (ROOT / "taskfs/docs/semantics.md").read_text()
NOT_PROMISED: Final = "U"
_PROMISE: Final = re.compile(r"^- \*\*([A-Z]-[0-9]+)\*\* \S", re.MULTILINE)
_CITATION: Final = re.compile(r"((?:[A-Z]-[0-9]+, )*[A-Z]-[0-9]+): \S")
# A document with a section ("Semantics, Names: "), or a number of an issue.
_OLD_CITATION: Final = re.compile(
    r"(?:docs/)?(?:readme|semantics|style guide|live|remote-api)(?:\.md)?[,:]|issue \d",
    re.IGNORECASE,
)


def promises() -> list[str]:
    return _PROMISE.findall(CONTRACT)


@cache
def docstrings() -> list[tuple[str, str]]:
    """Return where each test stands, and its docstring."""
    return list(_find_docstrings())


def _find_docstrings() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{path.relative_to(ROOT)}::{node.name}"
                if node.name.lower().startswith("test"):
                    yield name, ast.get_docstring(node) or ""


def cited(docstring: str) -> list[str]:
    """Return the ids with which a docstring begins."""
    match = _CITATION.match(docstring)
    return match[1].split(", ") if match else []


def test_ids_are_unique_and_in_order() -> None:
    """Each promise has an id of its own, and ids count up within a section."""
    known = promises()
    assert len(known) > 150
    assert [name for name, times in Counter(known).items() if times > 1] == []
    for letter in {name[0] for name in known}:
        numbers = [int(name[2:]) for name in known if name[0] == letter]
        assert numbers == sorted(numbers), letter


def test_each_item_of_the_contract_has_an_id() -> None:
    """No promise of the contract is without an id."""
    items = re.findall(r"^- ", CONTRACT, re.MULTILINE)
    assert len(items) == len(promises())


def test_each_promise_is_cited_by_a_test() -> None:
    """A test cites each id, except those of "What is not promised"."""
    proved = {name for _, docstring in docstrings() for name in cited(docstring)}
    assert [p for p in promises() if p not in proved and p[0] != NOT_PROMISED] == []


def test_each_cited_promise_exists() -> None:
    """Each id that a test cites is in the contract."""
    known = set(promises())
    wrong = [
        (where, name)
        for where, docstring in docstrings()
        for name in cited(docstring)
        if name not in known
    ]
    assert wrong == []


def test_no_test_cites_what_is_not_there() -> None:
    """No test cites issues, style guides or sections of the README in place of an id."""
    assert [where for where, text in docstrings() if _OLD_CITATION.match(text)] == []


def test_citations_are_recognised() -> None:
    """Ids count at the beginning of a docstring only."""
    assert cited("F-3, X-10: A listing.") == ["F-3", "X-10"]
    assert cited("UTF-8: a name") == [] and cited("As F-3: says.") == []
