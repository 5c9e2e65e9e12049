"""The trusted certificates: one TLS context for the whole process.

urllib3 loads the certificates for each connection, which takes longer than the handshake. So the
context is made once and shared.
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

# The variables of requests and curl, in the order in which requests reads them.
BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# The variables of OpenSSL; the second may list several directories.
OPENSSL_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# The file names in a certificate directory: hashes of the subjects.
_HASHED_NAME: Final = re.compile(r"[0-9a-f]{8}\.[0-9]+")


@functools.lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """Return the TLS context of this process; the first call makes it.

    If the environment names a file or directory, only its certificates are trusted. Otherwise those
    of the system and those of certifi are: a company adds its own to the system's, and a container
    may have none but certifi's.

    Raises:
        ConfigError: the file or directory that a variable names cannot be read, or has no
            certificates.
    """
    context = create_urllib3_context()
    for name in BUNDLE_VARIABLES:
        if path := os.environ.get(name):
            _load(context, name, path)
            return context
    named = [(name, os.environ[name]) for name in OPENSSL_VARIABLES if os.environ.get(name)]
    for name, value in named:
        for part in value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value]:
            _load(context, name, part)
    if not named:
        import certifi

        with contextlib.suppress(OSError):  # an upgrade under a running mount may remove its file
            context.load_verify_locations(certifi.where())
        _load_system(context)
    return context


def _load(context: ssl.SSLContext, variable: str, path: str) -> None:
    try:
        if os.path.isdir(path):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(f"{variable}: {path} holds no certificate (PEM): name another") from None
    except OSError as exc:
        raise ConfigError(
            f"{variable}: {path} cannot be read ({exc.strerror}): correct or unset it"
        ) from None


def _load_system(context: ssl.SSLContext) -> None:
    """Add the system's certificates, from a directory of hashed names if there is one.

    OpenSSL loads nothing from such a directory before it needs a certificate.
    """
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
