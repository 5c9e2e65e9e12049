"""The configuration: one frozen `Config`, from flags over `-o` over environment over file.

After these come the places where the service's own client looks, then the defaults. The rows of
`options.OPTIONS` say what there is; here it is decided which source wins.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from taskfs.errors import ConfigError
from taskfs.options import (
    BY_NAME,
    FSSPEC,
    OPTIONS,
    Option,
    near_matches,
    parse_duration,
    parse_path,
    parse_relative_path,
    parse_size,
    user_dir,
)
from taskfs.support.key_file import read_key_file
from taskfs.support.loopback import is_loopback

__all__ = ["Config", "FoundKey", "Secret", "find_api_key", "load_config"]
__all__ += ["parse_duration", "parse_size"]

_KEY: Final = re.compile(r"[A-Za-z0-9._-]+")
_STORAGE_OPTION: Final = "storage option"
_KEY_ITSELF: Final = f"{_STORAGE_OPTION} api_key"
_EXPLICIT: Final = ("-", _STORAGE_OPTION)  # how sources begin that somebody wrote for this call
_NO_KEY: Final = (
    "run `inductiva auth login`, or put the key that https://console.inductiva.ai/account shows "
    "into a file and name it with --api-key-file"
)


class Secret(str):
    """A text whose `repr` does not tell it, so that no log and no assertion prints it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(***)" if self else "Secret()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What every part of taskfs is told. Times are seconds, sizes bytes, paths absolute.

    `output_parent` alone may be relative (to where the command was started). `api_key` is empty
    with `demo`, where it was not asked for, and with `offline` where there is none.
    """

    api_url: str = "https://api.inductiva.ai"
    api_key: Secret = field(default=Secret(), repr=False)
    insecure_http: bool = False
    project: str | None = None
    status: tuple[str, ...] = ()
    last: int | None = None
    offline: bool = False
    read_only: bool = False
    allow_other: bool = False
    allow_root: bool = False
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    umask: int = 0
    fsname: str = "taskfs"
    noexec: bool = False
    cache_dir: Path = field(default_factory=lambda: _default("cache_dir"))
    cache_size: int = 10 * 1024**3
    dir_cache_time_s: float = 10.0
    status_cache_time_s: float = 2.0
    attr_timeout_s: float = 1.0
    timeout_s: float = 30.0
    completion_timeout_s: float = 1.5
    output_parent: str = "inductiva_output"
    demo: bool = False
    log_file: Path | None = None
    log_level: str = "warning"


class FoundKey(NamedTuple):
    """An API key and the place it was found in."""

    key: Secret
    source: str


class _Setting(NamedTuple):
    """One text from one source, which errors name."""

    text: str
    source: str

    def parse(self, option: Option) -> Any:
        try:
            return option.parse(self.text)
        except ConfigError as exc:
            raise ConfigError(f"{self.source}: {exc}") from None


class _Layers:
    """The sources of settings, the strongest first; each is read once."""

    def __init__(
        self,
        flags: Mapping[str, Any],
        mount_options: Mapping[str, str],
        file: Path | None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._flags = flags
        self._mount_options = mount_options
        self._storage_options = _check_storage_options(storage_options or {})
        self._file, self._from_file = _read_file(file)

    def find(self, option: Option) -> _Setting | None:
        """Return the setting of the strongest source that has one."""
        return next(self.all(option), None)

    @property
    def explicit_key(self) -> str | None:
        """The key itself, where a storage option gives it."""
        return self._storage_options.get("api_key")

    def all(self, option: Option) -> Iterator[_Setting]:
        """Yield the settings that taskfs's own sources and then the service's have."""
        if (flag := self._flags.get(option.name)) not in (None, ()):
            yield _Setting(_as_text(flag), option.flag)
        if (value := self._storage_options.get(option.name)) is not None:
            yield _Setting(_as_text(value), f"{_STORAGE_OPTION} {option.name}")
        if option.name in self._mount_options:
            yield _Setting(self._mount_options[option.name], f"-o {option.name}")
        if text := os.environ.get(option.variable):
            yield _Setting(text, option.variable)
        if option.name in self._from_file:
            yield _Setting(self._from_file[option.name], f"{option.name} in {self._file}")
        if option.service:
            service = os.environ.get(option.service)
            if service or (service is not None and option.empty_counts):
                yield _Setting(service, option.service)


def _check_storage_options(given: Mapping[str, Any]) -> Mapping[str, Any]:
    known = [option.name for option in OPTIONS if FSSPEC in option.commands] + ["api_key"]
    for name in given:
        if name not in known:
            near = near_matches(name, known)
            options = f"the options are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown {_STORAGE_OPTION} {name!r}{near or ':'} {options}")
    return given


def load_config(
    flags: Mapping[str, Any] | None = None,
    *,
    mount_options: Mapping[str, str] | None = None,
    file: Path | None = None,
    need_key: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration; raises ConfigError, naming the setting, its source and the fix.

    *flags* and *mount_options* are texts by the names of `OPTIONS` (None: not given). *file* is a
    TOML file that must exist; without it, the one in the user's configuration directory may.
    *storage_options* are what an fsspec file system is given: values or texts, and `api_key`.
    """
    layers = _Layers(
        flags or {}, mount_options or {}, file or _file_from_environment(), storage_options
    )
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name == "api_key_file":
            continue
        setting = layers.find(option)
        if setting is not None:
            values[option.config_field] = setting.parse(option)
        elif option.default is not None:
            values[option.config_field] = _default(option.name)
    values["api_url"] = _check_api_url(values["api_url"], values.get("insecure_http", False))
    if values.get("allow_other") and values.get("allow_root"):
        raise ConfigError("allow_other and allow_root exclude each other: choose one")
    if values.get("offline") and values.get("demo"):
        raise ConfigError("offline and demo exclude each other: nothing of the demo is cached")
    if need_key and not values.get("demo"):
        found = _look_for_key(layers)
        if found is None and not values.get("offline"):
            raise ConfigError(_no_key_anywhere())
        values["api_key"] = found.key if found else Secret()
    return Config(**values)


