"""The rows of the tasks' database: packed, with checksums, and without secrets."""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Sequence, Sized
from typing import Any, Final, NamedTuple

import msgspec

from taskfs.errors import BadResponse
from taskfs.model import NO_RECORD, Task
from taskfs.remote.task_json import NOT_JSON, parse_task
from taskfs.support.record_codec import compress, decompress
from taskfs.support.redaction import is_clean, redact
from taskfs.tasks.database_file import DamagedError

BATCH: Final = 500  # ids in one statement; SQLite allows 999
_COLUMNS: Final = "id, created, seq, changed, finished, status, project, simulator, digest"


class SavedRow(NamedTuple):
    """The part of a saved row with which a new record is compared."""

    seq: int
    created: int
    digest: bytes
    is_finished: bool
    status: str
    group: tuple[Any, ...]


def placeholders(values: Sized) -> str:
    """Return the placeholders of *values* in a statement."""
    return ", ".join("?" * len(values))


def saved_rows(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, SavedRow]:
    """Return the rows of the known ones of *ids*; raise DamagedError for a damaged row."""
    found = {}
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        statement = f"SELECT {_COLUMNS}, checksum FROM tasks WHERE id IN ({placeholders(batch)})"
        for *row, checksum in connection.execute(statement, batch).fetchall():
            if row_checksum(tuple(row)) != checksum:
                raise DamagedError(f"the row of task {row[0]!r} is damaged")
            found[row[0]] = SavedRow(row[2], row[1], row[8], bool(row[4]), row[5], tuple(row[3:8]))
    return found


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has changed the file."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def is_unchanged(task: Task, digest: bytes, known: dict[str, SavedRow]) -> bool:
    """Whether the saved row says what *task* says, or is final and *task* is not."""
    row = known.get(task.id)
    if row is None:
        return False
    return row.digest == digest or (row.is_finished and not task.is_terminated)


def final_ids(tasks: Iterable[Task], known: dict[str, SavedRow]) -> frozenset[str]:
    """Return the unfinished ones of *tasks* whose saved rows are finished."""
    return frozenset(
        task.id
        for task in tasks
        if not task.is_terminated and task.id in known and known[task.id].is_finished
    )


def row_checksum(row: tuple[Any, ...]) -> int:
    """Return the checksum of a row of `tasks`."""
    return zlib.crc32(repr(row).encode("utf-8", "surrogatepass"))


def digest_of(task: Task) -> bytes:
    """Return the digest by which a changed record is noticed."""
    # The record holds all other fields; a status may come without one.
    rest = repr(task if task.record == NO_RECORD else (task.status, task.is_terminated))
    content = rest.encode("utf-8", "surrogatepass") + task.record
    return hashlib.blake2b(content, digest_size=8).digest()


def pack_record(task: Task) -> tuple[str, bytes, int]:
    """Return the row of `records`: id, packed task, checksum."""
    clean = without_secrets(task)
    packed = msgspec.msgpack.encode(clean._replace(record=compress(clean.record)))
    return task.id, packed, zlib.crc32(packed, zlib.crc32(task.id.encode()))


def unpack_record(task_id: str, packed: bytes, checksum: int) -> Task:
    """Return the task of a row of `records`; raise DamagedError if it is not what was saved."""
    try:
        if zlib.crc32(packed, zlib.crc32(task_id.encode())) != checksum:
            raise DamagedError(f"the record of task {task_id!r} is damaged")
        task = msgspec.msgpack.decode(packed, type=Task)
        return task._replace(record=decompress(task.record))
    except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, zlib.error) as exc:
        raise DamagedError(f"the record of task {task_id!r} is damaged") from exc


def without_secrets(task: Task) -> Task:
    """Return the task with `***` for keys and signatures."""
    record = task.record
    text = record.decode("utf-8", "replace")
    if "\\u" not in text and is_clean(text):  # an escape may hide a secret
        return task
    try:
        fields = msgspec.json.decode(record)
        if redact(text := msgspec.json.encode(fields).decode()) == text:
            return task
        return parse_task(msgspec.json.encode(_redacted(fields)))
    except (*NOT_JSON, OverflowError, BadResponse):
        return task._replace(record=NO_RECORD, metadata=None, error_detail="", executer_error="")


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact(name): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value
