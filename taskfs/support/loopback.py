"""Detection of loopback addresses: requests to them need neither TLS nor a proxy."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether *host* is `localhost` or a loopback address, without a DNS lookup.

    `NAME.localhost` does not count, because the DNS may give it any address.
    """
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
