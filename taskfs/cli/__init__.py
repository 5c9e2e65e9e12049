"""The command line: `taskfs COMMAND`; each command imports what it needs when it runs."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from taskfs import __version__
from taskfs.cli.console import complain, with_fix
from taskfs.cli.mount_helper import read_call
from taskfs.cli.streams import tolerate_encodings
from taskfs.errors import TaskFSError

log = logging.getLogger(__name__)

INTERRUPTED = 130
COMPLETING: Final = "_TASKFS_COMPLETE"  # the variable with which the scripts of shells ask
BROKEN_PIPE = 141  # as if by SIGPIPE: what `| head` makes of any other command


# Where each command is; the order is that of the help. One that is not called is not imported:
# mounting would take a third longer.
COMMANDS: Final = {
    "mount": ("mount", "mount"),
    "umount": ("mount", "umount"),
    "list": ("tasks", "list_tasks"),
    "watch": ("watch", "watch"),
    "info": ("tasks", "show"),
    "kill": ("tasks", "kill"),
    "wait": ("wait", "wait"),
    "download": ("download", "download"),
    "doctor": ("doctor", "doctor"),
    "demo": ("mount", "demo"),
    "systemd-unit": ("systemd", "systemd_unit"),
    "install-helper": ("systemd", "install_helper"),
    "mime-types": ("mime_types", "mime_types"),
    "completion": ("completion", "completion"),
    "docs": ("docs", "docs"),
    "manpage": ("manual_command", "manpage"),
}


class _Commands(click.Group):
    """The commands of the table, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command: Any = getattr(import_module(f"taskfs.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from taskfs.cli.suggestions import no_such_command

            ctx.fail(no_such_command(args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="taskfs", message="%(prog)s %(version)s")
@click.pass_context
def taskfs(ctx: click.Context) -> None:
    """Show remote simulation tasks as directories, and control them.

    `taskfs mount MOUNTPOINT` mounts your tasks: every task is a directory, its outputs are files
    that are fetched when they are read. `taskfs demo` shows it without an account.

    The API key is taken from a file (--api-key-file), TASKFS_API_KEY, INDUCTIVA_API_KEY, or where
    `inductiva auth login` keeps it; it is never an argument.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run() -> None:
    """The command `taskfs`: `main`, whose status ends the process.

    At once: to take the interpreter apart takes a fifth of the time that a mount does.
    """
    _leave_at_once(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; each failure is one line on standard error."""
    _open_standard_streams()
    tolerate_encodings()
    if COMPLETING in os.environ:
        from taskfs.cli.completion import answer

        _leave_at_once(answer(taskfs))  # who was too slow to answer is not waited for
    try:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        # The pools of the core would hold the exit until what they fetch has come or failed.
        _leave_at_once(INTERRUPTED)
    except SystemExit as exc:
        _leave_at_once(exc.code if isinstance(exc.code, int) else 1)
    except BrokenPipeError:
        _leave_at_once(BROKEN_PIPE)
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else "taskfs"
        from taskfs.cli.suggestions import usage_text

        complain(f"{usage_text(exc)} (see `{command} --help`)")
        status = exc.exit_code
    except click.ClickException as exc:
        complain(exc.format_message())
        status = exc.exit_code
    except TaskFSError as exc:
        complain(with_fix(exc))
        status = 1
    except OSError as exc:
        complain(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror or exc))
        _drop_output()
        status = 1
    except Exception as exc:
        log.debug("unexpected error", exc_info=True)
        complain(f"unexpected error: {type(exc).__name__}: {exc} (-vv shows where)")
        status = 1
    return status


def _open_standard_streams() -> None:
    """Occupy the descriptors 0 to 2 that the caller closed, and give Python streams for them.

    Otherwise the first sockets and files would get their numbers, and what is printed would go
    there. What is printed to a closed descriptor fails (EBADF), as it does with other programs.
    """
    while (descriptor := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(  # noqa: SIM115  # for the rest of the process
                number, "w" if number else "r", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)


def _run(arguments: list[str]) -> int:
    call = read_call(sys.argv[0], arguments, COMMANDS)
    if call is not None:
        return call.mount()
    # Not `taskfs.main`: it would turn an interrupt into `Aborted!` and a broken pipe into 1.
    try:
        with taskfs.make_context("taskfs", arguments) as context:
            status = taskfs.invoke(context)
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code


def _drop_output() -> None:
    """Let what cannot be written be lost: Python would fail over it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_at_once(status: int) -> None:
    """End the process without waiting for threads; what was printed is flushed if it can be."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
