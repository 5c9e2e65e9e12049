"""Fixtures of the unit tests."""

import pytest

from tests.unit.fakes import Clock


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test moves."""
    return Clock()
