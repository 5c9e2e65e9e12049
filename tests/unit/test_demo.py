"""The embedded cloud over loopback: the API, the store, the archives, and the passing of time."""

from __future__ import annotations

import io
import socket
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import requests

from taskfs.demo.archives import LAYOUTS, MemberSpec, dos_stamp, extended_stamp, ntfs_stamp
from taskfs.demo.catalogue import FINISHED
from taskfs.demo.cloud import EmbeddedCloud
from taskfs.demo.hdf5 import pressure_history
from taskfs.demo.sources import FileSource, RepeatedSource, SourceFile
from taskfs.demo.tasks import STATUSES, TERMINAL
from tests.fake_api import FakeCloud
from tests.unit.fakes import Clock

DAM_BREAK = "i4ir3kvv62odsfrhko4y8w2an"
START = 1_760_000_000.0


class Client:
    """A client that sends the key to the API but not to the store."""

    def __init__(self, cloud: EmbeddedCloud) -> None:
        self.cloud = cloud
        self.session = requests.Session()

    def request(self, path: str, *, method: str = "GET", **options: Any) -> requests.Response:
        headers = {"X-API-Key": self.cloud.api_key}
        return self.session.request(
            method, self.cloud.api_url + path, headers=headers, timeout=30, **options
        )

    def tasks(self, **query: Any) -> list[dict[str, Any]]:
        answer = self.request("/tasks", params={"per_page": 500, **query})
        assert answer.status_code == 200, answer.text
        listed: list[dict[str, Any]] = answer.json()["tasks"]
        return listed

    def statuses(self) -> dict[str, str]:
        return {task["task_id"]: task["status"] for task in self.tasks()}

    def url(self, path: str) -> str:
        query = {"operation": "download", "paths": path, "region": "europe-west1"}
        return str(self.request("/storage/signed-urls", params=query).json()[0])

    def fetch(self, url: str, *ranges: str, **headers: str) -> requests.Response:
        if ranges:
            headers["Range"] = f"bytes={','.join(ranges)}"
        return self.session.get(url, headers=headers, timeout=30)

    def archive(self, path: str) -> zipfile.ZipFile:
        answer = self.fetch(self.url(path))
        assert answer.status_code == 200, answer.text
        return zipfile.ZipFile(io.BytesIO(answer.content))


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def demo(clock: Clock) -> Iterator[Client]:
    yield from client_of(EmbeddedCloud(clock=clock))


@pytest.fixture
def empty(clock: Clock) -> Iterator[Client]:
    yield from client_of(FakeCloud(clock=clock))


def client_of(cloud: EmbeddedCloud) -> Iterator[Client]:
    with cloud:
        client = Client(cloud)
        yield client
        client.session.close()


# Starting and stopping.


def test_neither_thread_nor_port_before_start_and_after_stop() -> None:
    before = set(threading.enumerate())
    cloud = EmbeddedCloud()
    assert set(threading.enumerate()) <= before
    cloud.start()
    port = cloud.api.port
    cloud.stop()
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_port_that_is_taken_is_an_os_error() -> None:
    with FakeCloud() as cloud:
        other = EmbeddedCloud(store_port=cloud.api.port)
        with pytest.raises(OSError, match="in use"):
            other.start()
        other.stop()


# The API.


def test_the_tasks_have_all_common_statuses(demo: Client) -> None:
    statuses = list(demo.statuses().values())
    assert (
        {
            *("pending-input", "submitted", "started", "computation-started", "computation-ended"),
            *("spot-instance-preempted", "success", "failed", "killed", "executer-terminated"),
            "ttl-exceeded",
        }
        == set(statuses)
        <= STATUSES.keys()
    )
    assert statuses.count("success") > 2
    assert len({task["project"] for task in demo.tasks()}) >= 2
    assert len({task["simulator"] for task in demo.tasks()}) >= 4


