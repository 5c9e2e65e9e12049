"""`taskfs.tasks.task_database`: damaged files are misses, and no secret is written."""

import contextlib
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskfs.api_key import Secret
from taskfs.model import Task
from taskfs.remote.task_json import parse_task
from taskfs.support.redaction import register_secret
from taskfs.tasks.accounts import open_database, open_read_only
from taskfs.tasks.database_file import VERSION, DatabaseFile
from taskfs.tasks.selection import Scope, Selection
from taskfs.tasks.task_database import TaskDatabase
from tests.fork_server import ROOT

URL = "https://api.example"
ALL = Selection()


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

Opening = Callable[..., TaskDatabase]


@pytest.fixture
def open_tasks(cache: Path) -> Iterator[Opening]:
    """Opens the tasks of an account as a new process does; all are closed in the end."""
    opened = []

    def open_it(key: str = "key", url: str = URL) -> TaskDatabase:
        opened.append(open_database(cache, url, Secret(key)))
        return opened[-1]

    yield open_it
    for database in opened:
        database.close()


def files(cache: Path) -> list[Path]:
    return sorted((cache / "tasks").iterdir())


def stored(cache: Path, key: str = "key", url: str = URL) -> list[Task]:
    """Return the tasks that an offline mount finds."""
    database = open_read_only(cache, url, Secret(key) if key else "")
    try:
        return database.tasks(Selection(finished_only=True))
    finally:
        database.close()


def put(database: TaskDatabase, *tasks: Task) -> None:
    """Store *tasks* as the last act of a process."""
    database.put(tasks)
    database.close()


def test_the_next_process_finds_stored_tasks(open_tasks: Opening, cache: Path) -> None:
    """O-1, O-3, Y-1: The next process finds the tasks as they were last seen, in 0600 files in 0700
    directories."""
    running = task_of("running", 55, is_terminated=False)
    first = open_tasks()
    first.put([running, *TASKS])
    assert {path.stat().st_mode & 0o777 for path in files(cache)} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (cache, cache / "tasks")} == {0o700}
    first.close()
    assert open_tasks().tasks(ALL) == [running, *TASKS]
    assert stored(cache) == TASKS
    assert open_tasks().get("task7") == next(task for task in TASKS if task.id == "task7")
    for name in ("task", "task77", "", "ta\udcffsk"):
        assert open_tasks().get(name) is None


def test_tasks_come_change_and_go(open_tasks: Opening) -> None:
    """O-3, F-4: Changed tasks are replaced, removed ones go, and a terminal status is final."""
    database = open_tasks()
    database.put(TASKS)
    version = database.version
    changed = task_of(TASKS[3].id, 47, project="other")
    changes = database.put([changed, *TASKS[4:]])
    assert changes.changed == {changed.id}
    assert database.version != version
    assert database.get(changed.id) == changed
    assert database.count(Scope("other")) == 1
    database.remove([TASKS[0].id, "unknown"])
    assert database.tasks(ALL) == [*TASKS[1:3], changed, *TASKS[4:]]
    running = task_of(TASKS[1].id, 49, status="started", is_terminated=False)
    assert database.put([running]).final == {running.id}
    assert database.get(running.id) == TASKS[1]


def test_selections(open_tasks: Opening) -> None:
    """O-9: `--project`, `--status` and `--last` choose."""
    database = open_tasks()
    database.put([task_of(f"p{n}", n, project="p", status=f"s{n % 3}") for n in range(9, 0, -1)])
    database.put(TASKS)
    assert database.ids(Selection("p")) == tuple(f"p{n}" for n in range(9, 0, -1))
    assert database.ids(Selection("p", ("s0", "s1"), last=3)) == ("p9", "p7", "p6")
    assert database.count(Scope("p", "s2")) == 3
    assert database.position("p7", Scope("p")) == 2
    assert database.position("unknown", Scope()) is None
    seq = database.last_seq()
    database.put([task_of("young", 59)])
    assert "young" not in database.ids(Selection(max_seq=seq))


def test_equal_creation_times_keep_the_order_of_the_listing(open_tasks: Opening) -> None:
    """F-24: Tasks with equal creation times keep the order of the listing."""
    database = open_tasks()
    same = [task_of(name, 7) for name in ("c", "a", "b")]
    database.put(same)
    database.put([task_of("d", 7), *same])
    assert database.ids(ALL) == ("d", "c", "a", "b")


