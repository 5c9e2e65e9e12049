"""Task names on the command line: an id, a prefix of one, `latest`, or a path below a mount."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from taskfs.errors import ConfigError, NotFound
from taskfs.fuse.mount_table import our_mounts
from taskfs.support.parsing import parse_text

if TYPE_CHECKING:
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

LATEST: Final = "latest"  # the name of the newest task
# Characters: an id is the name of a directory, and Linux limits names to 255 bytes.
MAX_ID_LENGTH: Final = 255
MAX_CANDIDATES: Final = 8  # ids in the message about an ambiguous prefix, which is one line
_WHOLE_ID: Final = re.compile(r"[a-z0-9]{25}")  # the ids of the service


class TaskPath(NamedTuple):
    """A path as typed: the name of a task (an id, a prefix or `latest`) and the path below it."""

    task: str
    path: str = ""


def is_whole_id(name: str) -> bool:
    """Return whether *name* has the form of the service's ids."""
    return _WHOLE_ID.fullmatch(name) is not None


def parse_task_id(text: str) -> str:
    """Return the task's name in *text*; only what can never be one is rejected."""
    path = _parse(text)
    if path is None or (path.path and "/" not in _below_mount(text)):
        raise ConfigError(f"{_shorten(text)!r} is not the id of a task: see `taskfs list`")
    return path.task


def parse_task_path(text: str) -> TaskPath:
    """Return the task's name and the path below it in *text*."""
    path = _parse(text)
    if path is None:
        raise ConfigError(f"{_shorten(text)!r} is not ID/PATH: see `taskfs list`")
    return path


def resolve_names(client: "TaskClient | OfflineAPI", names: Sequence[str]) -> list[str]:
    """Return the ids for *names*; a name that no task has is returned unchanged.

    Whole ids need no request, and all others together one listing.

    Raises:
        ConfigError: a name is the beginning of several ids; the text lists them.
        NotFound: there is no latest task.
    """
    if set(names) == {LATEST}:
        return [_latest([task.id for task in client.list_tasks(last=1)])] * len(names)
    tasks = [] if all(map(is_whole_id, names)) else client.list_tasks()
    ids = [task.id for task in tasks]
    return [name if is_whole_id(name) else choose(name, ids) for name in names]


def choose(name: str, ids: Sequence[str]) -> str:
    """Return the id that *name* means among *ids*, newest first; raise as `resolve_names`."""
    if name == LATEST:
        return _latest(ids)
    found = [task_id for task_id in ids if task_id.startswith(name)]
    if name in found or not found:
        return name
    if len(found) > 1:
        shown = ", ".join(found[:MAX_CANDIDATES]) + (", ..." if found[MAX_CANDIDATES:] else "")
        raise ConfigError(f"{name!r} begins the ids of {len(found)} tasks: {shown}: type more")
    return found[0]


@contextlib.contextmanager
def task_must_exist(task_id: str) -> Iterator[None]:
    """Re-raise NotFound with a message that names the task and the fix."""
    try:
        yield
    except NotFound:
        raise NotFound(missing_task(task_id)) from None


def missing_task(task_id: str) -> str:
    """Return the message about a task that does not exist."""
    return f"there is no task {task_id}: see `taskfs list --all`"


def kill_sent(task_id: str) -> str:
    """Return the message that the API has accepted a kill request."""
    return f"Successfully sent kill request for task {task_id}."


def _latest(ids: Sequence[str]) -> str:
    if not ids:
        raise NotFound("there is no latest task: the account has no tasks")
    return ids[0]


def _parse(text: str) -> TaskPath | None:
    text = parse_text(text).strip()
    below = _below_mount(text)
    typed = below or text.removeprefix("./")
    parts = [part for part in typed.split("/") if part not in ("", ".")]
    is_below = not typed.startswith("/") and ".." not in parts
    if not parts or not is_below or parts[0].startswith(".") or len(parts[0]) > MAX_ID_LENGTH:
        return None
    return TaskPath(parts[0], "/".join(parts[1:]))


def _below_mount(text: str) -> str:
    """Return *text* relative to the taskfs mount that it lies below, empty if it does not.

    The path is not looked up, because a mount may hang.
    """
    if not (text.startswith((".", "~")) or "/" in text) or _WHOLE_ID.match(text):
        return ""
    path = os.path.abspath(os.path.expanduser(text))
    for mountpoint in our_mounts():
        if path.startswith(f"{mountpoint}/"):
            return _without_view(path.removeprefix(f"{mountpoint}/"))
    return ""


def _without_view(path: str) -> str:
    """Return a path in the mount that begins with a task: `.by-status/success/ID/x` is `ID/x`.

    The links in `.by-date` end with the beginning of the id.
    """
    first, _, rest = path.partition("/")
    if first == f".{LATEST}":
        return "/".join(filter(None, (LATEST, rest)))
    if first == ".by-date":
        name, _, rest = rest.partition("/")
        return "/".join(filter(None, (name.rpartition("_")[2], rest)))
    return "/".join(path.split("/")[2:]) if first.startswith(".by-") else path


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_ID_LENGTH else f"{text[:40]}..."
