"""The certificates that a TLS server is checked against: one context for the whole process.

urllib3 reads a bundle of certificates anew for each connection, which takes longer than the
handshake, so the context is made once and shared.
"""

import contextlib
import functools
import os
import re
import ssl
from pathlib import Path
from typing import Final

from urllib3.util.ssl_ import create_urllib3_context

from taskfs.errors import ConfigError

# The variables of requests and curl, in the order of requests.
BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# OpenSSL's own variables; the second may name several directories.
OPENSSL_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# OpenSSL finds a certificate in a directory by the hash of its subject.
_HASHED_NAME: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")


@functools.lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return the TLS context of this process, made at the first call.

    A file or directory that the environment names is the only one that counts. Otherwise a
    certificate is trusted if the system or certifi trusts it: a company adds its own to the
    system's, and a container may have none but certifi's.

    Raises:
        ConfigError: a variable names what holds no certificates.
    """
    context = create_urllib3_context()
    for name in BUNDLE_VARIABLES:
        if place := os.environ.get(name):
            _load(context, name, place)
            return context
    named = [(name, os.environ[name]) for name in OPENSSL_VARIABLES if os.environ.get(name)]
    for name, place in named:
        for part in place.split(os.pathsep) if name == "SSL_CERT_DIR" else [place]:
            _load(context, name, part)
    if not named:
        import certifi

        with contextlib.suppress(OSError):  # an upgrade under a running mount may remove its file
            context.load_verify_locations(certifi.where())
        _load_system(context)
    return context


def _load(context: ssl.SSLContext, variable: str, place: str) -> None:
    try:
        if os.path.isdir(place):
            context.load_verify_locations(capath=place)
        else:
            context.load_verify_locations(cafile=place)
    except ssl.SSLError:
        raise ConfigError(f"{variable}: {place} holds no certificate (PEM): name another") from None
    except OSError as exc:
        raise ConfigError(
            f"{variable}: {place} cannot be read ({exc.strerror}): correct or unset it"
        ) from None


def _load_system(context: ssl.SSLContext) -> None:
    """Add the system's certificates; a directory of hashed names costs nothing until it is used."""
    paths = ssl.get_default_verify_paths()
    if paths.capath and _is_hashed(Path(paths.capath)):
        context.load_verify_locations(capath=paths.capath)
    else:
        context.set_default_verify_paths()


def _is_hashed(directory: Path) -> bool:
    try:
        return any(_HASHED_NAME.fullmatch(name) for name in os.listdir(directory))
    except OSError:
        return False