def test_ids_have_the_shape_of_the_service_and_finished_ones_never_change(demo: Client) -> None:
    ids = demo.statuses().keys()
    assert all(len(i) == 25 and i.isalnum() and i.islower() and i.isascii() for i in ids)
    assert {row[0] for row in FINISHED} <= ids


def test_a_key_that_is_missing_wrong_or_rotated_away_is_refused(demo: Client) -> None:
    url, old = demo.cloud.api_url + "/tasks", demo.cloud.api_key
    assert requests.get(url, timeout=30).status_code == 401
    assert requests.get(url, headers={"X-API-Key": "no"}, timeout=30).json()["detail"]
    demo.cloud.rotate_key()
    assert requests.get(url, headers={"X-API-Key": old}, timeout=30).status_code == 401
    assert demo.request("/tasks").status_code == 200


def test_an_unknown_path_is_404_with_a_detail(demo: Client) -> None:
    for path in ("/tasks/" + "0" * 25, "/tasks/x/status", "/projects/none", "/nowhere"):
        answer = demo.request(path)
        assert (answer.status_code, list(answer.json())) == (404, ["detail"])


@pytest.mark.parametrize(
    "query", ["page=0", "per_page=0", "per_page=501", "page=x", "status=nonsense", "sort=size:up"]
)
def test_an_invalid_query_is_422_with_a_list(demo: Client, query: str) -> None:
    answer = demo.request(f"/tasks?{query}")
    assert answer.status_code == 422
    assert {"loc", "msg", "type"} == answer.json()["detail"][0].keys()


def test_pages_and_filters(empty: Client) -> None:
    for number in range(7):
        status = "started" if number % 2 else "success"
        empty.cloud.add_task(f"t{number}", status=status, project=f"p{number % 3}")
    assert [t["task_id"] for t in empty.tasks()] == [f"t{n}" for n in range(6, -1, -1)]
    page = empty.request("/tasks?per_page=3&page=3").json()
    assert (page["total_size"], [t["task_id"] for t in page["tasks"]]) == (7, ["t0"])
    assert empty.tasks(page=9) == []
    assert [t["task_id"] for t in empty.tasks(status="started")] == ["t5", "t3", "t1"]
    assert len(empty.tasks(status="started,success")) == 7
    assert len(empty.tasks(status=["started", "success"])) == 7
    assert [t["task_id"] for t in empty.tasks(active="true")] == ["t5", "t3", "t1"]
    assert [t["task_id"] for t in empty.tasks(project="p2")] == ["t5", "t2"]
    assert [t["task_id"] for t in empty.tasks(task_id_filter="t4")] == ["t4"]
    assert empty.tasks(sort="create_time:desc")[0]["task_id"] == "t6"
    by_project = empty.tasks(sort=["project:asc", "task_id:desc"])
    assert [t["task_id"] for t in by_project][:3] == ["t6", "t3", "t0"]


def test_a_page_of_twenty_thousand_tasks(empty: Client) -> None:
    for number in range(20_000):
        empty.cloud.add_task(f"t{number:024d}")
    assert len(empty.tasks()) == 500


def test_one_task_comes_with_its_history(demo: Client) -> None:
    task = demo.request(f"/tasks/{DAM_BREAK}").json()
    listed = next(t for t in demo.tasks() if t["task_id"] == DAM_BREAK)
    assert {**task, **listed} == task
    assert task.keys() - listed.keys() == {"status_history", "machine_operations", "steps"}
    assert [s["status"] for s in task["status_history"]][-1] == task["status"] == "success"
    assert task["executer"]["vm_type"].endswith("/machineTypes/c2-standard-4")
    assert task["metrics"]["computation_seconds"] == 192.0
    assert demo.request(f"/tasks/{DAM_BREAK}/status").json() == {
        "id": DAM_BREAK,
        "status": "success",
        "position_in_queue": None,
        "is_terminated": True,
    }


def test_a_failed_task_has_its_reason_in_both_places(demo: Client) -> None:
    (failed,) = demo.tasks(status="failed")
    assert failed["error_detail"] and failed["executer"]["error_detail"]


