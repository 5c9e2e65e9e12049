"""`taskfs manpage`."""

import contextlib
import shutil
import subprocess
import sys

import click


@click.command("manpage", short_help="Show the manual page.")
@click.pass_context
def command(ctx: click.Context) -> int:
    """Show the manual page taskfs(1) on a terminal; elsewhere print its source.

    `man taskfs` finds the page if the installer put it into place: pip does, and pipx since 1.3.
    With an older pipx, install it yourself:

    \b
    mkdir -p ~/.local/share/man/man1
    taskfs manpage > ~/.local/share/man/man1/taskfs.1
    """
    from taskfs.cli.roff import format_manual

    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    page = format_manual(group)
    viewer = shutil.which("man")
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
    elif viewer is None:
        click.echo_via_pager(_help_texts(ctx.find_root()))
    else:
        # man(1) reads the page from standard input with `-l -`, and its keys from the terminal.
        with contextlib.suppress(BrokenPipeError):  # the user quit early
            done = subprocess.run([viewer, "-l", "-"], input=page.encode(), check=False)
            return done.returncode
    return 0


def _help_texts(root: click.Context) -> str:
    """Return all help texts, the page of a machine without man(1)."""
    group = root.command
    assert isinstance(group, click.Group)
    texts = [group.get_help(root)]
    for name in group.list_commands(root):
        subcommand = group.get_command(root, name)
        assert subcommand is not None, name
        texts.append(subcommand.get_help(click.Context(subcommand, root, info_name=name)))
    return "\n\n\n".join(texts)
