"""The configuration: one frozen `Config`, made from all sources of settings."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from taskfs.api_key import Secret, look_for_key, no_key_error
from taskfs.errors import ConfigError
from taskfs.options import OPTIONS
from taskfs.sources import API_KEY, Sources, default_setting
from taskfs.support.loopback import is_loopback


def _default_cache_dir() -> Path:
    setting = default_setting("cache_dir")
    assert setting is not None
    path: Path = setting.parse()
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one mount or command. Times are seconds, sizes bytes, paths absolute.

    `output_parent` alone may be relative, to the directory where the command was started.
    `api_key` is empty with `demo`, where it is not needed, and with `offline` if there is none.
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
    file_mode: int | None = None
    dir_mode: int | None = None
    fsname: str = "taskfs"
    noexec: bool = False
    engine: str = "auto"
    events: str = "auto"
    cache_dir: Path = field(default_factory=_default_cache_dir)
    cache_size: int = 10 * 1024**3
    dir_cache_time_s: float = 10.0
    status_cache_time_s: float = 2.0
    attr_timeout_s: float = 1.0
    timeout_s: float = 30.0
    live: bool = True
    live_idle_time_s: float = 30.0
    completion_timeout_s: float = 1.5
    output_parent: str = "inductiva_output"
    mountpoint: Path | None = None
    demo: bool = False
    log_file: Path | None = None
    log_level: str = "warning"


def load_config(
    flags: Mapping[str, Any] | None = None,
    *,
    mount_options: Mapping[str, str] | None = None,
    file: Path | None = None,
    need_key: bool = True,
    storage_options: Mapping[str, Any] | None = None,
) -> Config:
    """Return the configuration; `sources.Source` gives the precedence.

    Args:
        flags: texts by the names of `OPTIONS`; None stands for a flag that was not given.
        mount_options: the words of `-o`, texts by the names of `OPTIONS`.
        file: a TOML file that must exist; see `Sources`.
        need_key: look for the API key.
        storage_options: the arguments of an fsspec file system: values or texts, and `api_key`.

    Raises:
        ConfigError: a setting cannot be used; the text names the setting, its source and the fix.
    """
    sources = Sources(
        flags=flags, storage_options=storage_options, mount_options=mount_options, file=file
    )
    values: dict[str, Any] = {}
    for option in OPTIONS:
        if option.name != "api_key_file" and (setting := sources.find(option.name)) is not None:
            values[option.config_field] = setting.parse()
    values["api_url"] = _check_api_url(values["api_url"], values.get("insecure_http", False))
    if values.get("allow_other") and values.get("allow_root"):
        raise ConfigError("allow_other and allow_root exclude each other: choose one")
    if values.get("offline") and values.get("demo"):
        raise ConfigError("offline and demo exclude each other: nothing of the demo is cached")
    if need_key and not values.get("demo"):
        try:
            found = look_for_key(sources)
        except ConfigError:
            # Without a key, `--offline` may show another account, so a key that the user named must
            # work.
            if not values.get("offline") or sources.find(API_KEY, "api_key_file") is not None:
                raise
            found = None
        if found is None and not values.get("offline"):
            raise no_key_error()
        values["api_key"] = found.key if found else Secret()
    return Config(**values)


def _check_api_url(url: str, insecure_http: bool) -> str:
    """Return *url* without a slash at its end; raise ConfigError if no key may be sent there."""
    try:
        parts = urlsplit(url.strip())
        host = parts.hostname or ""
        _ = parts.port  # raises ValueError if it is not a number
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
