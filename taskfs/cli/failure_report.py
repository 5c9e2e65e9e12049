"""Why a task failed: the last lines of its console output, from two small reads."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from taskfs.cli.tail import find_tail
from taskfs.cli.task_choice import has_failed
from taskfs.errors import NotFound, TaskFSError
from taskfs.model import Task
from taskfs.support.formatting import escape_controls, format_size

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive
    from taskfs.config import Config
    from taskfs.remote.api_client import TaskClient
    from taskfs.tasks.offline import OfflineAPI

FILES: Final = ("stderr.txt", "stdout.txt")
LINES: Final = 10  # of each file, as tail(1) prints
MAX_LINE: Final = 400  # characters of one line: progress bars and JSON can be far longer
# Compressed bytes of a file above which its end is not shown: decoding starts at the beginning.
MAX_COMPRESSED: Final = 4 << 20


def console_lines(config: "Config", client: "TaskClient | OfflineAPI", task: Task) -> Iterator[str]:
    """Yield the last lines of stderr.txt and stdout.txt of a failed task, each with a heading.

    A task without outputs, or one that did not fail, yields nothing.
    """
    if not has_failed(task):
        return
    from taskfs.core import open_archive_of, open_disk, open_resources
    from taskfs.support.interruptible_wait import Waiter
    from taskfs.support.stats import Stats
    from taskfs.tasks.archive_kind import ArchiveKind

    disk = None if config.demo else open_disk(config)
    resources = open_resources(Waiter(), Stats(), disk, config.api_url)
    try:
        archive = open_archive_of(client, task, ArchiveKind.OUTPUT, resources)
        for name in FILES:
            yield from _file_lines(archive, name, task.id)
    except NotFound:
        return  # it failed before it had outputs
    except TaskFSError as exc:
        yield f"Its outputs cannot be read: {escape_controls(str(exc))}"
    finally:
        resources.close()


def _file_lines(archive: "Archive", name: str, task_id: str) -> Iterator[str]:
    from taskfs.archive.member import Member

    member = archive.index.lookup(name)
    if not isinstance(member, Member) or not member.size:
        return
    yield f"The end of {name} ({format_size(member.size)}):"
    if member.compressed_size > MAX_COMPRESSED:
        yield f"  see `taskfs tail {task_id}/{name}`"
        return
    with contextlib.closing(archive.open_member(member)) as reader:
        offset = find_tail(reader, LINES)
        text = bytes(reader.read_at(offset, member.size - offset)).decode("utf-8", "replace")
    for line in text.splitlines()[-LINES:]:
        yield f"  {escape_controls(line[:MAX_LINE])}"
