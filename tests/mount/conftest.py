"""The tests that share a mount run on both engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ON_ENGINES, share_mount


@pytest.fixture(params=ON_ENGINES)
def shared_mnt(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The shared mount of each engine."""
    for mount in share_mount(request, request.param):
        yield mount.path
