"""Programs that tests need. A test without its program fails, because a skip would go unnoticed."""

from __future__ import annotations

import shutil

import pytest


def require_program(name: str, package: str = "") -> str:
    """Return the path of program *name*; fail with the name of its package if it is missing."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not installed: apt-get install {package or name}")
    return path
