"""`Slot`: one archive of one task in the registry: absent, loading or loaded."""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from taskfs.model import ObjectVersion, Task
from taskfs.tasks.archive_kind import ArchiveKind

if TYPE_CHECKING:
    from taskfs.archive.archive import Archive

log = logging.getLogger(__name__)


class Load:
    """One load of an archive in the background.

    *identity* is the key of the index on disk, None if it is not on disk.
    """

    result: "Future[Archive]"

    def __init__(
        self, task: Task, kind: ArchiveKind, path: str, identity: tuple[object, ...] | None
    ) -> None:
        self.task = task
        self.kind = kind
        self.path = path
        self.identity = identity

    def when_done(self, action: "Callable[[Archive], object]") -> None:
        """Call *action* with the archive once it is loaded, and never if that fails."""

        def act(result: "Future[Archive]") -> None:
            if not result.cancelled() and result.exception() is None:
                action(result.result())

        self.result.add_done_callback(act)


class Slot:
    """One archive of one task: absent, loading or loaded. The registry's lock guards it."""

    def __init__(self) -> None:
        self.identity: tuple[object, ...] = ()  # by the task's record as it was last seen
        self.archive: Archive | None = None
        self.absent_until_s = float("-inf")  # until then, no request is sent
        self.load: Load | None = None  # the one in flight whose result will be used
        # Running loads whose results are not used; they may write to disk.
        self.abandoned_loads = 0
        self.logged_index_error: tuple[ObjectVersion, str] | None = None

    def abandon_load(self) -> None:
        """Give the result of the load in flight only to the callers that already wait for it."""
        self.abandoned_loads += self.load is not None
        self.load = None

    def expire(self) -> None:
        """Have the next caller load the archive again."""
        self.archive = None
        self.absent_until_s = float("-inf")
        self.abandon_load()

    def log_index_error(self, path: str, archive: "Archive") -> None:
        """Log why the archive's files cannot be shown, once for each version and reason.

        The operations that fail because of it do not log it again.
        """
        if archive.index_error is None:
            return
        archive.index_error.is_logged = True
        reason = archive.version, str(archive.index_error)
        if self.logged_index_error != reason:
            self.logged_index_error = reason
            log.warning(
                "%s: its files cannot be shown (%s), its own bytes can", path, archive.index_error
            )
