"""fsspec: refusals, failures and secrets."""

import errno
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import fsspec
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud
from tests.file_systems import answer
from tests.zips import cheap_bytes

WORDS: Final = cheap_bytes(3_000_000)


@pytest.mark.parametrize(
    "change",
    [
        lambda fs, path: fs.open(path, "wb"),
        lambda fs, path: fs.open(path, "ab"),
        lambda fs, path: fs.open(path, "xb"),
        lambda fs, path: fs.open(path, "r+b"),
        lambda fs, path: fs.write_text(path, "x"),
        lambda fs, path: fs.pipe(path, b"x"),
        lambda fs, path: fs.touch(path),
        lambda fs, path: fs.mkdir(path),
        lambda fs, path: fs.makedirs(path),
        lambda fs, path: fs.mkdirs(f"{path}/new", exist_ok=True),
        lambda fs, path: fs.rmdir(path),
        lambda fs, path: fs.rm(path),
        lambda fs, path: fs.rm(path, recursive=True),
        lambda fs, path: fs.rm_file(path),
        lambda fs, path: fs.delete(path),
        lambda fs, path: fs.mv(path, f"{path}2"),
        lambda fs, path: fs.rename(path, f"{path}2"),
        lambda fs, path: fs.cp(path, f"{path}2"),
        lambda fs, path: fs.cp_file(path, f"{path}2"),
        lambda fs, path: fs.put(__file__, path),
        lambda fs, path: fs.upload(__file__, path),
    ],
)
def test_changes_are_refused(
    remote: TaskFileSystem, cloud: FakeCloud, change: Callable[[TaskFileSystem, str], Any]
) -> None:
    """P-7: Every change, on `kill` too, is an OSError with EROFS."""
    task = cloud.add_task(status="started", outputs={"a": b"a"})
    for path in (f"{task}/kill", f"{task}/outputs/a", "new"):
        with pytest.raises(OSError) as caught:
            change(remote, path)
        assert caught.value.errno == errno.EROFS
    assert {record.method for record in cloud.requests} <= {"GET"}
    remote.makedirs(task, exist_ok=True)


def test_errors_are_those_of_the_mount(new_fs: Any, cloud: FakeCloud) -> None:
    """P-8: Failures are OSError subclasses with the errnos of the mount."""
    fs = new_fs(status_cache_time="0s", dir_cache_time="0s", cache_size=0)
    task = cloud.add_task(outputs={"a": b"a", "words": WORDS})
    with pytest.raises(FileNotFoundError) as missing:
        fs.open(f"{task}/outputs/b")
    assert missing.value.filename == f"{task}/outputs/b"
    with pytest.raises(IsADirectoryError):
        fs.cat_file(f"{task}/outputs")
    with pytest.raises(NotADirectoryError):
        fs.open(f"{task}/status/x")
    source = cloud.get_object(f"{task}/output.zip")
    assert source is not None
    damaged = bytearray(source.source.read(0, source.source.size))
    damaged[1_000_000] ^= 0xFF
    hurt = cloud.add_task(outputs={"words": WORDS})
    cloud.put_object(f"{hurt}/output.zip", bytes(damaged))
    with pytest.raises(OSError) as wrong:
        fs.cat_file(f"{hurt}/outputs/words")
    assert wrong.value.errno == errno.EIO
    with fs.open(f"{task}/outputs/words") as file:
        assert file.read(10) == WORDS[:10]
        cloud.put_object(f"{task}/output.zip", bytes(damaged))
        with pytest.raises(OSError) as stale:
            file.seek(2_900_000)
            file.read()
        assert stale.value.errno == errno.ESTALE
    cloud.rotate_key()
    with pytest.raises(PermissionError):
        fs.ls("")


def test_no_answer_is_no_empty_directory(new_fs: Any, cloud: FakeCloud) -> None:
    """P-9: Without an answer `exists`, `glob`, `find` and `walk` raise TimeoutError where fsspec
    would report nothing."""
    fs = new_fs(timeout="1s")
    task = cloud.add_task(outputs={"a": b"a"})
    answer(lambda: fs.ls(""))
    cloud.faults.add("reset", side="store", times=None)
    for call in (
        lambda: fs.exists(f"{task}/outputs/a"),
        lambda: fs.isfile(f"{task}/outputs/a"),
        lambda: fs.glob("*/outputs/*"),
        lambda: fs.find(task),
        lambda: list(fs.walk(task)),
    ):
        with pytest.raises(TimeoutError):
            call()
    cloud.faults.clear()
    assert answer(lambda: fs.find(f"{task}/outputs")) == [f"{task}/outputs/a"]


def test_a_refresh_offline(new_fs: Any, cloud: FakeCloud) -> None:
    """P-8, O-6: `invalidate_cache` offline is the TimeoutError that a mount's refresh gives."""
    task = cloud.add_task(outputs={"a": b"a"})
    assert new_fs().cat_file(f"{task}/outputs/a") == b"a"
    fs = new_fs(offline=True)
    assert fs.ls("", detail=False) == [task]
    with pytest.raises(TimeoutError):
        fs.invalidate_cache()