def find_api_key(flags: Mapping[str, Any] | None = None, *, file: Path | None = None) -> FoundKey:
    """Return the key and where it is from; raises ConfigError, which never tells the key."""
    found = _look_for_key(_Layers(flags or {}, {}, file or _file_from_environment()))
    if found is None:
        raise ConfigError(_no_key_anywhere())
    return found


def _default(name: str) -> Any:
    option = BY_NAME[name]
    text = option.default() if callable(option.default) else option.default
    return option.parse(text) if text is not None else None


def _as_text(value: Any) -> str:
    """Return a flag's or a TOML value as the text that the environment would have."""
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file_from_environment() -> Path | None:
    name = os.environ.get("TASKFS_CONFIG")
    return parse_path(name) if name else None


def _read_file(named: Path | None) -> tuple[Path | None, dict[str, str]]:
    """Return the file's path and its settings as texts; only an unnamed file may be missing."""
    home = user_dir("config")
    path = named or (home and home / "config.toml")
    if path is None:
        return None, {}
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if named is None:
            return path, {}
        raise ConfigError(f"--config: there is no file {path}") from None
    except OSError as exc:
        fix = "name another with --config, or set HOME to your own"
        raise ConfigError(f"{path} cannot be read ({exc.strerror}): {fix}") from None
    return path, dict(_file_settings(path, content))


