"""`Lifetime`: for how long the kernel may keep a name and its attributes."""

import enum


class Lifetime(enum.Enum):
    """When the kernel asks again for a name or its attributes."""

    NONE = enum.auto()  # each time
    TIMEOUT = enum.auto()  # after `--attr-timeout`
    VERSION = enum.auto()  # once it is notified of a new version: see `page_cache`
