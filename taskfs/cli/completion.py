"""`taskfs completion`, and the answers to its scripts."""

import os
from typing import Final

import click
from click.shell_completion import get_completion_class

SHELLS: Final = ("bash", "zsh", "fish")
# The scripts run the program with this variable set to `SHELL_INSTRUCTION`.
VARIABLE: Final = "_TASKFS_COMPLETE"


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(SHELLS), metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, task ids and mountpoints.

    \b
    bash: taskfs completion bash > ~/.local/share/bash-completion/completions/taskfs
    zsh:  taskfs completion zsh > DIRECTORY_OF_FPATH/_taskfs
    fish: taskfs completion fish > ~/.config/fish/completions/taskfs.fish

    Completing a task id asks the API, for at most TASKFS_COMPLETION_TIMEOUT (a second and a half).
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "taskfs", VARIABLE).source())


def answer(group: click.Command) -> int:
    """Print the candidates that a script asks for, and return the exit status.

    Errors print nothing, because the text would appear amid the user's command line.
    """
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    kind = get_completion_class(shell)
    if kind is None or instruction != "complete":
        return 1
    try:
        click.echo(kind(group, {}, "taskfs", VARIABLE).complete())
    except Exception:
        return 1
    return 0
