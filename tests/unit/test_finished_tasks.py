"""`taskfs.tasks.finished_tasks`: damaged files are misses, and no secret is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskfs.api_key import Secret
from taskfs.cache.disk_cache import RECORDS, DiskCache
from taskfs.model import Task
from taskfs.remote.task_json import parse_task
from taskfs.support.redaction import register_secret
from taskfs.tasks.finished_tasks import (
    MAX_TASKS,
    RECHECK_S,
    SHARDS,
    FinishedTaskStore,
    open_finished_tasks,
)
from tests.unit.fakes import Clock

URL = "https://api.example"


def task_of(name: str, number: int = 0, **fields: Any) -> Task:
    record = {
        "task_id": name,
        "status": "success",
        "is_terminated": True,
        "create_time": f"2025-06-11T08:{number // 60:02d}:{number % 60:02d}+00:00",
        **fields,
    }
    return parse_task(json.dumps(record).encode())


TASKS = [task_of(f"task{number}", number) for number in range(50, 0, -1)]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def open_store(cache: Path) -> Callable[..., FinishedTaskStore]:
    """Return a function that opens a store, as a new process does."""

    def open_one(key: str = "key", url: str = URL, size: int = 1 << 30) -> FinishedTaskStore:
        store = open_finished_tasks(DiskCache(cache, size), url, Secret(key))
        assert store is not None
        return store

    return open_one


def written(cache: Path) -> list[Path]:
    return sorted((cache / "v1/records").iterdir())


def put(store: FinishedTaskStore, *tasks: Task, is_complete: bool = False) -> None:
    """Write *tasks* as the last act of a process."""
    store.put(tasks, is_complete=is_complete)
    store.close()


def test_the_next_process_finds_stored_tasks(
    open_store: Callable[..., FinishedTaskStore], cache: Path
) -> None:
    """O-1, O-3, Y-1: The next process finds the stored tasks as they were last seen, in 0600 files
    in 0700 directories."""
    put(open_store(), *TASKS, task_of("running", is_terminated=False), is_complete=True)
    assert open_store().tasks() == TASKS
    assert open_store().get("task7") == next(task for task in TASKS if task.id == "task7")
    for name in ("task", "task77", "running", "", "ta\udcffsk"):
        assert open_store().get(name) is None
    assert {path.stat().st_mode & 0o777 for path in written(cache)} == {0o600}
    assert (cache / "v1/records").stat().st_mode & 0o777 == 0o700


def test_a_complete_listing_replaces_and_other_tasks_are_added(
    open_store: Callable[..., FinishedTaskStore],
) -> None:
    """O-3: A complete listing removes tasks that the account no longer has; a part of one adds."""
    put(open_store(), *TASKS, is_complete=True)
    put(open_store(), *TASKS[1:], is_complete=True)
    assert open_store().tasks() == TASKS[1:]
    changed = task_of(TASKS[3].id, 24, project="other")
    put(open_store(), TASKS[0], changed)
    found = {task.id: task for task in open_store().tasks()}
    assert len(found) == len(TASKS)
    assert found[changed.id] == changed
    one = open_store()
    one.drop(TASKS[0].id)
    one.close()
    assert open_store().get(TASKS[0].id) is None
    assert len(open_store().tasks()) == len(TASKS) - 1
    put(open_store(), is_complete=True)
    assert open_store().tasks() == []


def test_accounts_and_apis_are_separate(
    open_store: Callable[..., FinishedTaskStore], cache: Path
) -> None:
    """O-8: A key shows its own account's tasks; no key shows those of the last one used."""
    put(open_store("a"), TASKS[0], is_complete=True)
    put(open_store("b"), TASKS[1], is_complete=True)
    put(open_store("a", "https://other"), TASKS[2], is_complete=True)
    assert [open_store(key).tasks() for key in ("a", "b", "c")] == [[TASKS[0]], [TASKS[1]], []]
    assert open_finished_tasks(DiskCache(cache, 1 << 30), "https://third", "") is None
    assert open_store("").tasks() == [TASKS[1]]
    put(open_store("a"), TASKS[0], is_complete=True)
    assert open_store("").tasks() == [TASKS[0]]
    assert open_store("", "https://other").tasks() == [TASKS[2]]