def _file_settings(path: Path, content: bytes) -> Iterator[tuple[str, str]]:
    toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        table = toml.loads(content.decode())
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path} is not a TOML file: {exc}") from None
    for key, value in table.items():
        option = BY_NAME.get(key.replace("-", "_"))
        if key.replace("-", "_") == "api_key":
            raise ConfigError(f"{path}: a key does not belong there: use api_key_file")
        if option is None:
            raise ConfigError(f"{path}: unknown key {key!r}{near_matches(key, BY_NAME)}")
        if isinstance(value, dict) or (isinstance(value, list) and not option.repeatable):
            raise ConfigError(f"{key} in {path}: one value is needed: {key} = {option.metavar}")
        text = _as_text(value)
        if option.parse in (parse_path, parse_relative_path):
            # The path is its bytes in the file, which is UTF-8, whatever the locale's encoding.
            text = os.fsdecode(text.encode("utf-8", "surrogateescape"))
        if option.parse is parse_path:  # relative to the file: nobody knows where we are started
            text = str(path.parent / os.path.expanduser(text))
        yield option.name, text


def _check_api_url(url: str, insecure_http: bool) -> str:
    """Return *url* without a slash at its end, if a key may be sent there."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
        _ = parts.port  # raises where it is not a number
    except ValueError:
        raise ConfigError("api_url is not a URL: write https://HOST[:PORT]") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("api_url must be https://HOST[:PORT][/PATH], with nothing else in it")
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigError(f"api_url {url!r} is not a web address: write https://HOST[:PORT]")
    if parts.scheme == "http" and not insecure_http and not is_loopback(host):
        raise ConfigError(
            f"api_url {url!r} would send the key in clear text: use https, or --insecure-http"
        )
    return url.strip().rstrip("/")


def _look_for_key(layers: _Layers) -> FoundKey | None:
    """Return the first key of: storage option, file named by flag, storage option or `-o`,
    environment, file, service's places."""
    for setting in _key_places(layers):
        if setting.source in {_KEY_ITSELF, "TASKFS_API_KEY", "INDUCTIVA_API_KEY"}:
            return FoundKey(_check_key(setting.text, setting.source), setting.source)
        return _read_key_file(parse_path(setting.text), setting.source)
    default = _default_key_file()
    if default.is_absolute() and default.exists():  # without any home it is not
        return _read_key_file(default, str(default))
    return None


def _default_key_file() -> Path:
    return Path(os.path.expanduser("~/.inductiva/api_key"))


def _no_key_anywhere() -> str:
    return (
        "there is no API key: looked in TASKFS_API_KEY, TASKFS_API_KEY_FILE, api_key_file of the "
        f"configuration, INDUCTIVA_API_KEY and {_default_key_file()}: {_NO_KEY}"
    )


def _key_places(layers: _Layers) -> Iterator[_Setting]:
    """Yield where a key is given, the strongest first: the texts are keys or names of files."""
    files = list(layers.all(BY_NAME["api_key_file"]))
    if key := layers.explicit_key:
        yield _Setting(key, _KEY_ITSELF)
    yield from (place for place in files if place.source.startswith(_EXPLICIT))
    if key := os.environ.get("TASKFS_API_KEY"):
        yield _Setting(key, "TASKFS_API_KEY")
    yield from (place for place in files if not place.source.startswith(_EXPLICIT))
    if key := os.environ.get("INDUCTIVA_API_KEY"):
        yield _Setting(key, "INDUCTIVA_API_KEY")


def _read_key_file(path: Path, source: str) -> FoundKey:
    try:
        content = read_key_file(path)
    except OSError as exc:
        raise ConfigError(f"{source}: {path} cannot be read ({exc.strerror}): {_NO_KEY}") from None
    place = source if source == str(path) else f"{source} ({path})"
    return FoundKey(_check_key(content.decode(errors="replace"), place), str(path))


def _check_key(text: str, source: str) -> Secret:
    key = text.strip()
    if not key:
        raise ConfigError(f"{source}: the API key is empty: {_NO_KEY}")
    if not _KEY.fullmatch(key):  # never print it: it may be a key with a slip
        raise ConfigError(
            f"{source}: that is not an API key (letters, digits, dot, dash, underscore): {_NO_KEY}"
        )
    return Secret(key)
