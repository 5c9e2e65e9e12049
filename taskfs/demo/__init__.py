"""The embedded cloud: a real HTTP server on loopback with a few living tasks.

Importing this package costs nothing and needs nothing; `embedded_cloud` imports the web framework.
The class it makes is `taskfs.demo.server.EmbeddedCloud`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskfs.demo.server import EmbeddedCloud

__all__ = ["embedded_cloud"]


def embedded_cloud(
    *, api_port: int = 0, store_port: int = 0, key: str | None = None, populate: bool = True
) -> EmbeddedCloud:
    """Return a cloud that is not started yet: no thread and no socket before its `start`.

    Port 0 means any free one; a key is made up unless one is given.

    Raises:
        ImportError: the extra `demo` (aiohttp) is not installed.
    """
    from taskfs.demo.server import EmbeddedCloud

    return EmbeddedCloud(api_port=api_port, store_port=store_port, key=key, populate=populate)
