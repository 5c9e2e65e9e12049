"""`taskfs login`."""

import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from taskfs.api_key import Secret, check_key, service_key_file
from taskfs.cli.api_session import configure_logging, open_client_of
from taskfs.cli.options import Settings, config_options
from taskfs.errors import AccessDenied, ConfigError

KEY_URL: Final = "https://console.inductiva.ai/account"
# Variables that take precedence over the key file.
VARIABLES: Final = ("TASKFS_API_KEY", "TASKFS_API_KEY_FILE", "INDUCTIVA_API_KEY")


@click.command("login", short_help="Store your API key.")
@config_options("login")
def command(settings: Settings) -> None:
    """Ask for your API key, check it, and write it to ~/.inductiva/api_key.

    The key is that of https://console.inductiva.ai/account. It is not shown while it is typed; in a
    script it is the first line of standard input. Only you can read the file, which the service's
    own client reads too. A key that the API refuses is not written.
    """
    config = settings.load(need_key=False)
    configure_logging(config)
    path = service_key_file()
    if not path.is_absolute():
        raise ConfigError("there is no home directory: set HOME")
    key = check_key(_read_key(), "the input", f"type or pipe the key that {KEY_URL} shows")
    with contextlib.closing(open_client_of(replace(config, api_key=key))) as client:
        try:
            client.check()
        except AccessDenied:
            raise ConfigError(
                f"{config.api_url} refuses this key: copy it from {KEY_URL}"
            ) from None
    try:
        write_key(path, key)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written ({exc.strerror}): see its directory") from None
    click.echo(f"{config.api_url} accepts the key, which is now in {path}")
    print_overriding_variables()


def _read_key() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        # Not click.prompt, which repeats its question on an empty line and hides interrupts.
        import getpass

        with contextlib.suppress(EOFError):  # Ctrl+D
            return getpass.getpass("API key: ")
        return ""
    return sys.stdin.readline() if sys.stdin is not None else ""


def write_key(path: Path, key: Secret) -> None:
    """Write the key so that only its owner can read it; the file appears whole."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{key}\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def print_overriding_variables() -> None:
    """Note each variable that takes precedence over the file."""
    for name in VARIABLES:
        if os.environ.get(name):
            click.echo(f"note: {name} is set and takes precedence over the file", err=True)
