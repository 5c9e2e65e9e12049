"""Archives whose files cannot be shown: the refusal that stands in place of an index."""

import logging

from taskfs.errors import TaskFSError
from taskfs.model import ObjectVersion

log = logging.getLogger(__name__)

Complaint = tuple[ObjectVersion, str]


def copy_of(refusal: TaskFSError) -> TaskFSError:
    """Return an error to raise: one that several threads raise would collect their tracebacks."""
    error = type(refusal)(str(refusal))
    error.is_logged = refusal.is_logged
    return error


def log_refusal(
    path: str, version: ObjectVersion, refusal: TaskFSError, said: Complaint | None
) -> Complaint:
    """Log why the files of the archive at *path* cannot be shown, unless that was *said* last.

    Return what was said now. The operations that fail because of it need not log it again.
    """
    refusal.is_logged = True
    complaint = version, str(refusal)
    if complaint != said:
        log.warning("%s: its files cannot be shown (%s), its own bytes can", path, refusal)
    return complaint
