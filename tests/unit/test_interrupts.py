"""An interrupted script ends the processes that it started, prints one line, and exits with 130."""

from __future__ import annotations

import contextlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

SCRIPT = """
import sys, time
from tests import interrupts

def main():
    try:
        print("began", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        sys.stdin.read()
        print("clean", flush=True)
    return 0

interrupts.run("script", main)
"""


@contextlib.contextmanager
def _begun(prefix: str = "") -> Iterator[subprocess.Popen[str]]:
    """The script, once its handlers are set. It cleans up until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", prefix + SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        yield process


def _end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_line_and_130_once_all_is_cleaned_up(number: int) -> None:
    with _begun() as process:
        process.send_signal(number)
        assert _end(process) == (130, "cleaning\nclean\n", "script: interrupted\n")


def test_a_key_that_repeats_does_not_cut_the_cleaning_short() -> None:
    with _begun() as process:
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.readline() == "cleaning\n"
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert _end(process) == (130, "clean\n", "script: interrupted\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    """SIGHUP, then, ends nothing: the SIGINT that follows it does."""
    with _begun("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n") as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 0.5)[0] == []
        process.send_signal(signal.SIGINT)
        assert _end(process) == (130, "cleaning\nclean\n", "script: interrupted\n")


def test_without_an_interrupt_the_status_is_that_of_main() -> None:
    script = "from tests import interrupts; interrupts.run('script', lambda: 3)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3
