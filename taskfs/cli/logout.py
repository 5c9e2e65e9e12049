"""`taskfs logout`."""

import click

from taskfs.api_key import service_key_file
from taskfs.cli.login import print_overriding_variables
from taskfs.errors import ConfigError


@click.command("logout", short_help="Remove your stored API key.")
def command() -> None:
    """Remove the API key from ~/.inductiva/api_key.

    The key stays valid: it can be revoked at https://console.inductiva.ai/account. Mounts keep
    theirs until they are unmounted.
    """
    path = service_key_file()
    try:
        path.unlink()
    except FileNotFoundError:
        click.echo(f"there is no key in {path}")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be removed ({exc.strerror}): see its directory") from None
    else:
        click.echo(f"the key in {path} is removed")
    print_overriding_variables()
