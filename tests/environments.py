"""Virtual environments for packages that only one script needs, created on first use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def make_environment(folder: Path, packages: Sequence[str]) -> str:
    """Create an environment with *packages* unless it exists; return an error text or ''."""
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
    """Return the path of an environment's interpreter, which may not exist."""
    return folder / "bin" / "python"
