"""`OfflineAPI` and `FrozenCache`: the saved tasks, and a cache that is never changed."""

import json
from pathlib import Path

import pytest

from taskfs.cache.disk_cache import FORMAT, DiskCache, cache_key
from taskfs.cache.frozen_cache import FrozenCache
from taskfs.errors import ConfigError, NotCached, Unavailable
from taskfs.model import ObjectVersion
from taskfs.remote.task_json import parse_task
from taskfs.tasks.accounts import open_database, open_read_only
from taskfs.tasks.offline import OfflineAPI
from tests.caches import read_index, write_index

URL = "https://api.example"
VERSION = ObjectVersion(3, '"1"')


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    """A cache that knows three tasks, one block and one index."""
    disk = DiskCache(tmp_path, 1 << 30)
    store = open_database(tmp_path, URL, "key")
    fields = [("c", "success", "p"), ("b", "failed", "p"), ("a", "success", None)]
    store.put(
        [
            parse_task(
                json.dumps(
                    {
                        "task_id": name,
                        "status": status,
                        "project": project,
                        "is_terminated": True,
                        "create_time": f"2025-06-11T08:00:0{number}Z",
                    }
                ).encode()
            )
            for number, (name, status, project) in reversed(list(enumerate(fields)))
        ]
    )
    store.close()
    disk.blocks_of(cache_key("x")).put(0, b"abc")
    write_index(disk, cache_key("i"), b"body")
    return tmp_path


def test_finished_tasks_are_listed_as_the_api_would(cache_dir: Path) -> None:
    """O-9, O-3: `--project`, `--status` and `--last` choose as online, and no unfinished task is
    listed."""
    api = OfflineAPI(open_read_only(cache_dir, URL, ""), cache_dir, URL)
    api.check()
    assert [task.id for task in api.list_tasks()] == ["a", "b", "c"]
    assert [task.id for task in api.list_tasks(project="p", last=1)] == ["b"]
    assert [task.id for task in api.list_tasks(status="success")] == ["a", "c"]
    assert api.list_tasks(active=True) == []
    assert api.get_status("b").status == "failed"
    assert api.task_detail("c")["project"] == "p"


def test_everything_else_is_not_cached(cache_dir: Path) -> None:
    """O-4: Anything else is ETIMEDOUT at once."""
    api = OfflineAPI(open_read_only(cache_dir, URL, ""), cache_dir, URL)
    remote = api.open_object("x/output.zip", None)
    for call in (
        lambda: api.get_task("x"),
        lambda: api.get_status("x"),
        lambda: api.task_detail("x"),
        lambda: api.kill_task("a"),
        lambda: api.set_metadata("a", "k", "v"),
        lambda: api.remove_metadata("a", "k"),
        lambda: remote.fetch_tail(1),
        lambda: remote.fetch_range(0, 1, VERSION),
    ):
        with pytest.raises(NotCached):
            call()
    assert NotCached.errno == Unavailable.errno
    with pytest.raises(ConfigError, match="mount it once without --offline"):
        OfflineAPI(
            open_read_only(cache_dir, "https://other", ""), cache_dir, "https://other"
        ).check()


def test_a_frozen_cache_serves_and_is_never_changed(cache_dir: Path) -> None:
    """O-6: The offline cache serves and is never changed."""
    frozen = FrozenCache(cache_dir, 1 << 30)
    blocks = frozen.blocks_of(cache_key("x"))
    frozen.drop_index(cache_key("i"))
    frozen.drop_indexes()
    write_index(frozen, cache_key("i"), b"new")
    blocks.put(0, b"xyz")
    blocks.drop(0, 0)
    for disk in (frozen, DiskCache(cache_dir, 1 << 30)):
        assert disk.blocks_of(cache_key("x")).get(0) == b"abc"
        assert read_index(disk, cache_key("i")) == b"body"
    (path,) = (path for path in (cache_dir / FORMAT / "blocks").rglob("*") if path.is_file())
    damaged = bytearray(path.read_bytes())
    damaged[0] ^= 1
    path.write_bytes(damaged)
    frozen = FrozenCache(cache_dir, 1 << 30)
    assert frozen.blocks_of(cache_key("x")).get(0) is None
    assert path.read_bytes() == damaged
