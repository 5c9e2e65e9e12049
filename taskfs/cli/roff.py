"""The manual page taskfs(1), made from the help texts in man(7) form, one .SS per command."""

import inspect
import os
import re
import textwrap
import time
from collections.abc import Iterator
from typing import Final

import click

from taskfs import __version__
from taskfs.cli.options import common_records
from taskfs.options import OPTIONS

_MOUNT_OPTIONS: Final = """\
`mount -t fuse.taskfs taskfs MOUNTPOINT -o OPT[,OPT...]` and a line of fstab(5) mount as
`taskfs mount` does. mount(8) finds the program by the link that `taskfs install-helper` makes, or
in the system's directories. `taskfs systemd-unit --fstab` prints such a line.

These options exist only in -o:"""
TREE: Final = (
    ("ID/", "One directory per task of the account."),
    ("ID/status", "The status, as the API spells it."),
    ("ID/machine_type", "The machine type; empty until a machine is assigned."),
    ("ID/computation_time", "HH:MM:SS; counts while the task computes."),
    ("ID/output_files_info", "The table of the output archive; empty until there is one."),
    ("ID/info.json", "The task's record, indented."),
    ("ID/error", "The error of the API and of the program that ran the simulation, if any."),
    ("ID/kill", "A write of at least one byte kills the task."),
    ("ID/outputs/, ID/inputs/", "The files inside output.zip and input.zip, read by range."),
    ("ID/live/", "The files on the machine while the task runs."),
    ("ID/output.zip, ID/input.zip", "The archives as they are stored; not listed."),
    (".by-status/, .by-project/, .by-simulator/", "Links to the tasks, by group."),
    (".by-date/", "Links to the tasks, named after their time, simulator and status."),
    ("tasks.csv", "All tasks as a table; not listed."),
    (".latest", "A link to the task that was created last."),
    (".taskfs/stats.json, version, refresh", "Counters; the version; after a write, listings, "
     "records and indexes are requested again. `.taskfs` is not listed."),
)  # fmt: skip
_EXAMPLES: Final = (
    ("Try it without an account:", ("taskfs demo ~/taskfs-demo", "ls ~/taskfs-demo")),
    ("Mount your tasks, look into a result, and unmount:",
     ("taskfs mount ~/tasks", "tail ~/tasks/ID/outputs/stdout.txt", "taskfs umount ~/tasks")),
    ("Why did the failed tasks fail?", ("grep . ~/tasks/.by-status/failed/*/error",)),
    ("Wait for a task, then copy its files:",
     ("taskfs wait ID && cp -r ~/tasks/ID/outputs ~/results",)),
    ("Kill a task:", ("echo 1 > ~/tasks/ID/kill",)),
    ("Copy every night, but only from a live mount:",
     ("cat ~/tasks/.taskfs/version >/dev/null && "
      "rsync -a --delete --exclude='/*/live' ~/tasks/ /backup/tasks/",)),
)  # fmt: skip
_FILES: Final = (
    ("~/.inductiva/api_key", "The API key, unless --api-key-file names another file."),
    ("~/.config/taskfs/config.toml", "Settings, one per line: cache_size = \"20G\"."),
    ("~/.cache/taskfs", "Cached blocks and indexes of archives."),
    ("~/.local/state/taskfs/log", "The log of each background mount."),
)  # fmt: skip
_ENVIRONMENT: Final = (
    ("TASKFS_NAME", "Any setting, such as TASKFS_CACHE_SIZE for --cache-size."),
    ("TASKFS_API_KEY, INDUCTIVA_API_KEY", "The API key."),
    ("INDUCTIVA_API_URL, INDUCTIVA_OUTPUT_DIR", "Variables of the service's own client."),
    (
        "INDUCTIVA_TURN_SERVER_URL",
        "The STUN and TURN server for live/; a variable of that client too.",
    ),
    ("NO_COLOR", "If set, output has no colours."),
)
_STATUS: Final = (
    ("0", "Success; for wait: the task ended as success."),
    ("1", "A failure, explained by one line on standard error."),
    ("2", "A wrong command line."),
    ("3", "Of wait: there is no such task."),
    ("124", "Of wait: the time of --timeout has passed."),
    ("129, 143", "SIGHUP or SIGTERM."),
    ("130", "Ctrl+C."),
    ("141", "The reader of the output has ended, such as head(1)."),
)
_SEE_ALSO: Final = "mount(8), fstab(5), fusermount(1), systemd.service(5)"


