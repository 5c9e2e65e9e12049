"""Removal of the files that older versions left in the cache directory."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from taskfs.cache.disk_cache import DiskCache
from taskfs.cache.older_formats import (
    find_older_formats,
    mark_used,
    remove_older_formats,
    start_removal,
)
from tests.mounts import eventually

CURRENT = "v3"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A directory that an older version left two days ago."""
    root = tmp_path / "v2"
    for name in ("blocks/ab", "index", "records"):
        (root / name).mkdir(parents=True)
        (root / name / "file").write_bytes(b"old")
    (root / "claims").touch()
    make_old(root)
    return root


def make_old(root: Path) -> None:
    old_s = time.time() - 2 * 86400
    for directory, folders, names in os.walk(root):
        for path in (directory, *(os.path.join(directory, n) for n in (*folders, *names))):
            os.utime(path, (old_s, old_s), follow_symlinks=False)


def test_an_unused_one_is_removed(older: Path, tmp_path: Path) -> None:
    """R-34: The folder of an older format that no process uses is removed, with all in it."""
    start_removal(tmp_path, CURRENT)
    eventually(lambda: not older.exists())


def test_the_current_and_newer_ones_and_other_names_stay(tmp_path: Path) -> None:
    """R-34: Only folders of older formats are removed."""
    for name in ("v3", "v4", "v10", "vacation", "v", "v1x", "tasks"):
        (tmp_path / name / "blocks").mkdir(parents=True)
    (tmp_path / "v0").write_bytes(b"a file")
    elsewhere = tmp_path / "tasks" / "blocks"
    (tmp_path / "v1").symlink_to(elsewhere)
    assert find_older_formats(tmp_path, CURRENT) == []
    remove_older_formats(tmp_path, CURRENT, idle_s=0)
    assert len(os.listdir(tmp_path)) == 9 and elsewhere.is_dir()


def test_foreign_files_stay(older: Path, tmp_path: Path) -> None:
    """R-34: A file that taskfs did not make stays, and a link in the folder is not followed."""
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis").write_bytes(b"x")
    (older / "notes.txt").write_bytes(b"mine")
    (older / "blocks" / "link").symlink_to(precious)
    make_old(older)
    remove_older_formats(tmp_path, CURRENT)
    assert os.listdir(older) == ["notes.txt"]
    assert (precious / "thesis").read_bytes() == b"x"


def test_one_in_use_stays(older: Path, tmp_path: Path) -> None:
    """R-34: While another process has locked it, the folder stays, however old it is."""
    program = (
        "import sys, pathlib; from taskfs.cache.older_formats import mark_used; "
        "mark_used(pathlib.Path(sys.argv[1]), sys.modules[mark_used.__module__]); "
        "print('ready', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, older], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == b"ready\n"
        make_old(older)
        remove_older_formats(tmp_path, CURRENT, idle_s=0)
        assert (older / "blocks/ab/file").exists()
        process.stdin.close()
        process.wait(10)
    remove_older_formats(tmp_path, CURRENT)
    assert not older.exists()


def test_one_that_was_used_lately_stays(older: Path, tmp_path: Path) -> None:
    """R-34: A folder of which a file was used within a day stays: early versions do not lock it."""
    os.utime(older / "blocks/ab/file")
    remove_older_formats(tmp_path, CURRENT)
    assert (older / "records/file").exists()
    remove_older_formats(tmp_path, CURRENT, idle_s=0)
    assert not older.exists()


def test_a_cache_locks_its_folder(tmp_path: Path) -> None:
    """R-34: A cache locks the folder of its format while it is in use."""
    cache = DiskCache(tmp_path, 1 << 20)
    remove_older_formats(tmp_path, "v99", idle_s=0)
    assert (cache.root / "blocks").is_dir()
    del cache
    remove_older_formats(tmp_path, "v99", idle_s=0)
    assert os.listdir(tmp_path) == []


def test_nothing_to_lock(tmp_path: Path) -> None:
    """R-26: Where the folder cannot be locked, nothing fails."""
    mark_used(tmp_path / "missing", tmp_path)
    assert os.listdir(tmp_path) == []
