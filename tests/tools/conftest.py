"""The fixtures of the fsspec file system, for tests of libraries that use it."""

from tests.filesystem.conftest import (
    by_environment,
    home,
    new_fs,
    no_instance_outlives_its_test,
    remote,
)

__all__ = ["by_environment", "home", "new_fs", "no_instance_outlives_its_test", "remote"]