def test_a_queued_task_has_a_position_and_no_machine(demo: Client) -> None:
    first, second = demo.tasks(status="submitted", sort="create_time:asc")
    for task, ahead in ((first, 0), (second, 1)):
        status = demo.request(f"/tasks/{task['task_id']}/status").json()
        assert status["position_in_queue"] == {"tasks_ahead": ahead}
        assert task["executer"] is None


def test_metadata_is_replaced_by_put_and_updated_by_patch(demo: Client) -> None:
    path = f"/tasks/{DAM_BREAK}/metadata"
    assert demo.request(path, method="PUT", json={"a": "1", "b": "2"}).json() == {
        "a": "1",
        "b": "2",
    }
    demo.request(path, method="PATCH", json={"b": "3"})
    assert demo.request(path).json() == {"a": "1", "b": "3"}
    assert next(t for t in demo.tasks() if t["task_id"] == DAM_BREAK)["task_metadata"]["b"] == "3"
    for wrong in ({"a": ""}, {"": "x"}, {"a": 1}, ["a"]):
        assert demo.request(path, method="PATCH", json=wrong).status_code == 422
    assert demo.request(path, method="PATCH", data=b"{").status_code == 422


def test_projects_count_their_tasks(demo: Client) -> None:
    projects = {project["name"]: project for project in demo.request("/projects").json()}
    assert sum(p["num_tasks"] for p in projects.values()) == len(demo.tasks())
    mixing = projects["mixing-tank"]
    assert mixing["num_tasks"] == len(demo.tasks(project="mixing-tank"))
    assert sum(mixing["task_status_overview"].values()) == mixing["num_tasks"]


def test_zip_contents_lists_an_archive(demo: Client) -> None:
    query = {"path": f"{DAM_BREAK}/output.zip", "zip_relative_path": "artifacts/"}
    listed = demo.request("/storage/zip-contents", params=query).json()
    names = {row["name"] for row in listed["contents"]}
    assert names == {"stdout.txt", "stderr.txt", "energy.csv", "log/", "vtk/"}
    deep = demo.request("/storage/zip-contents", params={**query, "recursive": "true"}).json()
    archive = demo.archive(query["path"])
    row = next(row for row in deep["contents"] if row["name"] == "stdout.txt")
    assert row["size"] == archive.getinfo("artifacts/stdout.txt").file_size
    assert len(deep["contents"]) == 24


# Killing.


def test_kill_is_pending_first_and_done_after_seconds(demo: Client, clock: Clock) -> None:
    (running,) = demo.tasks(status="computation-started")
    path = f"/tasks/{running['task_id']}"
    assert demo.request(f"{path}/kill", method="POST").json()["status"] == "pending-kill"
    assert demo.request(f"{path}/kill", method="POST").status_code == 200
    clock.tick(1)
    assert demo.request(f"{path}/status").json()["status"] == "pending-kill"
    clock.tick(2.5)
    task = demo.request(path).json()
    assert (task["status"], task["is_terminated"]) == ("killed", True)
    assert task["metrics"]["computation_seconds"] == pytest.approx(388 + 3, abs=0.01)
    assert demo.cloud.killed == [running["task_id"]] * 2


def test_a_terminated_task_cannot_be_killed(demo: Client) -> None:
    answer = demo.request(f"/tasks/{DAM_BREAK}/kill", method="POST")
    assert answer.status_code == 400 and "terminal" in answer.json()["detail"]
    assert demo.cloud.killed == []


# The passing of time.


def test_queued_tasks_start_and_running_ones_finish(demo: Client, clock: Clock) -> None:
    before = demo.statuses()
    seen: dict[str, list[str]] = {task_id: [status] for task_id, status in before.items()}
    for _ in range(400):
        clock.tick(3)
        for task_id, status in demo.statuses().items():
            history = seen.setdefault(task_id, [status])
            if history[-1] != status:
                history.append(status)
    queued = next(i for i, s in before.items() if s == "submitted" and "success" in seen[i])
    assert seen[queued] == [
        *("submitted", "started", "computation-started", "computation-ended", "success")
    ]
    ended = [
        history[-1] for task_id, history in seen.items() if before.get(task_id) not in TERMINAL
    ]
    assert "success" in ended and "failed" in ended
    assert len(before) < len(seen) <= 30


