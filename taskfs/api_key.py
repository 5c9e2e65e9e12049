"""The API key: where it is looked for, how its file is read, and how it stays out of texts."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskfs.errors import ConfigError
from taskfs.sources import API_KEY, Sources

# Bytes that are read of a key file, in case the name is that of a device or a large file.
MAX_FILE_BYTES: Final = 64 << 10
_STDIN: Final = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_KEY: Final = re.compile(r"[A-Za-z0-9._-]+")
_FIX: Final = (
    "run `taskfs login` or `inductiva auth login` (https://console.inductiva.ai/account shows the "
    "key), or name its file by --api-key-file"
)

# The contents of pipes, terminals and standard input, by path: they can be read only once.
_read_once: dict[Path, bytes] = {}


class Secret(str):
    """A text whose `repr` hides it, so that logs and failed assertions do not print it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)" if self else "Secret()"


class FoundKey(NamedTuple):
    """An API key, and the variable, storage option or file that holds it."""

    key: Secret
    location: str


def find_api_key(flags: Mapping[str, Any] | None = None, *, file: Path | None = None) -> FoundKey:
    """Return the key and its location; the arguments are those of `config.load_config`.

    Raises:
        ConfigError: there is no usable key; the text never contains the key.
    """
    found = look_for_key(Sources(flags=flags, file=file))
    if found is None:
        raise no_key_error()
    return found


def look_for_key(sources: Sources) -> FoundKey | None:
    """Return the key of the source with the highest precedence, None if no source has one.

    Where one source has both the key and a key file, the key wins. The key file of the service's
    own client comes last.

    Raises:
        ConfigError: the source has no usable key.
    """
    setting = sources.find(API_KEY, "api_key_file")
    if setting is None:
        return _service_key()
    if setting.name == API_KEY:
        return FoundKey(check_key(setting.text, setting.location), setting.location)
    return _read_key(setting.parse(), setting.location)


def _service_key() -> FoundKey | None:
    path = service_key_file()
    if not path.is_absolute():  # there is no home directory
        return None
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # `_read_key` fails too, and says why
    return _read_key(path)


def no_key_error() -> ConfigError:
    """Return the error for a key that is missing everywhere."""
    return ConfigError(
        "there is no API key: looked in TASKFS_API_KEY, INDUCTIVA_API_KEY and "
        f"{service_key_file()}: {_FIX}"
    )


def service_key_file() -> Path:
    """Return the key file of the service's own client; not absolute without a home directory."""
    return Path(os.path.expanduser("~/.inductiva/api_key"))


def _read_key(path: Path, named_by: str = "") -> FoundKey:
    """Return the key in a file; *named_by* is the location of the setting that names the file."""
    try:
        content = _read_key_file(path)
    except OSError as exc:
        prefix = named_by or path
        raise ConfigError(f"{prefix}: {path} cannot be read ({exc.strerror}): {_FIX}") from None
    location = f"{named_by} ({path})" if named_by else str(path)
    return FoundKey(check_key(content.decode(errors="replace"), location), str(path))


def _read_key_file(path: Path) -> bytes:
    """Return the content of a regular file, or the first line of a pipe or terminal.

    A pipe or terminal is read once per process. Raises OSError.
    """
    if path in _read_once:
        return _read_once[path]
    is_stdin = str(path) in _STDIN
    # Standard input is not opened by its name, because that fails for a socket.
    with open(os.dup(0) if is_stdin else path, "rb") as stream:
        if not is_stdin and stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            return stream.read(MAX_FILE_BYTES)
        _read_once[path] = content = stream.readline(MAX_FILE_BYTES)
        return content


def check_key(text: str, location: str, fix: str = _FIX) -> Secret:
    """Return the key in *text*.

    Raises:
        ConfigError: there is none; the error has *location* and *fix*, but does not quote *text*.
    """
    key = text.strip()
    if not key:
        raise ConfigError(f"{location}: the API key is empty: {fix}")
    if not _KEY.fullmatch(key):  # it may be a key with a typo, so the error does not quote it
        raise ConfigError(
            f"{location}: that is not an API key (letters, digits, dot, dash, underscore): {fix}"
        )
    return Secret(key)