def test_accounts_and_apis_are_separate(open_tasks: Opening, cache: Path) -> None:
    """O-8: A key shows its own account's tasks; no key shows those of the last one used."""
    put(open_tasks("a"), TASKS[0])
    put(open_tasks("b"), TASKS[1])
    put(open_tasks("a", "https://other"), TASKS[2])
    assert [stored(cache, key) for key in ("a", "b", "c")] == [[TASKS[0]], [TASKS[1]], []]
    assert stored(cache, "", "https://third") == []
    assert stored(cache, "") == [TASKS[1]]
    time.sleep(0.02)  # the clock of the file system is coarse
    open_tasks("a")
    assert stored(cache, "") == [TASKS[0]]
    assert stored(cache, "", "https://other") == [TASKS[2]]


def test_any_damage_is_a_miss(cache: Path) -> None:
    """I-7, O-17: Damage is a miss: no wrong record and no error."""

    def use() -> None:
        database = open_database(cache, URL, "key")
        assert all(task in TASKS for task in database.tasks(ALL))
        generation = database.generation
        database.put(TASKS)
        if database.generation == generation:
            assert all(database.get(task.id) in (task, None) for task in TASKS)
        database.close()

    put(open_database(cache, URL, "key"), *TASKS)
    (path,) = files(cache)
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        use()
        path.write_bytes(whole[:at])
        use()
    path.write_bytes(b"no database" * 1000)
    use()
    assert [task.id for task in stored(cache)] == [task.id for task in TASKS]


def test_a_damaged_index_lists_no_wrong_id(cache: Path) -> None:
    """O-17: Of each byte that is damaged, a list of ids is whole or the file is replaced."""
    tasks = [task_of(f"task{n:03}", n, project=f"p{n % 3}") for n in range(300, 0, -1)]
    selections = [ALL, Selection("p1"), Selection("p2", ("success",))]
    first = open_database(cache, URL, "key")
    first.put(tasks)
    expected = [first.ids(selection) for selection in selections]
    groups = first.ids(ALL, "simulator", [""]), set(first.values(ALL, "project"))
    first.close()
    (path,) = files(cache)
    whole = path.read_bytes()
    replaced = 0
    for at in random.Random(7).sample(range(len(whole)), 400):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x91]) + whole[at + 1 :])
        database = open_database(cache, URL, "key")
        generation = database.generation
        is_new = not database.count(Scope())
        found = [database.ids(selection) for selection in selections]
        found_groups = database.ids(ALL, "simulator", [""]), set(database.values(ALL, "project"))
        loaded = database.tasks(ALL)
        is_lost = is_new or database.generation != generation
        replaced += is_lost
        assert is_lost or [sorted(ids) for ids in found] == [sorted(ids) for ids in expected]
        assert is_lost or (sorted(found_groups[0]), found_groups[1]) == (
            *(sorted(groups[0]), groups[1]),
        )
        assert is_lost or sorted(loaded) == sorted(tasks)
        database.close()
    assert 0 < replaced < 400


def test_a_file_that_is_removed_is_written_again(open_tasks: Opening, cache: Path) -> None:
    """O-17: The tasks stay on disk if a program removes the cache directory under a mount."""
    database = open_tasks()
    database.put(TASKS)
    for generation in (1, 2):
        shutil.rmtree(cache)
        database.put([task_of(f"new{generation}", 59)])
        assert database.generation == generation
        assert (cache / "tasks").exists()
        database.put(TASKS)
        assert len(stored(cache)) == len(TASKS) + 1