def test_a_task_that_lost_its_machine_comes_back_with_the_same_inputs(
    demo: Client, clock: Clock
) -> None:
    (task,) = demo.tasks(status="spot-instance-preempted")
    path, url = f"/tasks/{task['task_id']}", demo.url(task["storage_input_path"])
    before = demo.fetch(url).content
    assert not task["is_terminated"]
    clock.tick(250)
    waiting = demo.request(path).json()
    assert (waiting["status"], waiting["executer"]) == ("submitted", None)
    clock.tick(400)
    done = demo.request(path).json()
    assert (done["status"], done["num_retries"]) == ("success", 1)
    assert done["metrics"]["computation_seconds"] == pytest.approx(560 - 312)
    assert done["metrics"]["queue_time_seconds"] == pytest.approx(60)
    assert demo.fetch(url).content == before


def test_new_tasks_come_at_most_one_a_minute_and_only_so_many(demo: Client, clock: Clock) -> None:
    count = len(demo.tasks())
    clock.tick(60)
    assert count <= len(demo.tasks()) <= count + 1
    clock.tick(100_000)
    assert len(demo.tasks()) <= 30
    assert {task["status"] for task in demo.tasks()} <= TERMINAL


def test_success_has_its_archive_from_the_moment_it_shows(demo: Client, clock: Clock) -> None:
    finished: set[str] = set()
    for _ in range(60):
        clock.tick(30)
        for task in demo.tasks(status="success"):
            if task["task_id"] not in finished:
                finished.add(task["task_id"])
                answer = demo.fetch(demo.url(task["storage_output_path"]), "-22")
                assert answer.status_code == 206
    assert len(finished) > 10


def test_the_fields_of_a_finished_task_agree(demo: Client, clock: Clock) -> None:
    clock.tick(2000)
    for task in demo.tasks(status="success"):
        metrics, path = task["metrics"], task["storage_output_path"]
        archive = demo.archive(path) if metrics["output_size_bytes"] < 10**7 else None
        for field in ("create_time", "start_time", "computation_start_time", "end_time"):
            assert task[field].endswith("+00:00")
        assert task["is_terminated"] and metrics["computation_seconds"] > 0
        if archive is not None:
            files = [i for i in archive.infolist() if i.filename.startswith("artifacts/")]
            files = [i for i in files if not i.is_dir()]
            assert metrics["output_total_files"] == len(files)
            assert metrics["output_size_bytes"] == sum(i.file_size for i in files)
            size = demo.fetch(demo.url(path), "0-0").headers["Content-Range"]
            assert size == f"bytes 0-0/{metrics['output_zipped_size_bytes']}"


# The archives.


def test_finished_archives_are_valid_and_hold_what_users_look_for(demo: Client) -> None:
    for task in demo.tasks(status="success"):
        if task["metrics"]["output_zipped_size_bytes"] > 10**8:
            continue
        archive = demo.archive(task["storage_output_path"])
        assert archive.testzip() is None
        names = archive.namelist()
        assert {"artifacts/stdout.txt", "artifacts/stderr.txt", "output.json"} <= set(names)
        assert any(name.startswith("artifacts/log/") for name in names)
        frames = [n for n in names if n.startswith("artifacts/vtk/") and n.endswith(".vtk")]
        assert len(frames) == 20
        positions = [vtk_points(archive.read(name)) for name in frames]
        assert len(set(positions)) == 20, "nothing moves"
        inputs = demo.archive(task["storage_input_path"])
        assert inputs.testzip() is None and "input.json" in inputs.namelist()
        assert any(name.startswith("sim_dir/") for name in inputs.namelist())


