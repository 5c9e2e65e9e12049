"""A mount whose package is upgraded or removed. All that could be imported late goes away under the
daemon, the standard library included: an importer that stands first refuses each module, and notes
its name.
"""

import errno
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from taskfs.fuse.mountpoint import has_ended
from taskfs.fuse.preload import LOADED
from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault
from tests.file_systems import assert_same, errno_of
from tests.fork_server import ROOT
from tests.mounts import Mount, eventually, is_mounted
from tests.outputs import LONG_AGO, add_finished_task, noise
from tests.zips import STORED

REFUSING: Final = """
import os, sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if os.path.exists({flag!r}):
            with open({names!r}, "a") as names:
                names.write(name + "\\n")
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Gone())
"""
TRANSIENT: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("status", {"status": 503}),
    ("status", {"status": 429, "retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    ("reset", {}),
    ("short", {"after_bytes": 10}),
)
METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MAX_PREFETCHED: Final = 2  # archives whose faults a prefetch may avoid


def archived(cloud: FakeCloud, method: int, content: bytes, task_id: str | None = None) -> str:
    """Add a task that ended long ago, with a file `a` packed by *method*; return its id."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("artifacts/a", content)
        archive.writestr("artifacts/gr\xfc\xdfe", b"a name that is not ASCII")
    task = cloud.add_task(task_id, end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", made.getvalue())
    return task


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_a_mount_works_on_after_its_package_is_gone(
    cloud: FakeCloud,
    tmp_path: Path,
    new_mount: Callable[..., Mount],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """E-20: With its package gone a mount survives every transient fault, in every kind of
    operation."""
    flag, names, hooks = tmp_path / "gone", tmp_path / "names", tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "sitecustomize.py").write_text(REFUSING.format(flag=str(flag), names=str(names)))
    monkeypatch.setenv("PYTHONPATH", str(hooks))
    content = noise(1, 300_000)
    # The order of the names is that of the creation: a walk in one of them is one in both.
    ids = (f"{number:025}" for number in itertools.count())
    faulty = [
        (add_finished_task(cloud, {"a": content}, STORED, next(ids)), where, kind, options)
        for where in ("store", "signing", "record")
        for kind, options in TRANSIENT
    ]
    # Reads of one task after another prefetch the signed URLs of the next ones, and the archives of
    # a few, so such a fault may meet no request. The first one does, because nothing was read
    # before it.
    random.Random(7).shuffle(faulty)
    faulty.sort(key=lambda fault: fault[1] != "signing")
    packed = [archived(cloud, method, content, next(ids)) for method in METHODS]
    started = cloud.add_task(next(ids), status="started")
    mount = new_mount(log_level="debug", timeout="10s")
    eventually(lambda: LOADED in mount.log.read_text())
    flag.touch()
    unmet = []
    for task, where, kind, options in faulty:
        fault = add_fault(cloud, where, task, kind, **options)
        if where == "record":
            (mount.path / task / "info.json").read_text()
        assert_same((mount.path / task / "outputs/a").read_bytes(), content)
        if not fault.hits and where != "record":
            unmet.append((task, where))
    assert faulty[0][0] not in dict(unmet)
    assert [where for _, where in unmet].count("store") <= MAX_PREFETCHED
    for task in packed:
        assert_same((mount.path / task / "outputs/a").read_bytes(), content)
    for name in ("status", "info.json", "output_files_info", "error", "output.zip"):
        (mount.path / packed[0] / name).read_bytes()
    cloud.faults.add("status", side="api", method="POST", status=503)
    os.setxattr(mount.path / started, "user.taskfs.metadata.study", b"x")
    (mount.path / started / "kill").write_text("1")
    assert cloud.killed == [started]
    (mount.path / ".taskfs/refresh").write_text("1")
    assert started in os.listdir(mount.path)
    cloud.faults.add("status", side="api", times=None, status=403)
    (mount.path / ".taskfs/refresh").write_text("1")
    assert errno_of(lambda: os.listdir(mount.path)) == errno.EACCES
    cloud.faults.clear()
    pid = mount.pid
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: has_ended(pid))
    assert not is_mounted(mount.path)
    assert not names.exists(), names.read_text()


PROGRAM: Final = """
import dataclasses, errno, logging, sys, threading
from pathlib import Path
import taskfs.fuse.engine_choice
import taskfs.fuse.server
from taskfs.fuse import preload
from taskfs.core import open_core
from taskfs.api_key import Secret
from taskfs.config import Config
from taskfs.fuse.attributes import AttributePolicy
from taskfs.fuse.operations import TaskOperations
from taskfs.support.stats import Stats

url, key, cache, log, tasks = *sys.argv[1:5], sys.argv[5:]
logging.basicConfig(filename=log, level="DEBUG")
config = Config(api_url=url, api_key=Secret(key), cache_dir=Path(cache), timeout_s=5.0)
core = open_core(config)
core.begin()
operations = TaskOperations(core.tree, AttributePolicy(), Stats())
preload.load_rest()
before = set(sys.modules)
operations("readdir", "")
for number, task in enumerate(tasks):
    path = f"/{task}/outputs/a"
    for name in ("status", "info.json", "output_files_info", "error", "computation_time"):
        opened = operations("open", f"/{task}/{name}", 0)
        operations("read", "", 1 << 17, 0, opened.fh)
        operations("release", "", opened.fh)
    if operations("getattr", f"/{task}/outputs").mode and number < len(tasks) - 1:
        size = operations("getattr", path).size
        opened = operations("open", path, 0)
        at = 0
        while at < size:
            at += len(operations("read", path, 1 << 17, at, opened.fh))
        operations("release", "", opened.fh)
        operations("listxattr", path)
kill = operations("open", f"/{tasks[-1]}/kill", 1)
operations("write", "", b"1", 0, kill.fh)
try:
    operations("getattr", "/no/such")
except OSError as exc:
    assert exc.errno == errno.ENOENT
operations.unexpected = lambda path: {}[path]
try:
    operations("unexpected", "/")
except OSError as exc:
    assert exc.errno == errno.EIO
core.close()
print(*sorted(set(sys.modules) - before))
"""


def test_no_module_is_imported_once_all_are_loaded(cloud: FakeCloud, tmp_path: Path) -> None:
    """E-20: Once all modules are loaded no request imports one."""
    tasks = [archived(cloud, method, noise(2, 200_000)) for method in METHODS]
    for task, (kind, options) in zip(tasks, TRANSIENT, strict=False):
        add_fault(cloud, "store", task, kind, **options)
        add_fault(cloud, "signing", task, kind, **options)
    tasks.append(cloud.add_task(status="started", create_time=LONG_AGO))
    words = [cloud.api_url, cloud.api_key, tmp_path / "cache", tmp_path / "log", *tasks]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


CROWD: Final = """
import sys, threading, time, traceback
import taskfs.core
from taskfs.archive import decoders
from taskfs import errors
from taskfs.archive import isal as igzip
from taskfs.fuse import preload
from taskfs.remote import retry as retries

failed = []
gate = threading.Barrier(9)

def fail_once():
    def attempt(budget):
        if tries.pop():
            raise retries.Transient(errors.Unavailable("503"))
        return True
    tries = [0, 1]
    budget = retries.Deadline(10.0, time.monotonic())
    assert retries.retry_transient(attempt, budget, lambda *failure: None)

def decode():
    assert decoders.make_deflate_decoder()
    "gr\\xfc\\xdfe.example".encode("idna"), b"\\x81".decode("cp437")

def explain():
    try:
        [1, 2][1] / 0
    except ZeroDivisionError:
        traceback.format_exc()

def run(work):
    gate.wait()
    try:
        work()
    except BaseException:
        failed.append(traceback.format_exc())

works = [preload.load_rest, *([fail_once, decode, explain] * 2), fail_once, decode]
threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(20)
print(*failed, sum(thread.is_alive() for thread in threads))
"""


@pytest.mark.parametrize("attempt", range(4))
def test_requests_that_import_meanwhile_neither_wait_for_ever_nor_fail(attempt: int) -> None:
    """E-20: A request that imports while the rest is loaded gets its module."""
    done = subprocess.run(
        [sys.executable, "-c", CROWD], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "0\n", done.stdout + done.stderr
