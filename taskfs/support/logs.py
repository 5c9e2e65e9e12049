"""The log: a file that only the user can read, or standard error; secrets are redacted."""

import contextlib
import logging
import sys
from pathlib import Path
from typing import Final

from taskfs.errors import ConfigError
from taskfs.support.redaction import RedactingFormatter
from taskfs.support.user_directories import user_directory

# Bytes of one log file; one older file is kept beside it.
MAX_BYTES: Final = 4 << 20
FILE_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def default_file(mountpoint: Path) -> Path | None:
    """Return the default log file of the daemon of *mountpoint*, None if there is no home."""
    name = str(mountpoint).strip("/").replace("/", "-")[-200:] or "root"
    directory = user_directory("log")
    return directory and directory / f"{name}.log"


def log_to_file(path: Path, level: str) -> None:
    """Send the log to *path*, with mode 0600; a new directory for it has mode 0700.

    Raises:
        ConfigError: the file cannot be opened. Later write errors are ignored.
    """
    from taskfs.support.log_file import PrivateFile

    logging.raiseExceptions = False  # a full disk must not fail a read
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = PrivateFile(path, maxBytes=MAX_BYTES, backupCount=1)
    except OSError as exc:
        reason = exc.strerror or exc
        raise ConfigError(f"the log {path} cannot be written ({reason}): see --log-file") from exc
    target.setFormatter(RedactingFormatter(FILE_FORMAT))
    _install(target, level)


def log_to_default_file(mountpoint: Path, level: str) -> None:
    """Send the log to the default file, or drop it if there is none or it cannot be opened."""
    path = default_file(mountpoint)
    if path is None:
        return log_nowhere()
    with contextlib.suppress(OSError):
        path.parent.chmod(0o700)  # an existing directory may be readable by others
    try:
        return log_to_file(path, level)
    except ConfigError:
        return log_nowhere()


def log_nowhere() -> None:
    """Drop the log, for commands that draw on the terminal."""
    _install(logging.NullHandler(), "error")


def log_to_stderr(level: str) -> None:
    """Send the log to standard error."""
    target = logging.StreamHandler(sys.stderr)
    target.setFormatter(RedactingFormatter("taskfs: %(message)s"))
    _install(target, level)


def _install(target: logging.Handler, level: str) -> None:
    logger = logging.getLogger("taskfs")
    logger.setLevel(level.upper())
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(target)
    logger.propagate = False