def vtk_points(content: bytes) -> bytes:
    """Check a legacy VTK file as far as a reader must, and return the bytes of its values."""
    head, title, encoding, dataset, rest = content.split(b"\n", 4)
    assert head == b"# vtk DataFile Version 3.0" and title
    if dataset == b"DATASET STRUCTURED_POINTS":
        assert encoding == b"BINARY"
        nx, ny, nz = (int(n) for n in rest.split(b"\n")[0].split()[1:])
        values = rest.partition(b"LOOKUP_TABLE default\n")[2]
        assert f"POINT_DATA {nx * ny * nz}".encode() in rest
        numbers = struct.unpack(f">{nx * ny * nz}f", values[:-1])
        assert values[-1:] == b"\n" and all(abs(number) < 100 for number in numbers)
        return values
    assert (encoding, dataset) == (b"ASCII", b"DATASET UNSTRUCTURED_GRID")
    words = rest.split()
    count = int(words[1])
    points = [float(word) for word in words[3 : 3 + 3 * count]]
    assert len(points) == 3 * count and words[3 + 3 * count] == b"CELLS"
    assert words.count(b"POINT_DATA") == words.count(b"VECTORS") == 1
    return b" ".join(words[3 : 3 + 3 * count])


def test_the_large_archive_is_valid_and_cheap(demo: Client) -> None:
    large = max(demo.tasks(), key=lambda t: t["metrics"]["output_zipped_size_bytes"] or 0)
    assert large["metrics"]["output_zipped_size_bytes"] > 10**8
    url = demo.url(large["storage_output_path"])
    total = int(demo.fetch(url, "0-0").headers["Content-Range"].rpartition("/")[2])
    tail = demo.fetch(url, "-65536").content
    assert demo.fetch(url, f"{total - 22}-").content == tail[-22:]
    stored = demo.cloud.get_object(large["storage_output_path"])
    assert stored is not None and stored.source.size == total
    archive = zipfile.ZipFile(SourceFile(stored.source))
    assert archive.testzip() is None
    assert {e.compress_type for e in archive.infolist() if e.file_size > 10**7} == {0, 8}


def test_the_same_task_has_the_same_bytes_after_a_restart(demo: Client) -> None:
    with EmbeddedCloud() as cloud:
        again = Client(cloud)
        for path in (f"{DAM_BREAK}/output.zip", f"{DAM_BREAK}/input.zip"):
            one, other = demo.fetch(demo.url(path)), again.fetch(again.url(path))
            assert one.content == other.content
            assert one.headers["ETag"] == other.headers["ETag"]
            assert one.headers["Last-Modified"] == other.headers["Last-Modified"]
        again.session.close()


MEMBERS = (
    MemberSpec("artifacts/", mtime=1.6e9),
    MemberSpec("artifacts/stdout.txt", b"step\n" * 99, 1.6e9 + 1),
    MemberSpec("artifacts/empty", b"", 1.6e9),
    MemberSpec("artifacts/größe.txt", b"12", 1.6e9),
    MemberSpec("artifacts/repeated", RepeatedSource(b"abcdefg" * 9, 1000), 1.6e9),
    MemberSpec("artifacts/repeated_stored", RepeatedSource(b"abcdefg" * 9, 1001), 1.6e9, 0),
)


@pytest.mark.parametrize("stamp", [extended_stamp, ntfs_stamp, dos_stamp])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_a_valid_zip(layout: str, stamp: Any) -> None:
    source = LAYOUTS[layout](MEMBERS, stamp)
    archive = zipfile.ZipFile(SourceFile(source))
    assert archive.testzip() is None
    content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    for member in MEMBERS:
        if not member.name.endswith("/"):
            assert len(content[member.name]) == member.size
    first = bytes(source.read(0, 30))
    flags, _, _, _, crc, packed, size = struct.unpack("<HHHHIII", first[6:26])
    directory = bytes(source.read(0, source.size))
    if layout == "zip64":
        assert (crc, packed, size, flags) == (0, 0xFFFFFFFF, 0xFFFFFFFF, 8)
        assert "artifacts/" not in content
        assert directory[-42:-38] == b"PK\x06\x07" and directory[-98:-94] == b"PK\x06\x06"
        assert all(entry.extra[:2] == b"\1\0" for entry in archive.infolist())
    else:
        assert "artifacts/" in content
        assert all(
            bool(e.flag_bits & 8) is (layout == "streamed" and not e.is_dir())
            for e in archive.infolist()
        )
    assert bytes(source.read(7, 99)) == directory[7:99]


