"""`Lifetime`: for how long the kernel may keep a name and its attributes."""

import enum


class Lifetime(enum.Enum):
    """For how long the kernel may keep a name and its attributes."""

    NONE = enum.auto()  # it asks each time
    TIMEOUT = enum.auto()  # `--attr-timeout`
    VERSION = enum.auto()  # until it is notified of a new version: see `page_cache`
