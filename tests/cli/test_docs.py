"""`taskfs docs`: the documents that come with the program."""

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.fork_server import ROOT

DOCUMENTS = sorted(path.stem for path in (ROOT / "taskfs/docs").glob("*.md"))


def test_the_topics_are_listed(bare: Command) -> None:
    """C-15: `taskfs docs` lists each document with its title."""
    done = bare("docs")
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert sorted(listed) == DOCUMENTS
    assert listed["semantics"] == "Semantics"


@pytest.mark.parametrize("topic", DOCUMENTS)
def test_a_topic_is_printed_where_there_is_no_terminal(bare: Command, topic: str) -> None:
    """C-15: `taskfs docs TOPIC` prints the document as it is."""
    done = bare("docs", topic)
    assert (done.returncode, done.stderr) == (0, "")
    text = (ROOT / f"taskfs/docs/{topic}.md").read_text()
    assert done.stdout.rstrip("\n") == text.rstrip("\n")


@pytest.mark.parametrize(
    ("slip", "hint"), [("semantic", "did you mean semantics?"), ("xyzzy", "lists the topics")]
)
def test_an_unknown_topic(bare: Command, slip: str, hint: str) -> None:
    """C-1, C-15: An unknown topic is one line that names the nearest one; the status is 2."""
    done = bare("docs", slip)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


@pytest.mark.parametrize("path", [ROOT / "README.md", *sorted((ROOT / "taskfs/docs").glob("*.md"))])
def test_links_lead_somewhere(path: Path) -> None:
    """C-15: Each relative link of a document leads to a file of the repository."""
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target
