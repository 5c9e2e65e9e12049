"""`MemberWalk`: prefetches the member that a program reads in one task after another.

Where the member lies in the end of the archive that is fetched with the central directory, the
archive alone suffices (`TaskWalk`). Elsewhere each task would cost a round trip of its own.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from taskfs.archive.bounds import WHOLE_MEMBER
from taskfs.cache.block import BLOCK
from taskfs.cache.readahead import ReadAheadBudget
from taskfs.tasks.archive_kind import ArchiveKey
from taskfs.tasks.archives import ArchiveRegistry
from taskfs.tasks.task_walk import MAX_MEMBERS, TaskWalk, Walked

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive
    from taskfs.archive.member_part import PartRead

# Tasks whose member is prefetched at once: twice the requests that the store gets at once.
MAX_AHEAD: Final = 16
# Prefetch up to this many times the bytes that the last read used, because members differ in size,
# and at most WHOLE_MEMBER of each: read-ahead fetches the rest while the member is read.
SIZE_RATIO: Final = 2


class MemberWalk:
    """The members that programs read from task to task.

    Safe for concurrent use: the lock guards the table of the last reads.

    Args:
        walk: knows which tasks a walk will reach next.
        archives: have the archives of these tasks loaded or in flight.
        budget: bounds the bytes that are prefetched.
    """

    def __init__(self, walk: TaskWalk, archives: ArchiveRegistry, budget: ReadAheadBudget) -> None:
        self._walk = walk
        self._archives = archives
        self._budget = budget
        self._lock = threading.Lock()
        # The task and the part that were read last of each member; least recently read first.
        self._last: OrderedDict[Walked, tuple[str, PartRead]] = OrderedDict()

    def note(self, key: ArchiveKey, read: "PartRead") -> None:
        """Note that a handle on a member was closed, of which a part was *read*.

        The first task in which a member is read costs nothing more, so programs that read the many
        members of one archive do not pay for the search of its place in the listing.
        """
        walked = Walked(key.kind, read.member.path)
        with self._lock:
            previous = self._last.get(walked)
            self._last[walked] = key.task_id, read
            self._last.move_to_end(walked)
            if len(self._last) > MAX_MEMBERS:
                self._last.popitem(last=False)
        if previous is not None and previous[0] != key.task_id:
            max_ahead = self._budget.allowance(self) // _max_bytes(read)
            self._walk.note_member(key.task_id, walked, min(MAX_AHEAD, max_ahead))

    def prefetch(self, task_ids: Iterable[str], walked: Walked) -> None:
        """Fetch the part of the member that was read last in the archives of these tasks."""
        with self._lock:
            last = self._last.get(walked)
        if last is None:
            return
        read = last[1]

        def fetch(archive: "Archive") -> None:
            if archive.prefetch_part(walked.path, read, _max_bytes(read)):
                self._budget.register(self)

        for task_id in task_ids:
            self._archives.when_loaded(ArchiveKey(task_id, walked.kind), fetch)


def _max_bytes(read: "PartRead") -> int:
    """Return how many bytes of one task to prefetch at most."""
    used = sum(len(each) for each in read.ranges())
    return min(WHOLE_MEMBER, max(BLOCK, SIZE_RATIO * used))
