"""The line that the log has for each request."""

import logging

import requests


def log_answer(
    log: logging.Logger,
    what: str,
    response: requests.Response,
    length: int | str,
    body_s: float = 0.0,
) -> None:
    """Log one answer: its status, its *length* in bytes and how long it took.

    The time is that to the answer's head and *body_s* for the body. *what* has the method and the
    path without the query, which may be a signature.
    """
    taken_s = response.elapsed.total_seconds() + body_s
    log.info("%s: %d, %s bytes in %.0f ms", what, response.status_code, length, 1000 * taken_s)
