"""`taskfs completion`, and the answers that its scripts ask the program for."""

import os
from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
# The scripts run the program with this variable; its value is the shell and what it asks for.
VARIABLE: Final = "_TASKFS_COMPLETE"


@click.command(short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, task ids and mountpoints.

    \b
    bash: taskfs completion bash > ~/.local/share/bash-completion/completions/taskfs
    zsh:  taskfs completion zsh > DIRECTORY_OF_FPATH/_taskfs
    fish: taskfs completion fish > ~/.config/fish/completions/taskfs.fish

    Task ids are asked for while you type, at most for a second and a half (or
    TASKFS_COMPLETION_TIMEOUT).
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "taskfs", VARIABLE).source())


def answer(command: click.Command) -> int:
    """Print what a script asks for, and return the exit status.

    Whatever goes wrong, nothing is printed: it would stand amid what somebody types.
    """
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    kind = get_completion_class(shell)
    if kind is None or instruction != "complete":
        return 1
    try:
        click.echo(kind(command, {}, "taskfs", VARIABLE).complete())
    except Exception:
        return 1
    return 0
