"""The help of every command, compared with the options that the command accepts."""

from typing import Final

import click
import pytest

from taskfs.cli.main import COMMANDS, taskfs
from taskfs.cli.options import COMMON_HINT, common_records

CONTEXT: Final = click.Context(taskfs, info_name="taskfs")
COMMON: Final = {record[0].split(" ")[0].rstrip(",") for record in common_records(CONTEXT)}


def context_of(name: str) -> click.Context:
    command = taskfs.get_command(CONTEXT, name)
    assert command is not None
    return click.Context(command, info_name=name, parent=CONTEXT)


def accepted(context: click.Context) -> set[str]:
    """Return all flags that the command's parser takes."""
    parameters = context.command.get_params(context)
    return {flag for each in parameters for flag in (*each.opts, *each.secondary_opts)}


def named(context: click.Context) -> set[str]:
    """Return the common options that the help of the command names; `...` are all others."""
    records = [
        record
        for each in context.command.get_params(context)
        if (record := each.get_help_record(context)) is not None and record[1] == COMMON_HINT
    ]
    if not records:
        return set()
    (record,) = records
    flags = set(record[0].split(", "))
    return flags - {"..."} | COMMON if "..." in flags else flags


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_accepts_the_common_options_that_its_help_names(name: str) -> None:
    """C-59: A command accepts the common options that its help names, and no others."""
    context = context_of(name)
    others = {
        flag
        for each in context.command.get_params(context)
        if (record := each.get_help_record(context)) is not None and record[1] != COMMON_HINT
        for flag in each.opts
    }
    assert named(context) <= accepted(context)
    assert accepted(context) & COMMON <= named(context) | others


@pytest.mark.parametrize("name", ["pin", "unpin", "cache", "list", "mount"])
def test_commands_that_use_the_cache_accept_the_same(name: str) -> None:
    """C-59: What was given to `pin` may be given to `unpin` and `cache`, too."""
    assert accepted(context_of(name)) >= COMMON
