"""The names in the tree, and the contents of its text files."""

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone

import pytest
import requests

from taskfs import __version__
from taskfs.demo.tasks import STATUSES
from taskfs.model import KNOWN_STATUSES
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, text, write
from tests.mounts import eventually
from tests.outputs import LONG_AGO

IN_A_TASK = (
    *("status", "machine_type", "computation_time", "output_files_info", "info.json", "error"),
    *("kill", "outputs", "inputs"),
)
VIEWS = (".by-status", ".by-project", ".by-simulator", ".by-date")


def listed_record(cloud: FakeCloud, task: str) -> object:
    headers = {"X-API-Key": cloud.api_key}
    answer = requests.get(f"{cloud.api_url}/tasks?per_page=500", headers=headers, timeout=30)
    return next(record for record in answer.json()["tasks"] if record["task_id"] == task)


def iso(seconds_ago: float) -> str:
    return datetime.fromtimestamp(time.time() - seconds_ago, timezone.utc).isoformat()


def test_a_task_is_a_directory_of_these_names(fs: FileSystem) -> None:
    """N-1, N-2, N-3: A task's directory lists exactly the names of the contract."""
    for status in ("success", "submitted"):
        task = fs.cloud.add_task(status=status, outputs={"a": b"a"}, inputs={"b": b"b"})
        assert tuple(fs.names(task)) == IN_A_TASK


def test_the_root_lists_tasks_and_views(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """N-1, N-5, N-6: The root lists tasks, views and `.latest`, and never `.taskfs`."""
    fs = new_fs(dir_cache_time="200ms", attr_timeout="100ms")
    assert sorted(fs.names()) == sorted(VIEWS)
    with pytest.raises(FileNotFoundError):
        fs.target(".latest")
    assert "stats.json" in fs.names(".taskfs")
    old = cloud.add_task(create_time=LONG_AGO)
    eventually(lambda: old in fs.names())
    eventually(lambda: fs.target(".latest") == old)
    new = cloud.add_task(status="submitted")
    eventually(lambda: new in fs.names())
    assert sorted(fs.names()) == sorted((old, new, *VIEWS, ".latest"))
    eventually(lambda: fs.target(".latest") == new)
    assert fs.stat(f"{fs.target('.latest')}/status").st_size == len("submitted\n")
    cloud.remove_task(new)
    eventually(lambda: new not in fs.names())


@pytest.mark.parametrize("status", [*KNOWN_STATUSES, "something-new", "two words"])
def test_status_is_the_apis_status_string(fs: FileSystem, status: str) -> None:
    """T-2: `status` is the API's status string, also an unknown one."""
    task = fs.cloud.add_task(status=status)
    assert text(fs, f"{task}/status") == f"{status}\n"


def test_machine_type(fs: FileSystem) -> None:
    """T-3: `machine_type` is empty until a machine is assigned."""
    waiting = fs.cloud.add_task(status="submitted")
    assert text(fs, f"{waiting}/machine_type") == ""
    running = fs.cloud.add_task(status="started", machine="c3d-highcpu-16")
    assert text(fs, f"{running}/machine_type") == "c3d-highcpu-16\n"
    local = fs.cloud.add_task(status="started", executer={"vm_type": "my-laptop"})
    assert text(fs, f"{local}/machine_type") == "my-laptop\n"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(192.4, "00:03:12"), (0, "00:00:00"), (359_999.9, "99:59:59"), (363_730, "101:02:10")],
)
def test_computation_time_of_a_finished_task(fs: FileSystem, seconds: float, shown: str) -> None:
    """T-4: A finished task's `computation_time` is HH:MM:SS."""
    task = fs.cloud.add_task(metrics={"computation_seconds": seconds})
    assert text(fs, f"{task}/computation_time") == f"{shown}\n"


def test_computation_time_counts_while_the_task_runs(fs: FileSystem) -> None:
    """T-4: `computation_time` counts while the computation runs, and is empty before."""
    for status in ("pending-input", "submitted", "started"):
        task = fs.cloud.add_task(status=status)
        assert text(fs, f"{task}/computation_time") == ""
    task = fs.cloud.add_task(status="computation-started", computation_start_time=iso(3700))
    first = text(fs, f"{task}/computation_time")
    assert first in {f"01:01:{second}\n" for second in range(40, 60)}
    eventually(lambda: text(fs, f"{task}/computation_time") > first)


