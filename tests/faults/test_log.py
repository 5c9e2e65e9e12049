"""The log at each level: requests, retries, operations, cache hits; and its length."""

import logging
import pwd
import re
import stat
from pathlib import Path

import pytest

from taskfs import __version__
from taskfs.support import logs
from tests.caches import make_files
from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.mounts import Taskfs
from tests.outputs import add_finished_task

REQUEST = r"GET {}: {}, \d+ bytes in \d+ ms"


def test_verbose_shows_each_request_and_each_retry(cloud: FakeCloud, tmp_path: Path) -> None:
    """C-30: `-v` shows every request and why it was tried again."""
    cloud.add_task()
    cloud.faults.add("status", side="api", status=503)
    cloud.faults.add("reset", side="api")
    taskfs = Taskfs(tmp_path, cloud)
    done = taskfs("list", "-v")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert all(line.startswith("taskfs: GET /tasks: ") for line in lines), lines
    messages = [line.removeprefix("taskfs: ") for line in lines]
    assert re.fullmatch(REQUEST.format("/tasks", 503), messages[0])
    assert re.fullmatch(r"GET /tasks: 503 [\w ]+; retry in \d\.\d s", messages[1])
    assert re.fullmatch(r"GET /tasks: no response \(.+\); retry in \d\.\d s", messages[2])
    assert re.fullmatch(REQUEST.format("/tasks", 200), messages[3]) and len(messages) == 4
    assert taskfs("list").stderr == ""


def test_the_store_s_requests_are_shown_without_their_signatures(
    cloud: FakeCloud, tmp_path: Path
) -> None:
    """C-30, Y-6: `-v` shows a signed URL's path without the signature, and the bytes that came."""
    task = cloud.add_task(outputs={"stdout.txt": b"hello"}, end_time="2025-06-11T08:00:00+00:00")
    done = Taskfs(tmp_path, cloud)("download", task, "-v")
    assert done.returncode == 0
    assert re.search(REQUEST.format(f"{task}/output.zip", 206), done.stderr)
    assert re.search(REQUEST.format("/storage/signed-urls", 200), done.stderr)
    assert "ignature" not in done.stderr and "?" not in done.stderr
    assert cloud.api_key not in done.stderr


@pytest.mark.mount
def test_a_mount_s_log(cloud: FakeCloud, tmp_path: Path) -> None:
    """C-30, Y-3: A mount's log begins with version, pid and options and ends with the unmount;
    debug has every operation and cache look-up, and never a key."""
    files = make_files(1)
    task = add_finished_task(cloud, files)
    options = {"log_level": "debug", "last": "7"}
    with on_mount(cloud, tmp_path / "home", options) as mount:
        pid = mount.pid
        body = (mount.path / task / "outputs/text").read_bytes()
        (mount.path / task / "outputs/text").read_bytes()
        with pytest.raises(FileNotFoundError):
            (mount.path / "absent").stat()
    text = mount.log.read_text()
    assert f"taskfs {__version__} mounted on {mount.path}, pid {pid}, options: cache_dir=" in text
    assert "last=7" in text and f"unmounted from {mount.path}" in text
    assert "readdir" in text or f"getattr /{task}/outputs/text: ok in" in text
    assert re.search(rf"open /{task}/outputs/text: \(\d+\) ok in \d", text)
    assert re.search(r"getattr /absent: ENOENT", text)
    assert re.search(rf"{task}/output.zip: blocks \d+ to \d+: \d+ cached", text)
    assert f"task {task}: cached as success" in text
    assert cloud.api_key not in text and body[:40] not in mount.log.read_bytes()


def test_the_log_is_bounded(tmp_path: Path, logger: logging.Logger) -> None:
    """C-30, Y-2: A log file and its predecessor are at most 4 MiB each, and both 0600."""
    path = tmp_path / "log"
    logs.log_to_file(path, "debug")
    line = "x" * 10_000
    for _ in range(2_000):
        logger.getChild("test").debug(line)
    written = sorted(tmp_path.iterdir())
    assert [file.name for file in written] == ["log", "log.1"]
    for file in written:
        assert 0 < file.stat().st_size <= 4 << 20
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_mount_without_a_home_directory_keeps_no_log(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Y-2: Where the user has no home directory, a mount has no log, and nothing fails."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    logs.log_to_default_file(Path("/mnt/tasks"), "info")
    logger.warning("dropped")
    assert list(tmp_path.iterdir()) == []
