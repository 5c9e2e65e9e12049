"""`taskfs COMMAND`: the group of commands, and how a run of one ends.

Each command is imported when it runs, because importing all of them would slow down every start.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from taskfs import __version__
from taskfs.cli.encodings import replace_unencodable
from taskfs.cli.mount_helper import parse_mount_call
from taskfs.cli.output import describe_error, print_error
from taskfs.cli.signals import repeat_swallowed_signals
from taskfs.errors import TaskFSError

log = logging.getLogger(__name__)

EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE: the status of any other command before `| head`
COMPLETION_VARIABLE: Final = "_TASKFS_COMPLETE"  # set by the completion scripts of the shells

# The commands in the order of the help. The command `a-b` is the object `command` of the module
# `taskfs.cli.a_b`.
COMMANDS: Final = (
    "login",
    "logout",
    "mount",
    "umount",
    "mounts",
    "stats",
    "list",
    "ls",
    "cat",
    "head",
    "tail",
    "du",
    "cp",
    "watch",
    "info",
    "top",
    "kill",
    "wait",
    "download",
    "pin",
    "unpin",
    "cache",
    "doctor",
    "demo",
    "systemd-unit",
    "install-helper",
    "mime-types",
    "completion",
    "docs",
    "manpage",
)


class _LazyGroup(click.Group):
    """A group that imports a command only when the command is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = "taskfs.cli." + cmd_name.replace("-", "_")
        module: Any = import_module(name)
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        from taskfs.cli.options import common_records

        with formatter.section("Common options, after a command whose help names them"):
            formatter.write_dl(common_records(ctx))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            from taskfs.cli.suggestions import describe_unknown_command

            ctx.fail(describe_unknown_command(args[0], COMMANDS))
        return super().resolve_command(ctx, args)


@click.group(
    cls=_LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="taskfs", message="%(prog)s %(version)s")
@click.pass_context
def taskfs(ctx: click.Context) -> None:
    """Show remote simulation tasks as directories, and control them.

    `taskfs mount MOUNTPOINT` mounts your tasks: each task is a directory, and its outputs are files
    that are fetched when they are read. `taskfs demo` shows it without an account.

    The API key comes from a file (--api-key-file), from TASKFS_API_KEY or INDUCTIVA_API_KEY, or
    from ~/.inductiva/api_key, which `taskfs login` and `inductiva auth login` write. It is never an
    argument.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run() -> None:
    """Run `main` and end the process with its status.

    The process ends without the interpreter's teardown, because that delays each command.
    """
    repeat_swallowed_signals()
    _exit_now(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; each failure is one line on standard error."""
    _open_standard_streams()
    replace_unencodable()
    if COMPLETION_VARIABLE in os.environ:
        from taskfs.cli.completion import answer

        _exit_now(answer(taskfs))  # do not wait for threads whose responses came too late
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        # The core's thread pools would delay the exit until their requests end.
        _exit_now(EXIT_INTERRUPTED)
    except SystemExit as exc:
        _exit_now(exc.code if isinstance(exc.code, int) else 1)
    except BrokenPipeError:
        _exit_now(EXIT_BROKEN_PIPE)
    except click.UsageError as exc:
        # The parser's own errors have no context.
        named = " ".join(["taskfs", *(word for word in words[:1] if word in COMMANDS)])
        command = exc.ctx.command_path if exc.ctx else named
        from taskfs.cli.suggestions import describe_usage_error

        print_error(f"{describe_usage_error(exc)} (see `{command} --help`)")
        status = exc.exit_code
    except click.ClickException as exc:
        print_error(exc.format_message())
        status = exc.exit_code
    except TaskFSError as exc:
        print_error(describe_error(exc))
        status = 1
    except OSError as exc:
        print_error(f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc.strerror or exc))
        _discard_output()
        status = 1
    except Exception as exc:
        log.debug("unexpected error", exc_info=True)
        print_error(f"unexpected error: {type(exc).__name__}: {exc} (-vv shows the traceback)")
        status = 1
    return status


def _open_standard_streams() -> None:
    """Open the descriptors 0 to 2 where the caller closed them, with Python streams on them.

    Otherwise the first sockets and files would get these numbers and receive the output. Writing to
    a descriptor that the caller closed still fails with EBADF, as in other programs.
    """
    while (descriptor := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(  # noqa: SIM115  # open until the process ends
                number, "w" if number else "r", errors="backslashreplace", closefd=False
            )
            setattr(sys, name, stream)


def _run(arguments: list[str]) -> int:
    call = parse_mount_call(sys.argv[0], arguments, COMMANDS)
    if call is not None:
        return call.mount()
    # Not `taskfs.main`, which reports an interrupt as `Aborted!` and a broken pipe as status 1.
    try:
        with taskfs.make_context("taskfs", arguments) as context:
            status = taskfs.invoke(context)
            return status if isinstance(status, int) else 0
    except click.exceptions.Exit as exc:
        return exc.exit_code


def _discard_output() -> None:
    """Discard buffered output that cannot be written: Python would report it again at exit."""
    with contextlib.suppress(OSError, ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _exit_now(status: int) -> None:
    """Flush the output if possible and end the process without waiting for threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