def test_unknown_options_are_refused() -> None:
    """P-10: An unknown storage option is refused by name."""
    with pytest.raises(ValueError, match="unknown storage option 'cach_dir': did you mean cache_d"):
        fsspec.filesystem("taskfs", cach_dir="/x")
    with pytest.raises(ValueError, match="storage option timeout: 'soon' is not a duration"):
        fsspec.filesystem("taskfs", timeout="soon")
    with pytest.raises(ValueError, match="unknown storage option 'umask'"):
        fsspec.filesystem("taskfs", umask="000")
    fsspec.filesystem("taskfs", timeout=5, cache_size="1G", last=3, use_listings_cache=False)


def test_without_a_key(cloud: FakeCloud) -> None:
    """P-8, P-11, X-2: Without a key the first call that needs it is EACCES and names the fix."""
    fs = fsspec.filesystem("taskfs", api_url=cloud.api_url)
    with pytest.raises(PermissionError, match=r"there is no API key: looked in .*inductiva auth"):
        fs.ls("")
    with pytest.raises(PermissionError, match="that is not an API key") as caught:
        fsspec.filesystem("taskfs", api_url=cloud.api_url, api_key="se cret").ls("")
    assert "cret" not in str(caught.value)


def test_options_of_every_source(cloud: FakeCloud, home: Path, tmp_path: Path) -> None:
    """P-10: Options that are not given come from the environment and the file."""
    task = cloud.add_task(project="dam")
    cloud.add_task(project="other")
    key = tmp_path / "key"
    key.write_text(cloud.api_key)
    settings = home / ".config/taskfs/config.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'api_url = "{cloud.api_url}"\napi_key_file = "{key}"\nproject = "x"\n')
    fs = fsspec.filesystem("taskfs", project="dam", cache_dir=tmp_path / "cache")
    assert fs.ls("", detail=False) == [task]
    assert (tmp_path / "cache").exists()


def test_what_is_pickled_are_the_options(by_environment: FakeCloud) -> None:
    """P-12: Pickles hold the options and not the state, and the key is in no pickle and no
    `to_json` unless it was passed."""
    task, key = by_environment.add_task(outputs={"a": WORDS}), by_environment.api_key
    fs = fsspec.filesystem("taskfs", timeout="31s")
    with fs.open(f"{task}/outputs/a") as file:
        assert file.read(100) == WORDS[:100]
        packed = pickle.dumps((fs, file))
        visible = packed.decode("latin-1") + repr((fs, file, vars(fs))) + str(fs) + fs.to_json()
        assert key not in visible
        assert len(packed) < 2000
        other, again = pickle.loads(packed)
        assert other == fs
        assert (again.tell(), again.read(50)) == (100, WORDS[100:150])
    assert type(fs).from_json(fs.to_json()) is fs
    explicit = fsspec.filesystem("taskfs", api_key=key)
    assert key in explicit.to_json()
    assert key not in explicit.to_json(include_password=False)
    own = {name: value for name, value in vars(explicit).items() if name != "storage_options"}
    assert key not in repr((explicit, own))  # `storage_options` are fsspec's, as they were given


def test_a_pickled_file_is_of_one_version(by_environment: FakeCloud) -> None:
    """P-5, P-12, F-9: A pickled file stays on its version on another machine too."""
    task = by_environment.add_task(outputs={"a": WORDS})
    fs = fsspec.filesystem("taskfs")
    with fs.open(f"{task}/outputs/a") as file:
        packed = pickle.dumps(file)
    source = by_environment.get_object(f"{task}/output.zip")
    assert source is not None
    by_environment.put_object(f"{task}/output.zip", source.source)
    fs.invalidate_cache()
    with pytest.raises(OSError) as stale:
        pickle.loads(packed)
    assert stale.value.errno == errno.ESTALE


def test_no_signature_in_a_traceback(new_fs: Any, cloud: FakeCloud) -> None:
    """Y-6: Tracebacks show signatures as `***`."""
    fs = new_fs(timeout="1s")
    task = cloud.add_task(outputs={"a": WORDS})
    cloud.faults.add("reset", side="store", times=None)
    with pytest.raises(TimeoutError) as caught:
        fs.cat_file(f"{task}/outputs/a")
    text = "".join(traceback.format_exception(caught.value))
    assert "Signature=" not in text
    assert cloud.api_key not in text


def test_offline(new_fs: Any, cloud: FakeCloud, tmp_path: Path) -> None:
    """P-10, O-2, O-6: The storage option `offline` reads what is cached, sends nothing and leaves
    the cache as it is."""
    task = cloud.add_task(outputs={"a": WORDS, "b": WORDS[::-1]})
    online = new_fs()
    assert online.cat_file(f"{task}/outputs/a") == WORDS
    del online  # the last instance: its core closes
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    cloud.clear_requests()
    fs = new_fs(offline=True)
    assert fs.ls("", detail=False) == [task]
    assert fs.cat_file(f"{task}/outputs/a") == WORDS
    with pytest.raises(OSError):
        fs.cat_file(f"{task}/outputs/b")
    assert cloud.requests == []
    assert set((tmp_path / "cache").rglob("*")) == set(files)