def test_output_files_info(fs: FileSystem) -> None:
    """T-5: `output_files_info` has exactly the promised lines, in archive order, for all
    directories."""
    task = fs.cloud.add_task(
        layout="plain",
        outputs={
            "stdout.txt": b"s" * 3120,
            "stderr.txt": bytes(242),
            "vtk/deep/Fluid_40.vtk": os.urandom(5760),
            "empty": b"",
            "a million": bytes(10**6),
        },
    )
    stored = fs.cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    size = stored.source.size
    assert 1000 < size < 10**6
    lines = text(fs, f"{task}/output_files_info").split("\n")
    assert lines[0] == f"Archive size: {size / 1000:.2f} KB"
    assert lines[1:3] == ["Contents:", "  Size         Compressed   Name"]
    assert lines[-1] == ""
    rows = [(line[2:15].rstrip(), line[15:28].rstrip(), line[28:]) for line in lines[3:-1]]
    assert [(row[0], row[2]) for row in rows] == [
        ("3.12 KB", "stdout.txt"),
        ("242 B", "stderr.txt"),
        ("5.76 KB", "vtk/deep/Fluid_40.vtk"),
        ("0 B", "empty"),
        ("1.00 MB", "a million"),
    ]
    for name, row in zip(("stdout.txt", "stderr.txt"), rows, strict=False):
        assert (
            row[1] == f"{int(fs.xattr(f'{task}/outputs/{name}', 'user.taskfs.compressed_size'))} B"
        )
    assert fs.stat(f"{task}/output_files_info").st_size == len("\n".join(lines))


def test_output_files_info_is_empty_until_there_is_an_archive(fs: FileSystem) -> None:
    """T-6: `output_files_info` is empty until there is an archive."""
    for task in (fs.cloud.add_task(status="started"), fs.cloud.add_task(status="success")):
        assert text(fs, f"{task}/output_files_info") == ""
        assert fs.stat(f"{task}/output_files_info").st_size == 0


def test_info_json_is_the_record_of_a_listing(fs: FileSystem) -> None:
    """T-7: `info.json` is the record as a listing gives it, indented."""
    task = fs.cloud.add_task(status="started", task_metadata={"a": "b"}, storage_region="mars")
    fs.cloud.update_task(task, **{"new field": [1, {"π": None}], "empty": {}})
    # A listing of the shared file system may have met the task before the update.
    eventually(lambda: "new field" in text(fs, f"{task}/info.json"))
    shown = text(fs, f"{task}/info.json")
    assert json.loads(shown) == listed_record(fs.cloud, task)
    assert shown.startswith('{\n  "task_id"')
    assert shown.endswith("\n}\n")


def test_info_json_costs_no_request(tree: FileSystem, cloud: FakeCloud) -> None:
    """T-7: `info.json` costs no request of its own."""
    tasks = [cloud.add_task() for _ in range(5)]
    tree.names()
    cloud.clear_requests()
    assert [json.loads(text(tree, f"{task}/info.json"))["task_id"] for task in tasks] == tasks
    assert cloud.requests == []


def test_error_is_the_apis_detail_and_the_executers(fs: FileSystem) -> None:
    """T-8: `error` joins the API's detail and the executer's, and is empty without either."""
    both = fs.cloud.add_task(
        status="failed", error_detail="it failed", executer={"error_detail": "no space left\n"}
    )
    assert text(fs, f"{both}/error") == "it failed\nno space left\n"
    one = fs.cloud.add_task(status="failed", executer={"error_detail": "line 1\nline 2"})
    assert text(fs, f"{one}/error") == "line 1\nline 2\n"
    assert text(fs, f"{fs.cloud.add_task()}/error") == ""


def test_texts_end_in_one_newline(fs: FileSystem) -> None:
    """T-1: Each text ends in one newline, unless it is empty."""
    full = fs.cloud.add_task(
        status="failed", error_detail="oh\n\n", outputs={"x": b"x"}, task_metadata={"k": "v\n"}
    )
    bare = fs.cloud.add_task(status="pending-input")
    for task in (full, bare):
        for name in IN_A_TASK[:6]:
            content = text(fs, f"{task}/{name}")
            assert content == "" or (content.endswith("\n") and not content.endswith("\n\n")), name
    assert text(fs, ".taskfs/version") == f"{__version__}\n"
    assert text(fs, ".taskfs/stats.json").endswith("}\n")


def test_the_service_directory(fs: FileSystem) -> None:
    """N-6, N-22: `.taskfs` is not listed and holds stats.json with the pid, version, refresh."""
    assert ".taskfs" not in fs.names()
    assert sorted(fs.names(".taskfs")) == ["refresh", "stats.json", "version"]
    stats = json.loads(text(fs, ".taskfs/stats.json"))
    assert os.path.isdir(f"/proc/{stats['pid']}")
    assert fs.read(".taskfs/refresh") == b""


