"""fsspec: listings and their requests."""

from datetime import datetime, timezone
from typing import Any, Final

import fsspec
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud
from tests.outputs import LONG_AGO

OUTPUTS: Final = {
    "p.csv": b"t,p\n0,1\n1,2\n",
    "log.txt": b"fine\n" * 500,
    "vtk/a.vtk": b"# vtk DataFile\n" * 100,
    "vtk/deep/b.vtk": b"# vtk\n",
}
INPUTS: Final = {"case.json": b"{}\n"}
OUTPUT_PATHS: Final = ["log.txt", "p.csv", "vtk/a.vtk", "vtk/deep/b.vtk"]


def finished(cloud: FakeCloud, **fields: Any) -> str:
    return cloud.add_task(outputs=OUTPUTS, inputs=INPUTS, **fields)


def requested_paths(cloud: FakeCloud) -> list[str]:
    return [record.path for record in cloud.requests]


def test_registered_by_entry_point(by_environment: FakeCloud) -> None:
    """P-1: `fsspec.filesystem("taskfs")` and `taskfs://` URLs work by entry point."""
    task = finished(by_environment)
    fs = fsspec.filesystem("taskfs")
    assert isinstance(fs, TaskFileSystem)
    assert fs is fsspec.filesystem("taskfs")
    with fsspec.open(f"taskfs://{task}/outputs/p.csv", "rt") as file:
        assert file.read() == OUTPUTS["p.csv"].decode()


