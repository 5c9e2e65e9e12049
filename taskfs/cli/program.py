"""The path of the installed program `taskfs`."""

import os
import shutil
import sys
from pathlib import Path

from taskfs.errors import ConfigError
from taskfs.support.installation import INSTALL_HINT


def find_program() -> Path:
    """Return the path of the program, as it was started or as it is installed.

    Raises:
        ConfigError: taskfs is only a Python module here, without a program.
    """
    name = shutil.which(sys.argv[0]) if sys.argv[0] else None
    for candidate in (name, Path(sys.executable).parent / "taskfs", shutil.which("taskfs")):
        if candidate and os.path.basename(candidate) == "taskfs" and os.access(candidate, os.X_OK):
            return Path(os.path.abspath(candidate))
    raise ConfigError(f"the program taskfs is not installed: {INSTALL_HINT}")
