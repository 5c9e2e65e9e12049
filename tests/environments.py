"""Environments of their own for what only a script needs, made when it first does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def make_environment(folder: Path, packages: Sequence[str]) -> str:
    """Make *folder* an environment with *packages*, unless it is; return what went wrong, if so."""
    stamp = folder / "packages.txt"
    if stamp.exists() and stamp.read_text().split("\n") == list(packages):
        return ""
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python_of(folder)), "-m", "pip", "install", "--quiet", "--no-input", *packages],
    ):
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            return (lines or ["pip failed"])[-1][:200]
    stamp.write_text("\n".join(packages))
    return ""


def python_of(folder: Path) -> Path:
    """Return the interpreter of an environment, there or not."""
    return folder / "bin" / "python"