def test_sums_follow_each_change(open_tasks: Opening) -> None:
    """O-17: Tasks that come, go, change their groups or are listed later leave the sums right."""
    database = open_tasks()
    chosen = random.Random(3)
    known: dict[str, Task] = {}
    for step in range(60):
        ids = [f"t{chosen.randrange(40)}" for _ in range(5)]
        if chosen.randrange(4) == 0:
            database.remove(ids)
            known = {task_id: task for task_id, task in known.items() if task_id not in ids}
        else:
            new = {
                i: task_of(i, step, project=f"p{chosen.randrange(3)}", status=f"s{step % 2}")
                for i in ids
            }
            database.put(list(new.values()))
            known |= new
        seq = chosen.choice([None, database.last_seq(), database.last_seq() // 2])
        assert seq is not None or set(database.ids(ALL)) == set(known)
        database.ids(Selection(max_seq=seq))
        for project in ("p0", "p1", "p2"):
            listed = {task_id for task_id, task in known.items() if task.project == project}
            assert database.count(Scope(project)) == len(listed)
            database.ids(Selection(project, ("s0",), seq))
            database.ids(Selection(max_seq=seq), "project", [project])
        database.values(Selection(max_seq=seq), "status")
        assert database.generation == 0  # a wrong sum is damage


def damage_text(file: Path) -> sqlite3.Connection:
    """Make the id of one task no text; return the connection to *file*."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("UPDATE tasks SET id = CAST(x'ff' AS TEXT) WHERE id = 'task7'")
    return connection


def test_text_that_is_damaged_is_a_miss(open_tasks: Opening, cache: Path) -> None:
    """O-17: An id that is no text any more replaces the file."""
    database = open_tasks()
    database.put(TASKS)
    damage_text(files(cache)[0]).close()
    assert database.ids(ALL) == ()
    database.put(TASKS)
    assert len(database.ids(ALL)) == len(TASKS)
    assert database.generation == 1


def test_damaged_text_in_a_temporary_file_is_a_miss(
    open_tasks: Opening, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """O-17: The temporary copy of a damaged file is replaced by an empty database, too."""
    monkeypatch.setattr("taskfs.tasks.database_file.BUSY_TIMEOUT_S", 0.1)
    database = open_tasks()
    database.put(TASKS[1:])
    other = damage_text(files(cache)[0])
    other.execute("BEGIN IMMEDIATE")
    database.put(TASKS[:1])
    assert database.ids(ALL) == ()
    database.put(TASKS)
    assert len(database.ids(ALL)) == len(TASKS)
    other.close()


def test_an_error_of_the_disk_is_named(
    open_tasks: Opening, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """O-17: Where the file cannot be read any more, the log has the error of the disk."""
    put(open_tasks(), *TASKS)
    database = open_tasks()
    (path,) = (each for each in files(cache) if each.suffix == ".db")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{descriptor}") == str(path):
                failing = os.open(cache, os.O_RDONLY)  # a read of a directory is EISDIR
                os.dup2(failing, descriptor)
                os.close(failing)
    assert database.ids(ALL) == ()
    assert path.exists() and "disk I/O error" in caplog.text


def test_a_database_of_a_newer_version_stays(cache: Path) -> None:
    """R-16, O-17: The file of a newer version is a miss, and stays as it is."""
    put(open_database(cache, URL, "key"), *TASKS)
    (path,) = files(cache)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    newer = path.read_bytes()
    database = open_database(cache, URL, "key")
    assert database.tasks(ALL) == []
    database.put(TASKS)
    assert database.tasks(ALL) == TASKS  # in a temporary file
    database.close()
    assert stored(cache) == []
    assert path.read_bytes() == newer


def test_no_secret_is_written(open_tasks: Opening, cache: Path) -> None:
    """Y-3, Y-6: Neither keys nor signatures are written."""
    register_secret("very-secret-key")
    url = "https://store.example/a/b.zip?X-Goog-Signature=abc&x=1"
    escaped = url.replace("&", "\\u0026").replace("?", "\\u003f")
    record = (
        '{"task_id": "x", "status": "success", "is_terminated": true, '
        f'"count": 12345678901234567890, "list": ["{url}"], '
        f'"task_metadata": {{"link": "{url}", "odd": "{escaped}", "k": "is very-secret-key"}}}}'
    )
    put(open_tasks(), parse_task(record.encode()), TASKS[0])
    found = open_tasks().get("x")
    assert found is not None
    for secret in (b"very-secret-key", b"abc", b"Signature"):
        assert secret not in found.record
        assert all(secret not in path.read_bytes() for path in files(cache))
    assert found.metadata == {
        "link": "https://store.example/a/b.zip?***",
        "odd": "https://store.example/a/b.zip?***",
        "k": "is ***",
    }
    assert b"12345678901234567890" in found.record
    assert open_tasks().get(TASKS[0].id) == TASKS[0]  # unchanged, because it has no secret


def test_a_listing_without_news_writes_nothing(open_tasks: Opening, cache: Path) -> None:
    """R-24: A listing that tells nothing new writes nothing."""
    database = open_tasks()
    database.put(TASKS)
    database.set_difference(Scope(), 0, database.generation)
    version = database.version

    def written() -> dict[Path, bytes]:
        # The shared memory of the mounts is not written to disk.
        return {path: path.read_bytes() for path in files(cache) if path.suffix != ".db-shm"}

    before = written()
    database.put(TASKS)
    database.set_difference(Scope(), 0, database.generation)
    database.remove(["unknown"])
    assert written() == before
    assert database.version == version


def test_without_a_cache_tasks_leave_no_file(cache: Path) -> None:
    """C-14, Y-9, O-17: With `--cache-size 0`, or without a directory, no file of tasks is left."""
    put(open_database(None, URL, "key"), *TASKS)
    assert not cache.exists()
    cache.mkdir()
    (cache / "tasks").write_text("in the way")
    database = open_database(cache, URL, "key")
    database.put(TASKS)
    assert database.tasks(ALL) == TASKS
    database.close()
    database.put(TASKS)  # no effect, and no error
    (cache / "tasks").unlink()
    (cache / "tasks").symlink_to("/tmp")
    database = open_database(cache, URL, "key")
    database.put(TASKS)
    database.close()
    assert stored(cache) == []


def test_a_file_that_cannot_be_written_is_done_without(
    open_tasks: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-25, O-17: Where the disk has too little free space, the tasks go on in a temporary file."""
    database = open_tasks()
    database.put(TASKS[1:])
    monkeypatch.setattr("taskfs.tasks.database_file.shortage", lambda directory, count: 1)
    generation = database.generation
    database.put(TASKS)
    assert database.tasks(ALL) == TASKS
    assert database.generation == generation
    assert open_tasks().tasks(ALL) == TASKS[1:]


def temporary_bytes() -> int:
    """Return the length of the temporary files of databases that this process has open."""
    gc.collect()  # closes the databases of earlier tests
    return sum(map(temporary_length, Path("/proc/self/fd").iterdir()))


def temporary_length(descriptor: Path) -> int:
    with contextlib.suppress(OSError):  # it is closed meanwhile
        target = os.readlink(descriptor)
        if "etilqs" in target and target.endswith("(deleted)"):
            return descriptor.stat().st_size
    return 0


def large_tasks(count: int) -> list[Task]:
    """Return tasks whose records do not compress: 2 KB each."""
    noise = random.Random(3)
    return [
        task_of(f"t{n}", n % 3000, error_detail=noise.randbytes(1000).hex()) for n in range(count)
    ]


def test_many_tasks_without_a_cache_are_in_a_file_without_a_name() -> None:
    """R-53, C-14: With `--cache-size 0` the tasks of a large account do not lie in memory."""
    before = temporary_bytes()
    database = TaskDatabase(DatabaseFile(None))
    tasks = large_tasks(1500)
    for start in range(0, len(tasks), 500):
        database.put(tasks[start : start + 500])
    assert temporary_bytes() - before > 1 << 20
    assert len(database.tasks(ALL)) == len(tasks)
    database.close()
    assert temporary_bytes() == before


def test_a_full_disk_moves_many_tasks_to_a_file_without_a_name(
    open_tasks: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-53, O-17: Where the cache cannot be written, the tasks do not lie in memory either."""
    database, tasks = open_tasks(), large_tasks(1500)
    for start in range(0, 1000, 500):
        database.put(tasks[start : start + 500])
    before = temporary_bytes()
    monkeypatch.setattr("taskfs.tasks.database_file.shortage", lambda directory, count: 1)
    database.put(tasks[1000:])
    assert temporary_bytes() - before > 1 << 20
    assert database.generation == 0 and len(database.tasks(ALL)) == len(tasks)


@pytest.fixture
def no_large_file() -> Iterator[None]:
    """Has the system refuse to write beyond 1 MB of any file (EFBIG)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("no_large_file")
def test_without_any_disk_the_tasks_are_in_memory(
    open_tasks: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """R-53, O-17: Where the cache and the temporary file are full, the tasks go on in memory."""
    database, tasks = open_tasks(), large_tasks(1500)
    for start in range(0, len(tasks), 500):
        database.put(tasks[start : start + 500])
    assert database.generation <= 1  # SQLite gives up the content of a file that fails
    for _ in range(2):
        database.put(tasks)
        assert len(database.tasks(ALL)) == len(tasks)
    assert "in a temporary file" in caplog.text and "in memory" in caplog.text


def test_several_mounts_share_the_tasks(open_tasks: Opening) -> None:
    """O-16: Two mounts of an account see what the other one stores."""
    one, two = open_tasks(), open_tasks()
    one.put(TASKS[1:])
    version = two.version
    assert two.tasks(ALL) == TASKS[1:]
    one.put(TASKS[:1])
    assert two.version != version
    two.put([task_of("new", 59)])
    one.remove([TASKS[5].id])
    assert one.tasks(ALL) == two.tasks(ALL)
    assert len(one.tasks(ALL)) == 50


def _write_until_killed(cache: Path, offset: int) -> None:
    database = open_database(cache, URL, "key")
    number = 0
    while True:
        number += 1
        database.put([task_of(f"{offset}x{number}x{n}", n) for n in range(50)])


def test_a_killed_writer_leaves_the_database_whole(cache: Path) -> None:
    """O-16: After kill -9 of two writers, each batch is there as a whole or not at all."""
    put(open_database(cache, URL, "key"), *TASKS)
    context = multiprocessing.get_context("spawn")
    for _ in range(3):
        writers = [
            context.Process(target=_write_until_killed, args=(cache, n), daemon=True)
            for n in range(2)
        ]
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            database = open_database(cache, URL, "key")
            count = len(database.tasks(ALL))
            database.close()
            if count > 500:
                break
            time.sleep(0.05)
        for writer in writers:
            assert writer.pid is not None
            os.kill(writer.pid, signal.SIGKILL)
            writer.join()
        database = open_database(cache, URL, "key")
        tasks = database.tasks(ALL)
        assert {task.id for task in TASKS} <= {task.id for task in tasks}
        batches: dict[str, int] = {}
        for task in tasks:
            if "x" in task.id:
                batch = task.id.rpartition("x")[0]
                batches[batch] = batches.get(batch, 0) + 1
        assert set(batches.values()) <= {50}
        database.remove([task.id for task in tasks if "x" in task.id])
        database.close()


def test_a_suspended_writer_does_not_block_others(
    open_tasks: Opening, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """O-17: Behind a mount that is suspended in a write, the tasks go on in a temporary file."""
    monkeypatch.setattr("taskfs.tasks.database_file.BUSY_TIMEOUT_S", 0.1)
    database = open_tasks()
    database.put(TASKS[1:])
    other = sqlite3.connect(files(cache)[0], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    database.put(TASKS)
    assert database.tasks(ALL) == TASKS
    other.close()


def test_old_files_are_removed(open_tasks: Opening, cache: Path) -> None:
    """O-19: Files of accounts that no mount has used for 90 days, and of older formats, are
    removed."""
    put(open_tasks("old"), *TASKS)
    (old,) = files(cache)
    put(open_tasks("recent"), *TASKS)
    (recent,) = {*files(cache)} - {old}
    for path, days in ((old, 90.1), (recent, 89.9)):
        past_s = time.time() - days * 86400
        os.utime(path, (past_s, past_s))
    (cache / "v1/records").mkdir(parents=True)
    (cache / "v1/records/x").write_bytes(b"x")
    put(open_tasks("new"), *TASKS)
    assert old not in files(cache) and recent in files(cache)
    assert not (cache / "v1/records").exists()


def test_a_file_on_a_network_file_system_is_for_one_machine(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O-18: On a network file system each machine has a file of its own."""
    monkeypatch.setattr("taskfs.tasks.database_file.is_network_directory", lambda directory: True)
    put(open_database(cache, URL, "key"), *TASKS)
    (path,) = files(cache)
    assert path.name.endswith(f".{os.uname().nodename}.db")
    assert stored(cache) == TASKS


def test_a_database_in_memory_fails_by_errors_of_ours_only() -> None:
    """An error of a statement is not taken for a fault of the file."""
    with pytest.raises(sqlite3.OperationalError):
        TaskDatabase(DatabaseFile(None)).rows("no statement", ())


def test_a_file_that_is_truncated_while_it_is_open(cache: Path) -> None:
    """O-17: A program that truncates the files under a mount does not end its process."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from taskfs.tasks.database_file import DatabaseFile\n"
        "path = Path(sys.argv[1])\nfile = DatabaseFile(path)\n"
        "count = lambda connection: connection.execute('SELECT count(*) FROM tasks').fetchone()\n"
        "file.run(count)\n"
        "for each in path.parent.iterdir():\n    os.truncate(each, 0)\n"
        "print(file.run(count), file.run(count))\n"
    )
    cache.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache / "tasks.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "(0,) (0,)\n"), done.stderr
