"""`taskfs manpage`: the manual page, however taskfs was installed."""

import contextlib
import shutil
import subprocess
import sys

import click


@click.command(short_help="Show the manual page.")
@click.pass_context
def manpage(ctx: click.Context) -> int:
    """Show the manual page taskfs(1) on a terminal; elsewhere print its source.

    `man taskfs` finds the page only where the installer puts it: pip does, and pipx from 1.3 on.
    With an older pipx, put it there yourself:

    \b
    mkdir -p ~/.local/share/man/man1
    taskfs manpage > ~/.local/share/man/man1/taskfs.1
    """
    from taskfs.cli.manpage import manual

    group = ctx.find_root().command
    assert isinstance(group, click.Group)
    page = manual(group)
    viewer = shutil.which("man")
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
    elif viewer is None:
        click.echo_via_pager(_help_texts(ctx.find_root()))
    else:
        # man(1) reads the page from standard input with `-l -`, and its keys from the terminal.
        with contextlib.suppress(BrokenPipeError):  # the user left before the end
            done = subprocess.run([viewer, "-l", "-"], input=page.encode(), check=False)
            return done.returncode
    return 0


def _help_texts(root: click.Context) -> str:
    """Return what `--help` says of taskfs and of each command, for a machine without man(1)."""
    group = root.command
    assert isinstance(group, click.Group)
    texts = [group.get_help(root)]
    for name in group.list_commands(root):
        command = group.get_command(root, name)
        assert command is not None, name
        texts.append(command.get_help(click.Context(command, root, info_name=name)))
    return "\n\n\n".join(texts)