def format_manual(group: click.Group, date: str | None = None) -> str:
    """Return the page as roff.

    *date* is YYYY-MM-DD; the default is the date of SOURCE_DATE_EPOCH, or today.
    """
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = date or time.strftime("%Y-%m-%d", time.gmtime(seconds))
    return "\n".join(_lines(group, date)) + "\n"


def _lines(group: click.Group, date: str) -> Iterator[str]:
    settings = {"terminal_width": 80, **group.context_settings}
    context = click.Context(group, info_name="taskfs", **settings)
    title, *rest = _split_paragraphs(group.help)
    yield f'.TH TASKFS 1 "{date}" "taskfs {__version__}" "User Commands"'
    yield ".SH NAME"
    yield f"taskfs \\- {_escape_line(title[:1].lower() + title[1:]).rstrip('.')}"
    yield ".SH SYNOPSIS"
    yield "\\fBtaskfs\\fR [\\-\\-version] [\\-\\-help] \\fICOMMAND\\fR [\\fIARGUMENT\\fR ...]"
    yield ".SH DESCRIPTION"
    yield from _format_paragraphs(rest)
    yield ".SH COMMANDS"
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield from _command(command, click.Context(command, context, info_name=name))
    yield ".SH COMMON OPTIONS"
    yield from _format_tagged(common_records(context))
    yield ".SH MOUNT OPTIONS"
    yield from _format_paragraphs(_split_paragraphs(_MOUNT_OPTIONS))
    mount_only = [option for option in OPTIONS if option.in_mount_options and not option.commands]
    yield from _format_tagged(
        [
            (option.name + (f"={option.metavar}" if option.metavar else ""), option.help)
            for option in mount_only
        ]
    )
    yield ".SH FILES IN A MOUNT"
    yield from _format_tagged(TREE)
    yield ".SH EXAMPLES"
    yield from _examples()
    for heading, rows in (
        ("ENVIRONMENT", _ENVIRONMENT),
        ("FILES", _FILES),
        ("EXIT STATUS", _STATUS),
    ):
        yield f".SH {heading}"
        yield from _format_tagged(rows)
    yield ".SH SEE ALSO"
    yield _escape_line(_SEE_ALSO)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    yield f".SS {_escape_line(f'taskfs {command.name} {usage}')}"
    yield from _format_paragraphs(_split_paragraphs(command.help))
    records = (parameter.get_help_record(context) for parameter in command.get_params(context))
    yield from _format_tagged([record for record in records if record is not None and record[1]])
    if command.epilog:
        yield ".PP"
        yield from _format_paragraphs(_split_paragraphs(command.epilog))


def _examples() -> Iterator[str]:
    for number, (title, commands) in enumerate(_EXAMPLES):
        if number:
            yield ".PP"
        yield from _wrap(title)
        yield ".PP"
        yield ".RS 4"
        yield ".nf"
        yield from map(_escape_line, commands)
        yield ".fi"
        yield ".RE"


def _split_paragraphs(text: str | None) -> list[str]:
    return re.split(r"\n\s*\n", inspect.cleandoc(text or ""))


def _format_paragraphs(paragraphs: list[str]) -> Iterator[str]:
    """Yield paragraphs; one that begins with click's `\\b` keeps its line breaks."""
    for number, paragraph in enumerate(paragraphs):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield ".nf"
            yield from map(_escape_line, paragraph[1:].strip("\n").split("\n"))
            yield ".fi"
        else:
            yield from _wrap(paragraph)


def _format_tagged(rows: "list[tuple[str, str]] | tuple[tuple[str, str], ...]") -> Iterator[str]:
    for tag, text in rows:
        yield ".TP"
        yield f"\\fB{_escape_line(tag)}\\fR"
        yield from _wrap(text)


def _wrap(text: str) -> Iterator[str]:
    """Yield *text* in short lines, as roff input should be; roff fills them again."""
    marked = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", _escape(" ".join(text.split())))
    lines = textwrap.wrap(marked, 78, break_long_words=False, break_on_hyphens=False)
    yield from map(_guard, lines)


def _escape_line(text: str) -> str:
    return _guard(_escape(text))


def _escape(text: str) -> str:
    """Return *text* escaped for roff, with dashes that paste as ASCII hyphens."""
    return text.replace("\\", "\\e").replace("-", "\\-")


def _guard(line: str) -> str:
    """Return *line* protected from being taken for a roff request."""
    return f"\\&{line}" if line[:1] in (".", "'") else line
