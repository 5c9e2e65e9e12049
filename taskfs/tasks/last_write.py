"""`LastWrite`: the file on a task's machine that was written last."""

import contextlib
import math
from typing import Any, NamedTuple

from taskfs.errors import BadResponse


class LastWrite(NamedTuple):
    """The newest file on the machine, by its absolute path there, and its age in seconds.

    *written_s* is its modification time by the machine's clock. All are None where the machine has
    no file.
    """

    path: str | None
    age_s: float | None
    written_s: float | None


def parse_last_write(message: Any) -> LastWrite:
    """Return the content of an answer; raise BadResponse for anything else."""
    if not isinstance(message, dict):
        raise BadResponse("the task's machine answered last_modified_file with no object")
    path, age_s = message.get("most_recent_file"), message.get("time_since_last_mod")
    if path is None and age_s is None:
        return LastWrite(None, None, None)
    written_s = message.get("most_recent_timestamp")
    if (
        isinstance(path, str)
        and isinstance(age_s, (int, float))
        and isinstance(written_s, (int, float))
    ):
        # A number beyond the range of floats, or a surrogate in the path that stands for no byte.
        with contextlib.suppress(OverflowError, UnicodeEncodeError):
            path.encode("utf-8", "surrogateescape")
            if math.isfinite(age_s) and math.isfinite(written_s):
                return LastWrite(path, max(0.0, float(age_s)), float(written_s))
    raise BadResponse("the task's machine answered last_modified_file without file and time")
