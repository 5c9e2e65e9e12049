"""Telling the user that a task has ended: a desktop notification, the bell, and a command."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from taskfs.cli.output import print_error
from taskfs.errors import ConfigError
from taskfs.model import Task

TIMEOUT_S: Final = 5.0  # seconds for notify-send, which waits for a notification service
# Any of these means that the process belongs to a desktop session.
_DESKTOP: Final = ("WAYLAND_DISPLAY", "DISPLAY")


def parse_command(text: str) -> tuple[str, ...]:
    """Split the command of --exec into words, as a shell does; no shell runs it."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as exc:
        raise ConfigError(f"{text!r} is no command ({exc}): check its quotes") from None
    if not words:
        raise ConfigError("the command is empty: write a program and its arguments")
    return words


def notify(title: str, text: str) -> None:
    """Show a desktop notification if there is a desktop, and ring the terminal's bell."""
    program = shutil.which("notify-send")
    if program is not None and any(os.environ.get(name) for name in _DESKTOP):
        try:
            subprocess.run(
                [program, "--app-name=taskfs", "--", title, text],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            print_error(f"there is no desktop notification: {exc}")
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write("\a")
        sys.stderr.flush()


def run_command(words: Sequence[str], task: Task, *, to_stderr: bool) -> None:
    """Run a command with the task in its environment; print an error if it fails.

    With *to_stderr* its standard output is our standard error.
    """
    environment = {**os.environ, **variables(task)}
    stdout = sys.stderr if to_stderr else None
    try:
        done = subprocess.run(words, env=environment, stdout=stdout, check=False)
    except OSError as exc:
        print_error(f"--exec: {words[0]} cannot be run ({exc.strerror}): write a program's path")
        return
    if done.returncode:
        print_error(f"--exec: {words[0]} ended with status {done.returncode}")


def variables(task: Task) -> Mapping[str, str]:
    """Return the environment variables that describe *task*."""
    return {
        "TASK_ID": task.id,
        "TASK_STATUS": task.status,
        "TASK_PROJECT": task.project or "",
        "TASK_SIMULATOR": task.simulator or "",
        "TASK_MACHINE": task.machine_type,
    }
