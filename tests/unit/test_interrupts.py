"""An interrupted script ends the processes that it started, prints one line, and exits with 130."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import time
from tests import interrupts

def main():
    try:
        print("began", flush=True)
        time.sleep(20)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.5)
        print("clean", flush=True)
    return 0

interrupts.run("script", main)
"""


def _interrupted(number: int, times: int = 1, prefix: str = "") -> tuple[int, str, str]:
    with subprocess.Popen(
        [sys.executable, "-c", prefix + SCRIPT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(number)
        for _ in range(times - 1):
            time.sleep(0.1)
            process.send_signal(number)
        out, err = process.communicate(timeout=15)
    return process.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_line_and_130_once_all_is_cleaned_up(number: int) -> None:
    assert _interrupted(number) == (130, "cleaning\nclean\n", "script: interrupted\n")


def test_a_key_that_repeats_does_not_cut_the_cleaning_short() -> None:
    assert _interrupted(signal.SIGINT, 3) == (130, "cleaning\nclean\n", "script: interrupted\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    """SIGHUP, then, ends nothing: the SIGINT that follows it does."""
    ignoring = "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    raising = "from threading import Timer; Timer(0.5, os.kill, (os.getpid(), 2)).start()\n"
    began = time.monotonic()
    status, _, _ = _interrupted(signal.SIGHUP, prefix=ignoring + raising)
    assert (status, time.monotonic() - began > 0.4) == (130, True)


def test_without_an_interrupt_the_status_is_that_of_main() -> None:
    script = "from tests import interrupts; interrupts.run('script', lambda: 3)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3
