"""The log line of one response."""

import logging

import requests


def log_response(
    log: logging.Logger,
    label: str,
    response: requests.Response,
    length: int | str,
    body_s: float = 0.0,
) -> None:
    """Log the status, the *length* in bytes, and the time to the headers plus *body_s*.

    *label* has the method and the path, but no query, which may contain a signature.
    """
    elapsed_s = response.elapsed.total_seconds() + body_s
    log.info("%s: %d, %s bytes in %.0f ms", label, response.status_code, length, 1000 * elapsed_s)
