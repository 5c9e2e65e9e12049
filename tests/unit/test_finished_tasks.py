"""`taskfs.tasks.finished_tasks`: damaged files are misses, and no secret is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from taskfs.api_key import Secret
from taskfs.cache.disk_cache import DiskCache
from taskfs.model import Task
from taskfs.remote.task_json import parse_task
from taskfs.support.redaction import register_secret
from taskfs.tasks.finished_tasks import (
    LOOK_S,
    MAX_TASKS,
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
def ledger(cache: Path) -> Callable[..., FinishedTaskStore]:
    """Opens ledgers as each process has its own."""

    def of(key: str = "key", url: str = URL, size: int = 1 << 30) -> FinishedTaskStore:
        found = open_finished_tasks(DiskCache(cache, size), url, Secret(key))
        assert found is not None
        return found

    return of


def written(cache: Path) -> list[Path]:
    return sorted((cache / "v1/records").iterdir())


def keep(ledger: FinishedTaskStore, *tasks: Task, whole: bool = False) -> None:
    ledger.keep(tasks, whole=whole)
    ledger.close()


def test_what_is_kept_is_found_by_the_next_process(
    ledger: Callable[..., FinishedTaskStore], cache: Path
) -> None:
    """O-1, O-3, Y-1: Finished tasks are found by the next process as they were last seen, in 0600
    files in 0700 directories."""
    keep(ledger(), *TASKS, task_of("running", is_terminated=False), whole=True)
    assert ledger().tasks() == TASKS
    assert ledger().get("task7") == next(task for task in TASKS if task.id == "task7")
    for name in ("task", "task77", "running", "", "ta\udcffsk"):
        assert ledger().get(name) is None
    assert {path.stat().st_mode & 0o777 for path in written(cache)} == {0o600}
    assert (cache / "v1/records").stat().st_mode & 0o777 == 0o700


def test_a_listing_replaces_and_a_part_of_one_adds(
    ledger: Callable[..., FinishedTaskStore],
) -> None:
    """O-3: A whole listing removes tasks that the account no longer has; a part of one adds."""
    keep(ledger(), *TASKS, whole=True)
    keep(ledger(), *TASKS[1:], whole=True)
    assert ledger().tasks() == TASKS[1:]
    changed = task_of(TASKS[3].id, 24, project="other")
    keep(ledger(), TASKS[0], changed)
    found = {task.id: task for task in ledger().tasks()}
    assert len(found) == len(TASKS)
    assert found[changed.id] == changed
    one = ledger()
    one.drop(TASKS[0].id)
    one.close()
    assert ledger().get(TASKS[0].id) is None
    assert len(ledger().tasks()) == len(TASKS) - 1
    keep(ledger(), whole=True)
    assert ledger().tasks() == []


def test_accounts_and_apis_are_apart(ledger: Callable[..., FinishedTaskStore], cache: Path) -> None:
    """O-8: A key shows its own account's tasks; no key shows those of the last one used."""
    keep(ledger("a"), TASKS[0], whole=True)
    keep(ledger("b"), TASKS[1], whole=True)
    keep(ledger("a", "https://other"), TASKS[2], whole=True)
    assert [ledger(key).tasks() for key in ("a", "b", "c")] == [[TASKS[0]], [TASKS[1]], []]
    assert open_finished_tasks(DiskCache(cache, 1 << 30), "https://third", "") is None
    assert ledger("").tasks() == [TASKS[1]]
    keep(ledger("a"), TASKS[0], whole=True)
    assert ledger("").tasks() == [TASKS[0]]
    assert ledger("", "https://other").tasks() == [TASKS[2]]