# The store.


def test_ranges(empty: Client) -> None:
    content = bytes(range(256)) * 8
    etag = empty.cloud.put_object("t/output.zip", content)
    url = empty.url("t/output.zip")
    for requested, start, stop in (
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        ("2000-", 2000, 2048),
        ("-22", 2026, 2048),
        ("2040-9999", 2040, 2048),
        ("-9999", 0, 2048),
    ):
        answer = empty.fetch(url, requested)
        assert (answer.status_code, answer.content) == (206, content[start:stop])
        assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/2048"
        assert answer.headers["ETag"] == etag and answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Last-Modified"].endswith("GMT")
    for odd in (("0-1", "4-5"), ("9-5",), ("x",), ("-",)):
        answer = empty.fetch(url, *odd)
        assert (answer.status_code, answer.content) == (200, content)
    for requested in ("2048-", "-0", "5000-6000"):
        answer = empty.fetch(url, requested)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */2048")


def test_a_replaced_object_has_another_etag(empty: Client) -> None:
    old = empty.cloud.put_object("t/output.zip", b"old")
    url = empty.url("t/output.zip")
    assert empty.fetch(url, "0-1", **{"If-Match": old}).content == b"ol"
    new = empty.cloud.put_object("t/output.zip", b"new")
    assert new != old and not new.startswith("W/")
    assert empty.fetch(url, "0-1", **{"If-Match": old}).status_code == 412
    assert empty.fetch(url, "0-1", **{"If-Match": new}).content == b"ne"
    empty.cloud.remove_object("t/output.zip")
    gone = empty.fetch(url)
    assert gone.status_code == 404 and "<Code>NoSuchKey</Code>" in gone.text


def test_urls_expire_and_cannot_be_forged(empty: Client, clock: Clock) -> None:
    empty.cloud.put_object("a b/ö.zip", b"bytes")
    url = empty.url("a b/ö.zip")
    assert empty.fetch(url).content == b"bytes"
    assert empty.session.head(url, timeout=30).status_code == 403
    for forged in (
        url + "0",
        url.replace("%20b", "%20c"),
        url.replace("Expires=", "Expires=9"),
        url.partition("?")[0],
    ):
        answer = empty.fetch(forged)
        assert answer.status_code == 403 and answer.headers["Content-Type"].startswith(
            "application/xml"
        )
    clock.tick(empty.cloud.url_lifetime_s)
    expired = empty.fetch(url)
    assert expired.status_code == 400 and "<Code>ExpiredToken</Code>" in expired.text
    url = empty.url("a b/ö.zip")
    empty.cloud.expire_urls()
    assert empty.fetch(url).status_code == 400
    url = empty.url("a b/ö.zip")
    empty.cloud.revoke_urls()
    assert empty.fetch(url).status_code == 403
    assert empty.fetch(empty.url("a b/ö.zip")).status_code == 200


def test_a_key_sent_to_the_store_is_noticed(empty: Client) -> None:
    empty.cloud.put_object("t/output.zip", b"bytes")
    url = empty.url("t/output.zip")
    empty.fetch(url)
    assert empty.cloud.store.leaked_keys == []
    empty.fetch(url, **{"X-API-Key": "k"})
    assert empty.cloud.store.leaked_keys == ["/demo-bucket/t/output.zip"]


