"""Messages about misspelt commands and options, with the probable spelling."""

from collections.abc import Iterable
from typing import Final

import click

from taskfs.options import near_matches

# Names that other programs use for our commands.
_SYNONYMS: Final = {
    "cancel": "kill",
    "copy": "cp",
    "get": "download",
    "auth": "login",
    "help": "--help",
    "man": "manpage",
    "manual": "manpage",
    "ps": "list",
    "rm": "kill",
    "show": "info",
    "status": "info",
    "stop": "kill",
    "tasks": "list",
    "unmount": "umount",
    "version": "--version",
}


def describe_unknown_command(name: str, commands: Iterable[str]) -> str:
    """Return the message about a command that does not exist."""
    word = name.lower()
    if word in _SYNONYMS:
        guess = f": did you mean {_SYNONYMS[word]}?"
    else:
        guess = near_matches(word, commands)
    return f"No such command {name!r}{guess}"


def describe_usage_error(exc: click.UsageError) -> str:
    """Return the message about a wrong command line, without a full stop."""
    if isinstance(exc, click.NoSuchOption) and exc.ctx is not None:
        parameters = exc.ctx.command.get_params(exc.ctx)
        known = [
            word
            for parameter in parameters
            for word in (*parameter.opts, *parameter.secondary_opts)
            if word.startswith("-")
        ]
        guess = near_matches(exc.option_name, known)
        if not guess and exc.ctx.parent is None:
            guess = ": the options of a command follow its name"
        return f"No such option {exc.option_name!r}{guess}"
    return exc.format_message().rstrip(".")
