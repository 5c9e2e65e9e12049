"""Secrets and rights: other users of this machine, and logs."""

import ast
import contextlib
import errno
import logging
import os
import re
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.support import logs
from taskfs.support.redaction import redact, register_secret
from tests.caches import make_files
from tests.conftest import on_mount
from tests.fake_api import FakeCloud
from tests.file_systems import Mounted
from tests.fork_server import ROOT
from tests.mounts import Mount, Taskfs, eventually
from tests.outputs import add_finished_task
from tests.zips import Entry, build

SECRET: Final = "sk-9f8e7d6c5b4a"
SIGNATURE: Final = re.compile(rb"Signature=(?!\*\*\*)|[0-9a-f]{64}")
mounted_only = pytest.mark.mount


def provoke(cloud: FakeCloud, mount: Path, task: str) -> None:
    """Let everything go wrong that writes a line about a key or a signed URL."""

    def read(path: str) -> None:
        with contextlib.suppress(OSError):
            (mount / task / path).read_bytes()

    for kind, options in (
        ("status", {"status": 500}),
        ("status", {"status": 403}),
        ("reset", {}),
        ("redirect", {"to": f"https://nowhere.invalid/x?Signature=abc&key={cloud.api_key}"}),
        ("redirect", {}),
        ("html", {}),
        ("header", {"name": "Content-Range", "value": f"?Signature=abc {cloud.api_key}"}),
        ("body", {"content": f'{{"detail": "key {cloud.api_key} of /x?Signature=abc"}}'.encode()}),
    ):
        for side in ("api", "store"):
            cloud.faults.add(kind, side=side, times=None, **options)
            with contextlib.suppress(OSError):
                (mount / ".taskfs/refresh").write_text("1")
            with ThreadPoolExecutor() as pool:  # their timeouts pass at once
                list(pool.map(read, ("status", "outputs/small", "output_files_info", "error")))
            cloud.faults.clear()