def test_any_damage_is_a_miss(ledger: Callable[..., FinishedTaskStore], cache: Path) -> None:
    """I-7: Damage is a miss: no wrong record and no error."""
    keep(ledger(), *TASKS, whole=True)
    for path in written(cache):
        whole = path.read_bytes()
        for at in range(0, len(whole), max(1, len(whole) // 8)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            assert all(task in TASKS for task in ledger().tasks())
            path.write_bytes(whole[:at])
            assert all(task in TASKS for task in ledger().tasks())
        path.write_bytes(whole)
    assert ledger().tasks() == TASKS
    first, second = written(cache)[:2]  # under another's name
    first.write_bytes(second.read_bytes())
    assert len(ledger().tasks()) <= len(TASKS)
    keep(ledger(), *TASKS, whole=True)
    assert ledger().tasks() == TASKS


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"tasks 2", b'{"task_id": "x", "status": "success", "is_terminated": true}'),
        (b"tasks 1", b'{"task_id": "x", "status": "started"}'),
        (b"tasks 1", b"no json\n[]\n{}\n\n"),
    ],
)
def test_what_is_no_record_of_a_finished_task_is_a_miss(
    ledger: Callable[..., FinishedTaskStore], cache: Path, head: bytes, body: bytes
) -> None:
    """R-16: A record that is not one of a finished task, as of another version, is a miss."""
    keep(ledger(), *TASKS, whole=True)
    one = ledger()
    for number in range(SHARDS):
        one._disk.put_index(one._key(number), head, body, "records")
    assert ledger().tasks() == []
    assert ledger().get("x") is None


def test_no_secret_is_written(ledger: Callable[..., FinishedTaskStore]) -> None:
    """Y-3, Y-6: Neither keys nor signatures are written."""
    register_secret("very-secret-key")
    url = "https://store.example/a/b.zip?X-Goog-Signature=abc&x=1"
    escaped = url.replace("&", "\\u0026").replace("?", "\\u003f")
    record = (
        '{"task_id": "x", "status": "success", "is_terminated": true, '
        f'"count": 12345678901234567890, "list": ["{url}"], '
        f'"task_metadata": {{"link": "{url}", "odd": "{escaped}", "k": "is very-secret-key"}}}}'
    )
    keep(ledger(), parse_task(record.encode()), TASKS[0], whole=True)
    found = ledger().get("x")
    assert found is not None
    for secret in (b"very-secret-key", b"abc", b"Signature"):
        assert secret not in found.record
    assert found.metadata == {
        "link": "https://store.example/a/b.zip?***",
        "odd": "https://store.example/a/b.zip?***",
        "k": "is ***",
    }
    assert b"12345678901234567890" in found.record
    assert ledger().get(TASKS[0].id) == TASKS[0]  # as it came, where there is nothing to hide


def test_only_what_changed_is_written(cache: Path) -> None:
    """R-24: A listing that tells nothing new writes nothing; lost or long unread files are written
    again before an eviction would take them."""
    clock = Clock()
    disk = DiskCache(cache, 1 << 30)
    ledger = FinishedTaskStore(disk, "account", "last", clock)

    def told(*tasks: Task) -> set[str]:
        before = {path.name: path.stat().st_ino for path in written(cache)}
        ledger._keep(tasks, True)
        return {path.name for path in written(cache) if path.stat().st_ino != before.get(path.name)}

    assert len(told(*TASKS)) == SHARDS + 1
    assert told(*TASKS) == set()
    assert len(told(task_of("new", 59), *TASKS)) == 1
    for path in written(cache):
        path.unlink()
    assert len(told(task_of("new", 59), *TASKS)) == 1  # who was used last
    clock.tick(LOOK_S + 1)
    assert len(told(task_of("new", 59), *TASKS)) == SHARDS
    assert told(task_of("new", 59), *TASKS) == set()


def test_the_oldest_go(
    ledger: Callable[..., FinishedTaskStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-24: At most so many tasks of an account are kept."""
    monkeypatch.setattr("taskfs.tasks.finished_tasks.MAX_TASKS", 2 * SHARDS)
    keep(ledger(), *TASKS, whole=True)
    found = ledger().tasks()
    assert SHARDS < len(found) <= 2 * SHARDS < MAX_TASKS
    assert TASKS[0] in found


def test_without_a_cache_nothing_is_kept(
    ledger: Callable[..., FinishedTaskStore], cache: Path
) -> None:
    """C-14: With `--cache-size 0` nothing is kept."""
    keep(ledger(size=0), *TASKS, whole=True)
    assert not cache.exists()
    (cache / "v1").mkdir(parents=True)
    (cache / "v1/records").write_text("in the way")
    keep(ledger(), *TASKS, whole=True)
    assert ledger().tasks() == []
    after = ledger()
    after.close()
    after.keep(TASKS)  # the mount is ending
