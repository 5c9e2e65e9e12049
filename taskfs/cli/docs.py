"""`taskfs docs`: the documents that are shipped with the program."""

import difflib
from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import click
from click.shell_completion import CompletionItem

_SUFFIX: Final = ".md"


def documents() -> Mapping[str, str]:
    """Return the text of each document by its topic, in alphabetical order."""
    found = [
        entry for entry in (files("taskfs") / "docs").iterdir() if entry.name.endswith(_SUFFIX)
    ]
    return {
        entry.name.removesuffix(_SUFFIX): entry.read_text(encoding="utf-8")
        for entry in sorted(found, key=lambda entry: entry.name)
    }


def _complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(topic) for topic in documents() if topic.startswith(incomplete)]


def _title(text: str) -> str:
    return text.split("\n", 1)[0].lstrip("# ").replace("`", "")


@click.command("docs", short_help="Show the documents.")
@click.argument("topic", required=False, shell_complete=_complete)
def command(topic: str | None) -> None:
    """Show the document TOPIC in a pager; without TOPIC, list the topics.

    The variable PAGER names the pager. If the output is not a terminal, the text is printed.
    """
    known = documents()
    if topic is None:
        width = max(map(len, known))
        for name, text in known.items():
            click.echo(f"{name:<{width}}  {_title(text)}")
        return
    name = topic.lower().removesuffix(_SUFFIX)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}?" if close else "`taskfs docs` lists the topics"
        raise click.UsageError(f"there is no document {topic!r}: {hint}")
    click.echo_via_pager(known[name])