def can_read(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(path.read_bytes())
    return False


@mounted_only
def test_keys_and_signatures_are_nowhere(cloud: FakeCloud, tmp_path: Path) -> None:
    """Y-3, Y-5, Y-6: After every kind of failure, at the most verbose level, no log, error, stats
    file or other file below the user's home holds a key or a signature."""
    task = add_finished_task(cloud, make_files(1))
    home = tmp_path / "home"
    with on_mount(cloud, home, {"log_level": "debug", "timeout": "2s"}) as mount:
        provoke(cloud, mount.path, task)
        eventually(lambda: can_read(mount.path / task / "outputs/small"))
        command = Path(f"/proc/{mount.pid}/cmdline").read_bytes()
        stats = (mount.path / ".taskfs/stats.json").read_bytes()
    output = b""
    for arguments in (
        ["list"],
        ["info", task],
        ["info", "nosuchtask"],
        ["doctor"],
        ["kill", "-y", task],
    ):
        done = mount.taskfs(*arguments)
        output += (done.stdout + done.stderr).encode()
    refused = mount.taskfs("list", TASKFS_API_KEY="wrong" + cloud.api_key)
    assert refused.returncode == 1
    output += refused.stderr.encode()
    written = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    assert written[mount.log].count(b"\n") > 30
    for content in (command, stats, output, *written.values()):
        assert cloud.api_key.encode() not in content
        assert not SIGNATURE.search(content), SIGNATURE.search(content)


def test_what_redact_knows() -> None:
    """Y-6: Keys anywhere, the query and credentials of URLs, and header values are redacted."""
    register_secret(SECRET)
    for text in (
        f"key {SECRET}.",
        f"https://store/{SECRET}/x",
        "GET https://store/b/output.zip?X-Goog-Signature=SIG&X=1 failed",
        "/b/output.zip?Signature=SIG",
        "url: /b/a name with spaces/x?Signature=SIG",
        "?Signature=SIG",
        "https://user:SIG@store/x",
        "{'X-API-Key': 'SIG'}",
        "x-api-key: SIG",
    ):
        shown = redact(text)
        assert "SIG" not in shown and SECRET not in shown and "***" in shown
    for text in ("no secret? none", "/a/b/c.txt", "https://store/x"):
        assert redact(text) == text


def test_redaction_takes_linear_time() -> None:
    """Y-6, X-10: Redaction takes linear time: a member may lie 30,000 directories deep, and each
    failure names its path."""
    began = time.monotonic()
    for text in ("/a" * 500_000, "http://" * 150_000, "x-api-key" * 100_000, "?" * 500_000):
        redact(text)
    assert time.monotonic() - began < 10  # 16 million characters squared would be years


@mounted_only
def test_a_name_writes_no_line_of_its_own(
    cloud: FakeCloud, new_mount: Callable[..., Mount]
) -> None:
    """Y-7, X-10: A failure is one line in the log with any member's name, and the name changes no
    terminal."""
    name = "x\n2025-06-11 08:00:00,000 ERROR taskfs: forged\x1b[2J\x7f\u0085"
    task = cloud.add_task(end_time="2025-06-11T08:00:00+00:00")
    cloud.put_object(
        f"{task}/output.zip", build([Entry(f"artifacts/{name}".encode(), b"x" * 99, crc=1)])
    )
    mount = new_mount()
    with pytest.raises(OSError) as caught:
        Mounted(cloud, mount.path).read(f"{task}/outputs/{name}")
    assert caught.value.errno == errno.EIO
    lines = mount.log.read_bytes().decode().split("\n")
    assert lines[-1] == "" and all("taskfs." in line for line in lines[:-1])
    assert any("x\\x0a2025-06-11" in line and "\\x1b[2J" in line for line in lines)


@mounted_only
@pytest.mark.parametrize("what", ["full", "removed"])
def test_an_unwritable_log_fails_no_operation(cloud: FakeCloud, tmp_path: Path, what: str) -> None:
    """Y-2: On a full disk, and with its directory deleted, the log fails no operation."""
    files = make_files(2)
    task = add_finished_task(cloud, files)
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    mount = Mount(cloud, mountpoint, tmp_path, {"log_level": "debug"})
    (tmp_path / "logs").mkdir()
    log = "/dev/full" if what == "full" else str(tmp_path / "logs" / "log")
    mount.flags[mount.flags.index("--log-file") + 1] = log
    mount.start()
    try:
        if what == "removed":
            (tmp_path / "logs" / "log").unlink()
            (tmp_path / "logs").rmdir()
        for name, body in files.items():
            assert (mountpoint / task / "outputs" / name).read_bytes() == body
        with pytest.raises(FileNotFoundError):
            (mountpoint / "no-such-task").stat()
        with pytest.raises(ProcessLookupError):
            (mountpoint / task / "kill").write_text("1")
    finally:
        mount.stop()
    if what == "full":
        assert stat.S_IMODE(os.stat("/dev/full").st_mode) == 0o666


@mounted_only
def test_cache_and_log_are_the_user_s_alone(cloud: FakeCloud, tmp_path: Path) -> None:
    """Y-1, Y-2: Cache and log are 0600 in 0700 directories by default, whatever the umask, also
    where others could read what was there before."""
    task = add_finished_task(cloud, make_files(3))
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    state = tmp_path / "state" / "taskfs" / "log"
    state.mkdir(parents=True, mode=0o755)
    cache = tmp_path / "cache" / "taskfs"
    log = state / f"{str(mountpoint).strip('/').replace('/', '-')[-200:]}.log"
    log.write_text("of an older version\n")
    log.chmod(0o644)
    mount = Mount(cloud, mountpoint, tmp_path)
    mount.flags = ["--log-level", "debug"]
    before = os.umask(0)
    try:
        mount.start()
        (mountpoint / task / "outputs/text").read_bytes()
    finally:
        os.umask(before)
        mount.stop()
    assert log.stat().st_size > 100
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert [path for path in cache.rglob("*") if path.is_file()]
    for path in (cache, *cache.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.is_file() else 0o700), path


def test_a_named_log_is_closed_to_others(tmp_path: Path, logger: logging.Logger) -> None:
    """Y-2: An existing `--log-file` becomes 0600; a terminal, /dev/null and a directory of the user
    keep their modes."""
    path = tmp_path / "log"
    path.write_text("before\n")
    path.chmod(0o666)
    tmp_path.chmod(0o755)
    logs.log_to_file(path, "info")
    logging.getLogger("taskfs.test").info("a line")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert path.read_text().startswith("before\n")
    modes = os.stat("/dev/null").st_mode
    logs.log_to_file(Path("/dev/null"), "info")
    assert os.stat("/dev/null").st_mode == modes


def test_allow_other_explains_what_it_shares(cloud: FakeCloud, tmp_path: Path) -> None:
    """A-3: The help and the README say what `--allow-other` shares."""
    done = Taskfs(tmp_path, cloud)("mount", "--help", COLUMNS="200")
    text = " ".join(done.stdout.split())
    assert "every user of this machine read your tasks and all their files" in text
    assert "every user of the machine" in " ".join((ROOT / "README.md").read_text().split())


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_no_shell_is_ever_called() -> None:
    """Y-11: No module calls a shell."""
    shells = ("os.system", "os.popen", "subprocess.getoutput", "eval", "exec")
    for path in (ROOT / "taskfs").rglob("*.py"):
        for call in _calls(ast.parse(path.read_text())):
            name = ast.unparse(call.func)
            assert name not in shells, (path, name)
            assert not name.startswith(("os.exec", "os.spawn")), (path, name)
            assert not [word for word in call.keywords if word.arg == "shell"], (path, name)


@mounted_only
def test_names_are_no_commands(cloud: FakeCloud, tmp_path: Path) -> None:
    """Y-11: A mountpoint, a project and an archive with names that a shell would obey cause no
    command."""
    name = "-o ro,$(touch pwned) `touch pwned`;touch pwned '\"|&"
    task = cloud.add_task(
        project=name, outputs={f"{name}/{name}": b"fine"}, end_time="2025-06-11T08:00:00+00:00"
    )
    with on_mount(cloud, tmp_path / "home", {}) as first:
        assert (first.path / task / "outputs" / name / name).read_bytes() == b"fine"
        assert os.listdir(first.path / ".by-project" / name) == [task]
    mountpoint = tmp_path / name
    mountpoint.mkdir()
    mount = Mount(cloud, mountpoint, tmp_path)
    mount.start()
    try:
        assert (mountpoint / task / "status").read_text() == "success\n"
    finally:
        assert mount.taskfs("umount", mountpoint).returncode == 0
    assert not [path for path in tmp_path.rglob("pwned")]
    assert not Path("/pwned").exists()


def test_the_embedded_cloud_binds_loopback_only(cloud: FakeCloud) -> None:
    """Y-12: Both ports of the embedded cloud listen on 127.0.0.1 only."""
    ports = {cloud.api.port, cloud.store.port}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == "0A" and int(port, 16) in ports:  # it listens
                assert address == "0100007F", line
                found.add(int(port, 16))
    assert found == ports


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("http://api.example", False),
        ("http://10.0.0.1:8000", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost.example", False),
        ("http://api.localhost", False),  # a name server may resolve it to anything
        ("http://0.0.0.0:1", False),
        ("http://[::]:1", False),
        ("http://127.0.0.1:1", True),
        ("http://127.9.9.9:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("https://127.0.0.1:1", True),
    ],
)
def test_the_api_must_be_https_unless_it_is_loopback(
    cloud: FakeCloud, tmp_path: Path, url: str, is_allowed: bool
) -> None:
    """Y-4: Any other API than https or loopback is one line with the fix, and nothing is sent."""
    taskfs = Taskfs(tmp_path, cloud)
    done = taskfs("list", "--api-url", url, "--timeout", "200ms")
    assert done.stderr.count("\n") == 1
    assert ("--insecure-http" in done.stderr) != is_allowed
    assert done.returncode != 0
    assert cloud.api_key not in done.stderr
    if not is_allowed and "example" not in url:
        done = taskfs("list", "--api-url", url, "--timeout", "200ms", "--insecure-http")
        assert "--insecure-http" not in done.stderr and done.returncode == 1


@mounted_only
def test_the_key_goes_to_the_api_alone(new_mount: Callable[..., Mount], cloud: FakeCloud) -> None:
    """Y-3, Y-5: A store, a redirect to it, and a redirect to another port of this machine never get
    the key."""
    task = add_finished_task(cloud, make_files(4))
    other = FakeCloud()
    other.start()
    try:
        mount = new_mount()
        for target in (cloud.signed_url(f"{task}/output.zip"), f"{other.api_url}/tasks"):
            (mount.path / ".taskfs/refresh").write_text("1")
            cloud.faults.add("redirect", side="api", path="/tasks", to=target, times=2)
            with contextlib.suppress(OSError):
                os.listdir(mount.path)
            cloud.faults.clear()
        (mount.path / task / "outputs/small").read_bytes()
        assert other.requests
        assert not [record for record in other.requests if record.had_api_key]
        assert cloud.store.leaked_keys == []
    finally:
        other.stop()


def test_secrets_registered_while_others_log() -> None:
    """Y-6: A key that is registered while other threads log disturbs no line."""
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(2000):
                redact(f"line {number}")
        except BaseException as exc:
            failures.append(exc)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for number in range(300):
        register_secret(f"{SECRET}-{number}-of-many")
    for writer in writers:
        writer.join()
    assert failures == []


def test_an_archive_cannot_write_outside_of_a_download(cloud: FakeCloud, tmp_path: Path) -> None:
    """C-22: `taskfs download` follows no name out of its directory."""
    task = cloud.add_task(end_time="2025-06-11T08:00:00+00:00")
    names = (b"../../out", b"/tmp/taskfs-out", b"a/../../out", b"good")
    members = [Entry(b"artifacts/" + name, b"content") for name in names]
    cloud.put_object(f"{task}/output.zip", build(members))
    done = Taskfs(tmp_path, cloud)("download", task, "--output-dir", tmp_path / "down")
    assert done.returncode == 0, done.stderr
    found = [path for path in (tmp_path / "down").rglob("*") if path.is_file()]
    # The empty component of the absolute name `/tmp/taskfs-out` is dropped, as unzip does.
    assert sorted(path.name for path in found) == ["good", "taskfs-out"]
    assert not Path("/tmp/taskfs-out").exists()
    assert not list(tmp_path.rglob("out")) and not Path("/tmp/taskfs-out").exists()
    assert subprocess.run(["find", tmp_path, "-type", "l"], capture_output=True).stdout == b""