def test_ls(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-2, P-3: `ls` with and without detail; the root lists the tasks only, newest first."""
    task, running = finished(cloud), cloud.add_task(status="started")
    assert remote.ls("", detail=False) == [running, task]
    assert remote.ls("taskfs://") == remote.ls("/") == remote.ls("")
    names = [name.rpartition("/")[2] for name in remote.ls(task, detail=False)]
    assert names[:2] == ["status", "machine_type"]
    assert {"kill", "outputs", "inputs"} < set(names)
    assert remote.ls(f"taskfs://{task}/outputs/vtk/", detail=False) == [
        f"{task}/outputs/vtk/a.vtk",
        f"{task}/outputs/vtk/deep",
    ]
    for path in (task, f"{task}/outputs", f"{task}/outputs/vtk"):
        for info in remote.ls(path):
            assert info == remote.info(info["name"])
    assert remote.ls(f"{task}/status") == [remote.info(f"{task}/status")]


def test_info(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-3: `info` gives name, size, type, times, checksum and compressed size."""
    task = finished(cloud, end_time="2025-06-11T08:00:00+00:00")
    member = remote.info(f"{task}/outputs/log.txt")
    assert member["name"] == f"{task}/outputs/log.txt"
    assert (member["size"], member["type"]) == (2500, "file")
    assert member["compressed_size"] < 100
    assert (member["compression"], len(member["crc32"])) == ("deflate", 8)
    assert remote.modified(member["name"]).timestamp() == member["mtime"]
    ended = datetime(2025, 6, 11, 8, tzinfo=timezone.utc)
    assert remote.modified(f"taskfs://{task}") == ended
    assert remote.modified(f"{task}/status") == ended
    assert remote.created(task) < datetime.now(tz=timezone.utc)
    assert remote.info(task)["type"] == "directory"
    stored = cloud.get_object(f"{task}/output.zip")
    assert stored is not None
    raw = remote.info(f"{task}/output.zip")
    assert (raw["size"], raw["ETag"]) == (stored.source.size, stored.etag)
    assert remote.size(f"{task}/status") == len("success\n")
    assert remote.du(f"{task}/outputs") == sum(map(len, OUTPUTS.values()))


def test_what_is_there(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-2: `exists` and `isdir` know what is listed and what exists by name."""
    task = finished(cloud)
    for path in ("", task, f"{task}/outputs", f"{task}/outputs/vtk/", ".by-status/killed"):
        assert remote.exists(path)
        assert remote.isdir(path)
        assert not remote.isfile(path)
    for path in (f"{task}/kill", f"{task}/outputs/p.csv", f"{task}/output.zip"):
        assert remote.exists(path)
        assert remote.isfile(path)
        assert not remote.isdir(path)
    for path in ("nothing", f"{task}/outputs/x", f"{task}/status/x", ".by-status/x", ".x", "../x"):
        assert not remote.exists(path)
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            remote.info(path)


def test_find_and_walk(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-2: `find` and `walk` meet each task once, because the views are not listed."""
    task = finished(cloud)
    outputs = [f"{task}/outputs/{name}" for name in OUTPUT_PATHS]
    assert remote.find(f"{task}/outputs") == outputs
    everything = remote.find("")
    assert len(everything) == len(set(everything))
    assert set(outputs) < set(everything)
    assert all(path.startswith(f"{task}/") for path in everything)
    sizes = {path: info["size"] for path, info in remote.find(task, detail=True).items()}
    assert sizes[f"{task}/outputs/p.csv"] == len(OUTPUTS["p.csv"])
    assert list(remote.walk(f"{task}/outputs/vtk")) == [
        (f"{task}/outputs/vtk", ["deep"], ["a.vtk"]),
        (f"{task}/outputs/vtk/deep", [], ["b.vtk"]),
    ]
    assert remote.find(f"{task}/outputs", maxdepth=1) == outputs[:2]


def test_glob(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-4: `glob` finds what fsspec's patterns mean."""
    task, other = finished(cloud), cloud.add_task(outputs={"q.csv": b"", "vtk/c.vtk": b"c"})
    csvs = sorted([f"{task}/outputs/p.csv", f"{other}/outputs/q.csv"])
    assert remote.glob("*/outputs/*.csv") == csvs
    assert remote.glob(f"taskfs://{task}/outputs/?.csv") == [f"{task}/outputs/p.csv"]
    assert remote.glob(f"{task[:5]}*/**/*.vtk") == [
        f"{task}/outputs/vtk/a.vtk",
        f"{task}/outputs/vtk/deep/b.vtk",
    ]
    assert remote.glob("**/c.vtk") == [f"{other}/outputs/vtk/c.vtk"]
    assert remote.glob(f"{task}/outputs/[lp]*") == [
        f"{task}/outputs/log.txt",
        f"{task}/outputs/p.csv",
    ]
    assert remote.glob(f"{task}/outputs/vtk/*/") == [f"{task}/outputs/vtk/deep"]
    assert remote.glob("*") == sorted([task, other])
    assert remote.glob(f"{task}/outputs/x*") == remote.glob("nothing/*") == []
    assert remote.glob(f"{task}/status") == [f"{task}/status"]
    detailed = remote.glob("*/outputs/*.csv", detail=True)
    assert detailed[f"{task}/outputs/p.csv"] == remote.info(f"{task}/outputs/p.csv")


def test_a_glob_asks_only_where_it_may_find(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-4: `glob` looks only into directories that may hold a match."""
    tasks = [finished(cloud) for _ in range(3)]
    assert remote.glob("*/status") == sorted(f"{task}/status" for task in tasks)
    assert requested_paths(cloud) == ["/tasks"]
    cloud.clear_requests()
    remote.glob("*/outputs/*.csv")
    archives = [path for path in requested_paths(cloud) if path.endswith(".zip")]
    assert sorted(path.rpartition("/")[2] for path in archives) == ["output.zip"] * 3
    cloud.clear_requests()
    remote.glob(f"{tasks[0]}/inputs/*.json")
    remote.find(f"{tasks[0]}/outputs")
    assert len([path for path in requested_paths(cloud) if path.endswith(".zip")]) == 1


def test_views_are_directories_of_tasks(remote: TaskFileSystem, cloud: FakeCloud) -> None:
    """P-2: The links of a view are directories with `islink` and `destination`."""
    task, running = finished(cloud, project="dam break"), cloud.add_task(status="started")
    link = f".by-project/dam break/{task}"
    info = remote.info(link)
    assert (info["type"], info["islink"], info["destination"]) == ("directory", True, task)
    assert info["mtime"] == remote.info(task)["mtime"]
    assert remote.ls(".by-project/dam break") == [info]
    assert remote.info(".latest")["destination"] == running
    assert remote.cat_file(".latest/status") == b"started\n"
    assert remote.glob(".by-project/dam break/*/outputs/*.csv") == [f"{link}/outputs/p.csv"]
    assert remote.find(f"{link}/outputs/vtk") == [
        f"{link}/outputs/vtk/a.vtk",
        f"{link}/outputs/vtk/deep/b.vtk",
    ]
    assert remote.cat_file(f"{link}/outputs/p.csv") == OUTPUTS["p.csv"]
    assert remote.isdir(".by-status/success")
    assert remote.ls(".by-status/killed") == []


def test_invalidate_cache_drops_what_is_cached(new_fs: Any, cloud: FakeCloud) -> None:
    """P-18: `invalidate_cache` forgets what is kept of the remote side."""
    remote = new_fs(dir_cache_time="1h")
    task = finished(cloud)
    assert remote.ls("", detail=False) == [task]
    other = cloud.add_task(status="started")
    assert remote.ls("", detail=False) == [task]
    remote.invalidate_cache()
    assert remote.ls("", detail=False) == [other, task]


def test_fingerprints(new_fs: Any, cloud: FakeCloud) -> None:
    """P-18: `checksum` and `ukey` are equal for equal bytes, in another process too, and differ for
    others."""
    task = finished(cloud)
    paths = (f"{task}/outputs/p.csv", f"{task}/output.zip", f"{task}/status")

    def prints(timeout: str) -> list[tuple[int, str]]:
        fs = new_fs(cache_size=0, timeout=timeout)  # another configuration shares no memory
        return [(fs.checksum(path), fs.ukey(path)) for path in paths]

    before = prints("31s")
    assert prints("32s") == before
    source = cloud.get_object(f"{finished(cloud)}/output.zip")
    assert source is not None
    cloud.put_object(f"{task}/output.zip", source.source)
    after = prints("33s")
    assert all(old != new for old, new in zip(before[:2], after[:2], strict=True))
    assert before[2] == after[2]


@pytest.mark.parametrize("way", ["glob", "find", "cat", "open in turn"])
def test_many_tasks_cost_few_requests_of_the_api(
    remote: TaskFileSystem, cloud: FakeCloud, way: str
) -> None:
    """R-29, R-30: To look into many tasks takes one signing for several of them."""
    tasks = sorted(
        cloud.add_task(outputs={"p.csv": b"%d" % number}, end_time=LONG_AGO) for number in range(40)
    )
    paths = [f"{task}/outputs/p.csv" for task in tasks]
    remote.ls("")
    cloud.clear_requests()
    if way == "glob":
        assert remote.glob("*/outputs/*.csv") == paths
    elif way == "find":
        assert [path for path in remote.find("") if path.endswith(".csv")] == paths
    elif way == "cat":
        assert sorted(remote.cat(paths)) == paths
    else:
        assert sorted(remote.open(path).read() for path in paths) == sorted(
            b"%d" % number for number in range(40)
        )
    signings = requested_paths(cloud).count("/storage/signed-urls")
    # `find` looks into two archives of each task.
    assert signings <= (8 + len(tasks) // 2 if way == "find" else 4 + len(tasks) // 4)
    archives = 2 * len(tasks) if way == "find" else len(tasks)
    assert sum(record.side == "store" for record in cloud.requests) <= archives
