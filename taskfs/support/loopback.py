"""Addresses of this machine itself: requests to them leave neither it nor through a proxy."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether *host* is `localhost` or a loopback address, without asking a name server.

    `NAME.localhost` is not: a name server may give it any address.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