def test_any_damage_is_a_miss(open_store: Callable[..., FinishedTaskStore], cache: Path) -> None:
    """I-7: Damage is a miss: no wrong record and no error."""
    put(open_store(), *TASKS, is_complete=True)
    for path in written(cache):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 8)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            assert all(task in TASKS for task in open_store().tasks())
            path.write_bytes(whole[:at])
            assert all(task in TASKS for task in open_store().tasks())
        path.write_bytes(whole)
    assert open_store().tasks() == TASKS
    first, second = written(cache)[:2]  # a file under another file's name
    first.write_bytes(second.read_bytes())
    assert len(open_store().tasks()) <= len(TASKS)
    put(open_store(), *TASKS, is_complete=True)
    assert open_store().tasks() == TASKS


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"tasks 2", b'{"task_id": "x", "status": "success", "is_terminated": true}'),
        (b"tasks 1", b'{"task_id": "x", "status": "started"}'),
        (b"tasks 1", b"no json\n[]\n{}\n\n"),
    ],
)
def test_a_valid_file_without_records_of_finished_tasks_is_a_miss(
    open_store: Callable[..., FinishedTaskStore], cache: Path, head: bytes, body: bytes
) -> None:
    """R-16: A file without records of finished tasks, as of another version, is a miss."""
    put(open_store(), *TASKS, is_complete=True)
    disk = DiskCache(cache, 1 << 30)
    for path in written(cache):
        disk.write_blob(RECORDS, path.name, head, body)
    assert open_store().tasks() == []
    assert open_store().get("x") is None


def test_no_secret_is_written(open_store: Callable[..., FinishedTaskStore]) -> None:
    """Y-3, Y-6: Neither keys nor signatures are written."""
    register_secret("very-secret-key")
    url = "https://store.example/a/b.zip?X-Goog-Signature=abc&x=1"
    escaped = url.replace("&", "\\u0026").replace("?", "\\u003f")
    record = (
        '{"task_id": "x", "status": "success", "is_terminated": true, '
        f'"count": 12345678901234567890, "list": ["{url}"], '
        f'"task_metadata": {{"link": "{url}", "odd": "{escaped}", "k": "is very-secret-key"}}}}'
    )
    put(open_store(), parse_task(record.encode()), TASKS[0], is_complete=True)
    found = open_store().get("x")
    assert found is not None
    for secret in (b"very-secret-key", b"abc", b"Signature"):
        assert secret not in found.record
    assert found.metadata == {
        "link": "https://store.example/a/b.zip?***",
        "odd": "https://store.example/a/b.zip?***",
        "k": "is ***",
    }
    assert b"12345678901234567890" in found.record
    assert open_store().get(TASKS[0].id) == TASKS[0]  # unchanged, because it has no secret


def test_only_what_changed_is_written(cache: Path) -> None:
    """R-24: A listing that tells nothing new writes nothing; lost or long unread files are written
    again before an eviction would take them."""
    clock = Clock()
    disk = DiskCache(cache, 1 << 30)
    store = FinishedTaskStore(disk, "account", "last", clock)

    def rewritten(*tasks: Task) -> set[str]:
        """Put a complete listing; return the names of the files that changed."""
        before = {path.name: path.stat().st_ino for path in written(cache)}
        store._put_tasks(tasks, True)
        return {path.name for path in written(cache) if path.stat().st_ino != before.get(path.name)}

    assert len(rewritten(*TASKS)) == SHARDS + 1
    assert rewritten(*TASKS) == set()
    assert len(rewritten(task_of("new", 59), *TASKS)) == 1
    for path in written(cache):
        path.unlink()
    assert len(rewritten(task_of("new", 59), *TASKS)) == 1  # the file of the account used last
    clock.tick(RECHECK_S + 1)
    assert len(rewritten(task_of("new", 59), *TASKS)) == SHARDS
    assert rewritten(task_of("new", 59), *TASKS) == set()


def test_the_oldest_tasks_are_dropped(
    open_store: Callable[..., FinishedTaskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-24: At most so many tasks of an account are kept."""
    monkeypatch.setattr("taskfs.tasks.finished_tasks.MAX_TASKS", 2 * SHARDS)
    put(open_store(), *TASKS, is_complete=True)
    found = open_store().tasks()
    assert SHARDS < len(found) <= 2 * SHARDS < MAX_TASKS
    assert TASKS[0] in found


def test_without_a_cache_nothing_is_stored(
    open_store: Callable[..., FinishedTaskStore], cache: Path
) -> None:
    """C-14: With `--cache-size 0` nothing is stored."""
    put(open_store(size=0), *TASKS, is_complete=True)
    assert not cache.exists()
    (cache / "v1").mkdir(parents=True)
    (cache / "v1/records").write_text("in the way")
    put(open_store(), *TASKS, is_complete=True)
    assert open_store().tasks() == []
    after = open_store()
    after.close()
    after.put(TASKS)  # no effect, and no error
