"""`FinishedTaskStore`: the finished tasks of one account as they were last seen, on disk.

A terminal status is final, so what is kept here stays true: a mount with `--offline` lists it, and
any mount falls back on it while the API is away. The records lie beside the blocks and indexes of
their archives, in `SHARDS` files that are replaced whole, each under a checksum; what is damaged,
or not the record of a finished task, is a miss. Neither keys nor signatures are written: an account
is known by a digest of its key.
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

FORMAT: Final = b"tasks 1"  # stands at the head of each file: of another layout none is read
SHARDS: Final = 16  # one task more costs a sixteenth of writing all of them
MAX_TASKS: Final = 100_000  # of one account; the oldest go
# A file is looked at again after so long: it counts as used then, and comes back if it was lost.
LOOK_S: Final = 3600.0


def open_finished_tasks(disk: DiskCache, api_url: str, api_key: str) -> "FinishedTaskStore | None":
    """Return the ledger of the account that *api_key* opens; without a key, of the account that
    was used last with this API, None if none ever was."""
    last = cache_key("last account", api_url)
    if api_key:
        # Not the text as it is: its type may refuse to be shown, and all keys would be one.
        account = cache_key("account", api_url, str(api_key))
    else:
        found = disk.get_index(last, RECORDS)
        if found is None:
            return None
        account = found[0].decode("ascii", "replace")
    return FinishedTaskStore(disk, account, last)


class FinishedTaskStore:
    """The finished tasks of one account. Safe for concurrent use, by threads and by processes.

    Files appear whole, and one thread writes them, in the order of the calls, while nobody waits.
    Two mounts may overwrite each other's: what is lost so comes back with a later listing.
    Nothing here raises: what cannot be read or written is not there.
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
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="taskfs-ledger")
        # Of the writing thread alone: what each shard was told last, and when.
        self._told: dict[int, tuple[bytes, float]] = {}

    def get(self, task_id: str) -> Task | None:
        """Return the finished task as it was last seen, None if it is not known."""
        name = task_id.encode("utf-8", "surrogateescape")
        lines = [line for line in self._read(_shard(task_id)) if name in line]
        return next((task for task in _parse(lines) if task.id == task_id), None)

    def tasks(self) -> list[Task]:
        """Return all finished tasks that are known, newest first."""
        found = {task.id: task for n in range(SHARDS) for task in _parse(self._read(n))}
        return sorted(found.values(), key=lambda task: task.create_ns or 0, reverse=True)

    def keep(self, tasks: Iterable[Task], *, whole: bool = False) -> None:
        """Have the finished ones of *tasks*, newest first, on disk before long.

        With *whole* they are all that the account has: what is not among them is forgotten.
        """
        finished = [task for task in tasks if task.is_terminated]
        self._submit(lambda: self._keep(finished, whole))

    def drop(self, task_id: str) -> None:
        """Forget a task that the API says is not there."""
        self._submit(lambda: self._replace(_shard(task_id), [], {task_id}))

    def close(self) -> None:
        """Return once everything is written; what is kept later is not."""
        self._writing.shutdown(wait=True)

    def _submit(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # closed: the mount is ending
            self._writing.submit(work)

    def _keep(self, tasks: Sequence[Task], whole: bool) -> None:
        shards: dict[int, list[Task]] = {n: [] for n in range(SHARDS)} if whole else {}
        for task in tasks:
            shards.setdefault(_shard(task.id), []).append(task)
        for number, part in shards.items():
            digest = hashlib.blake2b(b"".join(t.packed_record for t in part), digest_size=16)
            told, at_s = self._told.get(number, (b"", 0.0))
            if told == digest.digest() and self._clock() - at_s < LOOK_S:
                continue
            self._replace(number, part, None if whole else {task.id for task in part})
            self._told[number] = (digest.digest(), self._clock())
        if tasks:
            self._put(self._last_key, self._account.encode(), b"")

    def _replace(self, number: int, tasks: Iterable[Task], replaced: set[str] | None) -> None:
        """Have *tasks* in the shard instead of those *replaced* (None: instead of all)."""
        lines = [line for task in tasks if (line := _without_secrets(task.record))]
        if replaced is not None:
            others = (line for line in self._read(number) if _id_of(line) not in replaced)
            lines += others
        self._told.pop(number, None)
        self._put(self._key(number), FORMAT, b"\n".join(lines[: MAX_TASKS // SHARDS]))

    def _put(self, key: str, head: bytes, body: bytes) -> None:
        if self._disk.get_index(key, RECORDS) != (head, body):
            self._disk.put_index(key, head, body, RECORDS)

    def _read(self, number: int) -> list[bytes]:
        head, body = self._disk.get_index(self._key(number), RECORDS) or (b"", b"")
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
    """Return the record with keys and signatures as `***`, nothing where it is not JSON."""
    try:
        fields = msgspec.json.decode(record)
        text = msgspec.json.encode(fields).decode()  # in which no escape hides anything
        return record if redact(text) == text else msgspec.json.encode(_redacted(fields))
    except (*NOT_JSON, OverflowError):
        return b""


def _redacted(value: Any) -> Any:
    if isinstance(value, dict):
        return {redact(name): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value
