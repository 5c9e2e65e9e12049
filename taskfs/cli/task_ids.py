"""Task ids on the command line."""

from typing import Final

from taskfs.errors import ConfigError
from taskfs.support.parsing import parse_text

# Characters: an id is the name of a directory, and Linux limits names to 255 bytes.
MAX_ID_LENGTH: Final = 255


def parse_task_id(text: str) -> str:
    """Return the id in *text*; only what can never be an id is rejected."""
    task_id = parse_text(text).strip().rstrip("/")  # shells complete a task's directory with `/`
    is_name = task_id and "/" not in task_id and not task_id.startswith(".")
    if not is_name or len(task_id) > MAX_ID_LENGTH:
        shown = text if len(text) <= MAX_ID_LENGTH else f"{text[:40]}..."
        raise ConfigError(f"{shown!r} is not the id of a task: see `taskfs list`")
    return task_id
