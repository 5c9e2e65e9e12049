"""`FinishedTaskStore`: the finished tasks of one account on disk, as they were last seen.

A terminal status is final, so what is stored stays true. A mount with `--offline` lists these
tasks, and any mount falls back on them while the API fails.

The records lie in `SHARDS` files in the cache directory, beside the blocks and indexes of their
archives. Each file is replaced as a whole and has a checksum; a damaged file is a miss. No key and
no signature is written: the account is identified by a digest of its key.
"""

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from taskfs.cache.disk_cache import RECORDS, DiskCache, cache_key
from taskfs.errors import BadAnswer
from taskfs.model import Task
from taskfs.remote.task_json import NOT_JSON, parse_task
from taskfs.support.redaction import redact

FORMAT: Final = b"tasks 1"  # the head of each file; a file of another layout is a miss
SHARDS: Final = 16  # files; one new task costs rewriting one of them
MAX_TASKS: Final = 100_000  # of one account; the oldest are dropped
# Seconds after which an unchanged shard is read again: this marks the file as used, so that it is
# not evicted, and writes it again if it was.
RECHECK_S: Final = 3600.0


def open_finished_tasks(disk: DiskCache, api_url: str, api_key: str) -> "FinishedTaskStore | None":
    """Return the store of the account of *api_key*.

    Without a key, return the store of the account that was last used with this API, or None.
    """
    last = cache_key("last account", api_url)
    if api_key:
        # `str`, because the repr of a key is the same for all keys.
        account = cache_key("account", api_url, str(api_key))
    else:
        found = disk.read_blob(RECORDS, last)
        if found is None:
            return None
        account = found[0].decode("ascii", "replace")
    return FinishedTaskStore(disk, account, last)


class FinishedTaskStore:
    """The finished tasks of one account.

    Safe for concurrent use, by threads and by processes. One background thread writes the files, in
    the order of the calls. Two mounts may overwrite each other's files; tasks that are lost by that
    come back with a later listing. No method raises: a file that cannot be read or written counts
    as empty.
    """

    def __init__(
        self,
        disk: DiskCache,
        account: str,
        last_key: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._disk = disk
        self._account = account
        self._last_key = last_key
        self._clock = clock
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="taskfs-finished")
        # For the writing thread only: the digest of the tasks that each shard got last, and when.
        self._written: dict[int, tuple[bytes, float]] = {}

    def get(self, task_id: str) -> Task | None:
        """Return the finished task as it was last seen, or None."""
        name = task_id.encode("utf-8", "surrogateescape")
        lines = [line for line in self._read(_shard(task_id)) if name in line]
        return next((task for task in _parse(lines) if task.id == task_id), None)

    def tasks(self) -> list[Task]:
        """Return all finished tasks, newest first."""
        found = {task.id: task for n in range(SHARDS) for task in _parse(self._read(n))}
        return sorted(found.values(), key=lambda task: task.create_ns or 0, reverse=True)

    def put(self, tasks: Iterable[Task], *, is_complete: bool = False) -> None:
        """Write the finished ones of *tasks*, which are sorted newest first, in the background.

        If *tasks* *is_complete*, all other stored tasks are dropped.
        """
        finished = [task for task in tasks if task.is_terminated]
        self._submit(lambda: self._put_tasks(finished, is_complete))

    def drop(self, task_id: str) -> None:
        """Drop a task that no longer exists."""
        self._submit(lambda: self._replace(_shard(task_id), [], {task_id}))

    def close(self) -> None:
        """Write what is pending and return; later calls write nothing."""
        self._writing.shutdown(wait=True)

    def _submit(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the mount is ending
            self._writing.submit(work)

    def _put_tasks(self, tasks: Sequence[Task], is_complete: bool) -> None:
        shards: dict[int, list[Task]] = {n: [] for n in range(SHARDS)} if is_complete else {}
        for task in tasks:
            shards.setdefault(_shard(task.id), []).append(task)
        for number, part in shards.items():
            hasher = hashlib.blake2b(b"".join(t.packed_record for t in part), digest_size=16)
            digest, now_s = hasher.digest(), self._clock()
            written, written_s = self._written.get(number, (b"", 0.0))
            if written == digest and now_s - written_s < RECHECK_S:
                continue
            self._replace(number, part, None if is_complete else {task.id for task in part})
            self._written[number] = digest, now_s
        if tasks:
            self._write(self._last_key, self._account.encode(), b"")

    def _replace(self, number: int, tasks: Iterable[Task], replaced: set[str] | None) -> None:
        """Write *tasks* to the shard in place of the tasks *replaced*, or of all if it is None."""
        lines = [line for task in tasks if (line := _without_secrets(task.record))]
        if replaced is not None:
            others = (line for line in self._read(number) if _id_of(line) not in replaced)
            lines += others
        self._written.pop(number, None)
        self._write(self._key(number), FORMAT, b"\n".join(lines[: MAX_TASKS // SHARDS]))

    def _write(self, key: str, head: bytes, body: bytes) -> None:
        if self._disk.read_blob(RECORDS, key) != (head, body):
            self._disk.write_blob(RECORDS, key, head, body)

    def _read(self, number: int) -> list[bytes]:
        head, body = self._disk.read_blob(RECORDS, self._key(number)) or (b"", b"")
        return body.split(b"\n") if head == FORMAT and body else []

    def _key(self, number: int) -> str:
        return cache_key("tasks", self._account, number)


def _shard(task_id: str) -> int:
    name = task_id.encode("utf-8", "surrogateescape")
    return hashlib.blake2b(name, digest_size=1).digest()[0] % SHARDS


def _parse(lines: Iterable[bytes]) -> Iterator[Task]:
    for line in lines:
        with contextlib.suppress(BadAnswer):
            task = parse_task(line)
            if task.is_terminated:
                yield task


def _id_of(line: bytes) -> str:
    tasks = list(_parse([line]))
    return tasks[0].id if tasks else ""


def _without_secrets(record: bytes) -> bytes:
    """Return the record with `***` for keys and signatures; empty if it is not JSON."""
    try:
        fields = msgspec.json.decode(record)
        text = msgspec.json.encode(fields).decode()  # an escape in the record may hide a secret
        return record if redact(text) == text else msgspec.json.encode(_redacted(fields))
    except (*NOT_JSON, OverflowError):
        return b""


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact(name): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value
