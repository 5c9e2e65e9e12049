"""The embedded cloud: an HTTP server on loopback with the task API, its object store and tasks."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskfs.demo.cloud import EmbeddedCloud


def embedded_cloud(*, api_port: int = 0) -> "EmbeddedCloud":
    """Return a cloud with the demo's tasks that listens on *api_port* (0: any) once started.

    The one name that this package exports: programs outside of taskfs test against it. The web
    server is imported by the call.
    """
    from taskfs.demo.cloud import EmbeddedCloud

    return EmbeddedCloud(api_port=api_port)