def test_refresh_forgets_what_is_cached(
    new_fs: Callable[..., FileSystem], cloud: FakeCloud
) -> None:
    """N-21: A write to refresh forgets what is cached."""
    task = cloud.add_task(status="started")
    late = cloud.add_task(end_time=LONG_AGO)
    fs = new_fs(dir_cache_time="1h", status_cache_time="1h", attr_timeout="0s")
    assert text(fs, f"{task}/status") == "started\n"
    assert fs.names(f"{late}/outputs") == []
    younger = cloud.add_task()
    cloud.set_status(task, "computation-started")
    cloud.put_object(f"{late}/output.zip", b"PK\x05\x06" + bytes(18))
    assert younger not in fs.names()
    assert text(fs, f"{task}/status") == "started\n"
    fs.change("truncate", ".taskfs/refresh", 0)
    fs.change("utimens", ".taskfs/refresh")
    assert text(fs, f"{task}/status") == "started\n"
    assert write(fs, ".taskfs/refresh") == 2
    assert younger in fs.names()
    assert text(fs, f"{task}/status") == "computation-started\n"
    assert "Contents:" in text(fs, f"{late}/output_files_info")


def test_views_link_to_the_tasks(fs: FileSystem) -> None:
    """N-7: Views hold links to `../../<id>`."""
    task = fs.cloud.add_task(status="failed", project="wind", simulator="openfoam")
    group = (
        f".by-status/failed/{task}",
        f".by-project/wind/{task}",
        f".by-simulator/openfoam/{task}",
    )
    eventually(lambda: task in fs.names())
    for link in group:
        assert fs.target(link) == f"../../{task}"
        directory, _, name = link.rpartition("/")
        assert name in fs.names(directory)
        assert text(fs, os.path.normpath(f"{directory}/{fs.target(link)}/status")) == "failed\n"
    with pytest.raises(FileNotFoundError):
        fs.target(f".by-status/success/{task}")
    with pytest.raises(FileNotFoundError):
        fs.names(".by-project/no-such-project")


def test_every_known_status_has_its_directory(tree: FileSystem) -> None:
    """N-8: Every known status has a directory, empty or not."""
    assert set(STATUSES) == set(KNOWN_STATUSES)
    assert set(tree.names(".by-status")) == set(KNOWN_STATUSES)
    assert all(tree.names(f".by-status/{status}") == [] for status in KNOWN_STATUSES)
    assert tree.names(".by-project") == tree.names(".by-simulator") == []


def test_view_names_are_encoded(fs: FileSystem) -> None:
    """N-9: `/`, NUL, `.` and `..` are percent-encoded and null shows as `none`."""
    shown = {
        "a/b": "a%2Fb",
        ".": "%2E",
        "..": "%2E%2E",
        "nul\0": "nul%00",
        "...": "...",
        ".hidden": ".hidden",
        "größe π": "größe π",
        "100%": "100%",
        None: "none",
    }
    tasks = {fs.cloud.add_task(): value for value in shown}
    for task, value in tasks.items():
        fs.cloud.update_task(task, project=value, simulator=value)
    eventually(lambda: set(tasks) <= set(fs.names()))
    for view in (".by-project", ".by-simulator"):
        eventually(lambda view=view: set(shown.values()) <= set(fs.names(view)))  # type: ignore[misc]
        for task, value in tasks.items():
            assert fs.target(f"{view}/{shown[value]}/{task}") == f"../../{task}"


def test_views_are_as_current_as_the_listing(fs: FileSystem) -> None:
    """N-10: Views change with the listing."""
    fs.cloud.add_task(project="before")
    task = fs.cloud.add_task(status="started", project="before", simulator="reef3d")
    eventually(lambda: task in fs.names(".by-status/started"))
    fs.cloud.set_status(task, "success")
    eventually(lambda: task in fs.names(".by-status/success"))
    assert task not in fs.names(".by-status/started")
    assert task in fs.names(".by-project/before")
    project = f"after {task}"
    fs.cloud.update_task(task, project=project)
    eventually(lambda: project in fs.names(".by-project"))
    assert fs.names(f".by-project/{project}") == [task]
    assert task not in fs.names(".by-project/before")
    fs.cloud.remove_task(task)
    eventually(lambda: project not in fs.names(".by-project"))


def test_probes_of_names_that_cannot_be_there_are_enoent(fs: FileSystem) -> None:
    """N-19, X-1: Names that cannot be there are ENOENT."""
    task = fs.cloud.add_task()
    for path in (
        *(".git", ".Trash", ".Trash-0", "autorun.inf", ".hidden", "lost+found", "desktop.ini"),
        *(f"{task}/.git", f"{task}/outputs2", ".by-status/nope", ".by-status/success/nope"),
        *(".taskfs/nope", ".by-nothing", "%2E", "0" * 25, "ü", "x" * 255),
    ):
        with pytest.raises(FileNotFoundError):
            fs.stat(path)
    with pytest.raises(NotADirectoryError):
        fs.stat(f"{task}/status/beneath")
    with pytest.raises(NotADirectoryError):
        fs.names(f"{task}/status")
