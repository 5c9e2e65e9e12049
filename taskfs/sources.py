"""The settings that each source has: flags, `-o`, the environment, the configuration file.

`Source` lists the sources in descending precedence; `Sources.find` is the one place that applies
it. The rows of `options.OPTIONS` say which settings exist.
"""

import enum
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskfs.errors import ConfigError
from taskfs.options import BY_NAME, FSSPEC, OPTIONS, Option, near_matches
from taskfs.support.parsing import parse_path, parse_relative_path
from taskfs.support.user_directories import user_directory

# The key itself is no row of `OPTIONS`, because it must not be a flag, a word of `-o` or in a file.
API_KEY: Final = "api_key"


class Source(enum.Enum):
    """A source of settings, in descending precedence."""

    FLAG = enum.auto()
    STORAGE_OPTION = enum.auto()  # an argument of the fsspec file system
    MOUNT_OPTION = enum.auto()
    ENVIRONMENT = enum.auto()
    FILE = enum.auto()
    SERVICE = enum.auto()  # a variable of the service's own client
    DEFAULT = enum.auto()


class Setting(NamedTuple):
    """The text of one setting; *location* is its source as errors name it, such as `--project`."""

    name: str
    text: str
    source: Source
    location: str

    def parse(self) -> Any:
        """Return the value; raise ConfigError, which names the location, for an unusable text."""
        try:
            return BY_NAME[self.name].parse(self.text)
        except ConfigError as exc:
            if self.source is Source.DEFAULT:
                raise
            raise ConfigError(f"{self.location}: {exc}") from None


class Sources:
    """The settings of all sources. Immutable: each source is read once, at construction."""

    def __init__(
        self,
        *,
        flags: Mapping[str, Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        mount_options: Mapping[str, str] | None = None,
        file: Path | None = None,
    ) -> None:
        """Read the sources.

        *file* is a TOML file that must exist. Without it, the file that `TASKFS_CONFIG` names is
        read, or the one in the user's configuration directory, which may be missing.

        Raises:
            ConfigError: an unknown storage option, or a file that cannot be used.
        """
        settings = [
            *_from_flags(flags or {}),
            *_from_storage_options(storage_options or {}),
            *_from_mount_options(mount_options or {}),
            *_from_environment(),
            *_from_file(file or _file_from_environment()),
            *_from_service(),
        ]
        self._settings = {(setting.source, setting.name): setting for setting in settings}

    def find(self, *names: str) -> Setting | None:
        """Return the setting of the source with the highest precedence, None if no source has one.

        Where one source has settings of several *names*, the name that is given first wins.
        """
        for source in Source:
            for name in names:
                if source is Source.DEFAULT:
                    setting = default_setting(name)
                else:
                    setting = self._settings.get((source, name))
                if setting is not None:
                    return setting
        return None


def default_setting(name: str) -> Setting | None:
    """Return the default of a setting, None if it has none.

    Raises:
        ConfigError: the default cannot be determined, because the user has no home directory.
    """
    default = BY_NAME[name].default if name in BY_NAME else None
    text = default() if callable(default) else default
    return None if text is None else Setting(name, text, Source.DEFAULT, "default")


def _from_flags(flags: Mapping[str, Any]) -> Iterator[Setting]:
    for name, value in flags.items():
        if value not in (None, ()) and name in BY_NAME:
            yield Setting(name, _as_text(value), Source.FLAG, BY_NAME[name].flag)


def _from_storage_options(options: Mapping[str, Any]) -> Iterator[Setting]:
    known = [option.name for option in OPTIONS if FSSPEC in option.commands] + [API_KEY]
    for name, value in options.items():
        if name not in known:
            near = near_matches(name, known)
            choices = f"the options are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown storage option {name!r}{near or ':'} {choices}")
        if value is not None and (value or name != API_KEY):
            yield Setting(name, _as_text(value), Source.STORAGE_OPTION, f"storage option {name}")


def _from_mount_options(options: Mapping[str, str]) -> Iterator[Setting]:
    for name, text in options.items():
        yield Setting(name, text, Source.MOUNT_OPTION, f"-o {name}")


def _from_environment() -> Iterator[Setting]:
    variables = {option.name: option.variable for option in OPTIONS} | {API_KEY: "TASKFS_API_KEY"}
    for name, variable in variables.items():
        if text := os.environ.get(variable):
            yield Setting(name, text, Source.ENVIRONMENT, variable)


def _from_service() -> Iterator[Setting]:
    if key := os.environ.get("INDUCTIVA_API_KEY"):
        yield Setting(API_KEY, key, Source.SERVICE, "INDUCTIVA_API_KEY")
    for option in OPTIONS:
        text = os.environ.get(option.service) if option.service else None
        if text or (text is not None and option.empty_counts):
            yield Setting(option.name, text, Source.SERVICE, option.service)


def _file_from_environment() -> Path | None:
    name = os.environ.get("TASKFS_CONFIG")
    return parse_path(name) if name else None


def _from_file(named: Path | None) -> Iterable[Setting]:
    """Return the settings of the configuration file; only an unnamed file may be missing."""
    home = user_directory("config")
    path = named or (home and home / "config.toml")
    if path is None:
        return ()
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if named is None:
            return ()
        raise ConfigError(
            f"there is no configuration file {path}: see --config and TASKFS_CONFIG"
        ) from None
    except OSError as exc:
        fix = "name another with --config, or set HOME to your own"
        raise ConfigError(f"{path} cannot be read ({exc.strerror}): {fix}") from None
    return _parse_file(path, content)


def _parse_file(path: Path, content: bytes) -> Iterator[Setting]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = toml.loads(content.decode())
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path} is not a TOML file: {exc}") from None
    for key, value in table.items():
        name = key.replace("-", "_")
        option = BY_NAME.get(name)
        if name == API_KEY:
            raise ConfigError(f"{path}: a key does not belong there: use api_key_file")
        if option is None:
            raise ConfigError(f"{path}: unknown key {key!r}{near_matches(key, BY_NAME)}")
        if isinstance(value, dict) or (isinstance(value, list) and not option.repeatable):
            raise ConfigError(f"{key} in {path}: one value is needed: {key} = {option.metavar}")
        text = _file_text(path, option, value)
        yield Setting(name, text, Source.FILE, f"{name} in {path}")


def _file_text(path: Path, option: Option, value: Any) -> str:
    text = _as_text(value)
    if option.parse in (parse_path, parse_relative_path):
        # A path is its bytes in the file, which is UTF-8 even if the locale's encoding is another.
        text = os.fsdecode(text.encode("utf-8", "surrogateescape"))
    if option.parse is parse_path:
        expanded = os.path.expanduser(text)
        if text.strip() and not expanded.startswith("~"):  # else `parse_path` refuses it
            # Relative to the file, because the current directory differs from start to start.
            text = str(path.parent / expanded)
    return text


def _as_text(value: Any) -> str:
    """Return a flag's or a TOML value as the text that a variable would have."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