def test_requests_are_recorded_without_signatures(empty: Client) -> None:
    empty.cloud.put_object("t/output.zip", b"0123456789")
    url = empty.url("t/output.zip")
    empty.cloud.clear_requests()
    empty.fetch(url, "2-4")
    empty.request("/tasks?per_page=1&status=success")
    store, api = empty.cloud.requests
    assert (store.side, store.method, store.range, store.status) == (
        "store",
        "GET",
        "bytes=2-4",
        206,
    )
    assert (store.bytes_sent, store.had_api_key) == (3, False)
    assert "Signature" not in store.query
    assert (api.side, api.path, api.status, api.had_api_key) == ("api", "/tasks", 200, True)
    assert api.query == {"per_page": ["1"], "status": ["success"]}


def test_latency_and_bandwidth_can_be_set(empty: Client) -> None:
    empty.cloud.put_object("t/output.zip", bytes(100_000))
    url = empty.url("t/output.zip")
    empty.cloud.store.latency_s = 0.1
    empty.cloud.store.bandwidth_per_connection = 500_000
    began = time.monotonic()
    assert len(empty.fetch(url).content) == 100_000
    assert 0.28 < time.monotonic() - began < 10


def test_a_file_on_disk_can_be_an_object(empty: Client, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(range(256)) * 10_000)
    empty.cloud.put_object("t/output.zip", FileSource(tmp_path / "big"))
    url = empty.url("t/output.zip")
    assert empty.fetch(url).content == (tmp_path / "big").read_bytes()
    assert empty.fetch(url, "255-257").content == b"\xff\0\1"


# Changes by tests.


def test_added_tasks_have_the_given_fields(empty: Client) -> None:
    made = empty.cloud.add_task(
        outputs={"stdout.txt": b"hello\n"},
        inputs={"case": b"x"},
        layout="zip64",
        metrics={"computation_seconds": 5},
        task_metadata={"k": "v"},
    )
    empty.cloud.add_task("t1", status="brand-new", executer=None, error_detail="why")
    listed = {task["task_id"]: task for task in empty.tasks()}
    assert listed[made]["metrics"]["computation_seconds"] == 5
    assert listed[made]["metrics"]["output_total_files"] == 1
    assert listed[made]["task_metadata"] == {"k": "v"}
    assert empty.archive(f"{made}/output.zip").read("artifacts/stdout.txt") == b"hello\n"
    assert empty.archive(f"{made}/input.zip").namelist() == ["sim_dir/case"]
    assert (listed["t1"]["status"], listed["t1"]["is_terminated"]) == ("brand-new", False)
    assert (listed["t1"]["executer"], listed["t1"]["error_detail"]) == (None, "why")
    empty.cloud.remove_task("t1")
    assert empty.request("/tasks/t1").status_code == 404


def test_set_status_fills_in_the_times(empty: Client, clock: Clock) -> None:
    empty.cloud.add_task("t1", status="submitted")
    task = empty.request("/tasks/t1").json()
    assert task["input_submit_time"] and not task["start_time"] and not task["executer"]
    clock.tick(10)
    empty.cloud.set_status("t1", "computation-started")
    task = empty.request("/tasks/t1").json()
    assert task["start_time"] == task["computation_start_time"] and not task["end_time"]
    assert task["executer"]["vm_type"].endswith("c2-standard-4")
    clock.tick(90)
    empty.cloud.set_status("t1", "success")
    task = empty.request("/tasks/t1").json()
    assert task["metrics"]["computation_seconds"] == 90
    assert task["end_time"] == task["computation_end_time"] and task["is_terminated"]


@pytest.mark.parametrize("frames", [20, 7])
def test_the_pressure_history_is_an_hdf5_file(frames: int) -> None:
    """h5py reads the demo's HDF5 file: a row per frame, NaN where the simulation did not get."""
    import h5py

    content = pressure_history(Random("task"), frames)
    with h5py.File(io.BytesIO(content)) as file:
        pressure = file["pressure"][:]
    assert pressure.shape == (20, 40)
    assert np.isfinite(pressure[:frames]).all()
    assert np.isnan(pressure[frames:]).all()
