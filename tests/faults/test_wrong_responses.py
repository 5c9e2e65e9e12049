"""Wrong answers are not believed: they are asked for once more, then EIO, and no damaged byte is
served once the store has recovered, nor by the kernel's page cache."""

import errno
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from taskfs.errors import BadResponse
from taskfs.remote.api_client import TaskClient
from taskfs.remote.object_store import StoreObject
from taskfs.remote.range_requests import SMALL_OBJECT
from taskfs.remote.transport import Transport
from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault, finished, read_whole
from tests.file_systems import Mounted, assert_same, errno_of
from tests.mounts import Mount
from tests.outputs import noise
from tests.zips import DEFLATED, STORED

CONTENT: Final = noise(2, 700_000)
PIECE: Final = 1 << 17
HEADER: Final = 30 + len("artifacts/a")  # where the first member's bytes begin


def resident_kb(pid: int) -> int:
    """Return the most memory that a process had, in KiB (proc(5), VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_flipped_byte_is_looked_at_once_more(patient: Mounted, method: int) -> None:
    """I-3, X-14: A mismatch drops its blocks and is tried once more; bytes already handed out make
    it EIO."""
    small, large = noise(3, 40_000), noise(4, 200_000)
    task = finished(patient.cloud, method, a=small, b=large)
    patient.names(f"{task}/outputs")
    fault = add_fault(patient.cloud, "store", task, "flip", at=HEADER + 20_000)
    read_whole(patient, f"{task}/outputs/a", small)
    assert fault.hits == 1


@pytest.mark.parametrize("at", [0, HEADER + 10, HEADER + 350_000, HEADER + 600_000])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_lasting_flipped_byte_is_eio_until_the_store_recovers(
    uncached: Mounted, method: int, at: int
) -> None:
    """I-3, I-5: Damage that stays is EIO, and the next open drops the kernel's pages, so it is
    never served once the store has recovered."""
    task = finished(uncached.cloud, method, a=CONTENT, z=b"z")
    assert uncached.stat(f"{task}/outputs/a").st_size == len(CONTENT)
    add_fault(uncached.cloud, "store", task, "flip", at=at, times=None)
    for _ in range(2):
        assert errno_of(lambda: read_whole(uncached, f"{task}/outputs/a", CONTENT)) == errno.EIO
    uncached.cloud.faults.clear()
    for _ in range(2):  # the second time from the kernel's pages
        read_whole(uncached, f"{task}/outputs/a", CONTENT)


def test_readers_that_share_the_page_cache_share_the_check(uncached: Mounted) -> None:
    """I-4, I-5: A half in the kernel's pages from one reader and the rest by another handle are
    checked together."""
    task = finished(uncached.cloud, a=CONTENT, z=b"z")
    path = f"{task}/outputs/a"
    assert uncached.stat(path).st_size == len(CONTENT)
    add_fault(uncached.cloud, "store", task, "flip", at=HEADER + 100_000, times=None)
    with uncached.open(path) as opened:
        wrong = opened.read_at(0, PIECE)  # it is among the kernel's pages now
    assert wrong != CONTENT[:PIECE]
    uncached.cloud.faults.clear()
    assert errno_of(lambda: read_whole(uncached, path, CONTENT)) == errno.EIO
    for _ in range(2):
        read_whole(uncached, path, CONTENT)


def test_readers_beside_a_damaged_read_get_eio_or_right_bytes(uncached: Mounted) -> None:
    """I-1, I-4: However many read at once, none gets a wrong member with a good end."""
    for seed in range(3):
        task = finished(uncached.cloud, a=CONTENT, z=b"z")
        path = f"{task}/outputs/a"
        assert uncached.stat(path).st_size == len(CONTENT)
        add_fault(uncached.cloud, "store", task, "flip", at=HEADER + 123_456, skip=seed % 2)
        start = threading.Barrier(4)

        def read(path: str = path, start: threading.Barrier = start) -> int:
            start.wait()
            try:
                read_whole(uncached, path, CONTENT)
            except OSError as exc:
                return exc.errno or 0
            return 0

        with ThreadPoolExecutor(4) as pool:
            outcomes = list(pool.map(lambda _, read=read: read(), range(4)))
        assert set(outcomes) <= {0, errno.EIO}
        read_whole(uncached, path, CONTENT)


def test_200_for_206_is_accepted_for_small_objects_only(uncached: Mounted) -> None:
    """X-6: 200 in place of 206 is accepted for small objects only."""
    small = finished(uncached.cloud, a=CONTENT)
    large = finished(uncached.cloud, a=noise(4, SMALL_OBJECT + 1))
    uncached.cloud.faults.add("whole", side="store", times=None)
    read_whole(uncached, f"{small}/outputs/a", CONTENT)
    uncached.cloud.clear_requests()
    assert errno_of(lambda: uncached.names(f"{large}/outputs")) == errno.EOPNOTSUPP
    uncached.cloud.faults.clear()
    read_whole(uncached, f"{large}/outputs/a", noise(4, SMALL_OBJECT + 1))


WRONG: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "no Content-Range": ("header", {"name": "Content-Range", "value": None}),
    "another range": ("header", {"name": "Content-Range", "value": "bytes 7-9/700200"}),
    "a range without a size": ("header", {"name": "Content-Range", "value": "bytes 0-9/*"}),
    "a size without end": ("header", {"name": "Content-Range", "value": f"bytes 0-1/{'9' * 5000}"}),
    "another unit": ("header", {"name": "Content-Range", "value": "lines 0-9/10"}),
    "several ranges": (
        "body",
        {"content": b"--x\r\n", "content_type": "multipart/byteranges; boundary=x", "status": 206},
    ),
    "no part": ("body", {"content": b"", "status": 206}),
    "not modified": ("body", {"content": b"", "status": 304}),
    "no content": ("body", {"content": b"", "status": 204}),
    "redirects without end": ("redirect", {}),
    "a redirect to a file": ("redirect", {"to": "file:///etc/passwd"}),
    "a longer body": ("chunked", {"extra": b"surplus"}),
    "an endless body": ("endless", {}),
    "an endless refusal": ("endless", {"status": 400}),
    "an unwanted page": ("html", {"status": 206}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_response_of_the_store_is_eio_and_not_kept(uncached: Mounted, wrong: str) -> None:
    """X-4, X-14, F-15: A wrong or missing `Content-Range`, a longer body, endless redirects and
    their like are EIO, and nothing of them is kept."""
    unopened = finished(uncached.cloud, a=CONTENT, z=b"z")
    opened = finished(uncached.cloud, a=CONTENT, z=b"z")
    assert uncached.stat(f"{opened}/outputs/a").st_size == len(CONTENT)
    kind, options = WRONG[wrong]
    for task in (unopened, opened):
        add_fault(uncached.cloud, "store", task, kind, times=None, **options)
    assert errno_of(lambda: uncached.names(f"{unopened}/outputs")) == errno.EIO
    assert errno_of(lambda: read_whole(uncached, f"{opened}/outputs/a", CONTENT)) == errno.EIO
    uncached.cloud.faults.clear()
    for task in (unopened, opened):
        read_whole(uncached, f"{task}/outputs/a", CONTENT)


def test_a_body_without_a_length_is_taken_by_its_range(
    cloud: FakeCloud, transport: Transport
) -> None:
    """X-9: A body without a length is accepted by its range."""
    cloud.put_object("x", CONTENT)
    store_object = StoreObject("x", lambda: cloud.signed_url("x"), transport)
    cloud.faults.add("chunked", side="store", times=None)
    version = store_object.fetch_tail(10).version
    assert_same(store_object.fetch_range(0, 1000, version), CONTENT[:1000])
    cloud.faults.clear()
    cloud.faults.add("chunked", side="store", times=1, extra=b"surplus")
    assert_same(store_object.fetch_range(0, 1000, version), CONTENT[:1000])


@pytest.mark.parametrize("kind", ["short", "reset"])
def test_a_body_shorter_than_announced_is_never_a_short_file(hasty: Mounted, kind: str) -> None:
    """X-9: A body shorter than announced is never a short file."""
    task = finished(hasty.cloud, a=CONTENT, z=b"z")
    assert hasty.stat(f"{task}/outputs/a").st_size == len(CONTENT)
    add_fault(hasty.cloud, "store", task, kind, after_bytes=0, times=None, skip=1)
    assert errno_of(lambda: read_whole(hasty, f"{task}/outputs/a", CONTENT)) == errno.ETIMEDOUT
    hasty.cloud.faults.clear()
    read_whole(hasty, f"{task}/outputs/a", CONTENT)


NO_LISTING: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "HTML": ("html", {}),
    "a list": ("json", {"value": []}),
    "null": ("json", {"value": None}),
    "no tasks": ("json", {"value": {"total_size": 3}}),
    "tasks of another type": ("json", {"value": {"total_size": 3, "tasks": {}}}),
    "a size of another type": ("json", {"value": {"total_size": "3", "tasks": []}}),
    "a size that is too small": ("json", {"value": {"total_size": 1, "tasks": [{}, {}, {}]}}),
    "half an answer": ("body", {"content": b'{"total_size": 3, "tasks": ['}),
    "nothing": ("body", {"content": b""}),
    "no content": ("body", {"content": b"", "status": 204}),
    "blanks": ("body", {"content": b" \n"}),
    "no records where some are announced": ("json", {"value": {"total_size": 3, "tasks": []}}),
    "null in place of the records": ("json", {"value": {"total_size": 0, "tasks": None}}),
    "fewer records than announced": (
        "json",
        {"value": {"total_size": 3, "tasks": [{"task_id": "t1"}, {"task_id": "t2"}]}},
    ),
    "records of which none can be used": ("json", {"value": {"total_size": 2, "tasks": [{}, {}]}}),
    "a packed answer": (
        "body",
        {"content": gzip.compress(b" " * 1000), "headers": {"Content-Encoding": "gzip"}},
    ),
    "redirects without end": ("redirect", {}),
    "an answer without end": ("endless", {}),
    "pages without end": (
        "json",
        {"value": {"total_size": 10**15, "tasks": [{"task_id": f"t{n}"} for n in range(30)]}},
    ),
}
PAGES_WITHOUT_END: Final = "pages without end"


@pytest.mark.parametrize("wrong", [name for name in NO_LISTING if name != PAGES_WITHOUT_END])
def test_a_wrong_response_of_the_api_is_eio_and_no_empty_directory(
    uncached: Mounted, wrong: str
) -> None:
    """X-4, X-14: HTML in place of JSON, fields of the wrong type and endless redirects are EIO and
    never an empty directory."""
    task = finished(uncached.cloud, a=CONTENT)
    assert task in uncached.names()
    kind, options = NO_LISTING[wrong]
    uncached.cloud.faults.add(kind, path="/tasks", times=None, **options)
    assert errno_of(uncached.names) == errno.EIO
    uncached.cloud.faults.clear()
    assert task in uncached.names()


def test_a_listing_with_fewer_tasks_than_announced_fails(cloud: FakeCloud) -> None:
    """F-17: A listing that has fewer tasks than it announces is read again and then fails; what
    never ends is given up."""
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=3)
    kind, options = NO_LISTING[PAGES_WITHOUT_END]
    cloud.faults.add(kind, path="/tasks", times=None, **options)  # each page is the first again
    with pytest.raises(BadResponse, match="only 30 of the"):
        client.list_tasks()
    assert len(cloud.requests) < 250
    client.close()


def test_one_bad_record_does_not_break_the_others(uncached: Mounted) -> None:
    """X-17, N-20: A record with fields of the wrong type does not break the others, and no id leads
    out of its directory."""
    good = uncached.cloud.add_task(status="started")
    odd = uncached.cloud.add_task(status="started")
    wrong: Any = 7
    uncached.cloud.update_task(
        odd, metrics="x", executer=[], project=wrong, create_time={}, task_metadata=[1]
    )
    records = [
        uncached.cloud.add_task(name, status="started") for name in ("..", "a/b", ".", "x" * 300)
    ]
    try:
        listed = uncached.names()
        assert {good, odd} <= set(listed)
        assert not set(records) & set(listed)
        for name in uncached.names(odd):
            uncached.stat(f"{odd}/{name}")
        assert (uncached.path / good / "status").read_text() == "started\n"
    finally:
        for name in (*records, odd):
            uncached.cloud.remove_task(name)


@pytest.mark.parametrize(
    "wrong", [{"is_terminated": None}, {"is_terminated": "no", "id": 7}, {"position_in_queue": 3}]
)
def test_a_status_with_odd_fields_is_still_a_status(
    uncached: Mounted, wrong: dict[str, Any]
) -> None:
    """X-17: A field of the wrong type counts as missing and is no reason to refuse a kill."""
    task = uncached.cloud.add_task(status="started")
    uncached.names()
    value = {"id": task, "status": "started", **wrong}
    uncached.cloud.faults.add("json", path=f"/tasks/{task}/status", times=None, value=value)
    (uncached.path / task / "kill").write_text("1")
    assert uncached.cloud.killed.count(task) == 1


def test_a_server_with_smaller_pages_is_listed_completely(cloud: FakeCloud) -> None:
    """N-1, X-14: A server whose pages are smaller than asked for loses no task."""
    tasks = {cloud.add_task() for _ in range(130)}
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=5)
    records = [{"task_id": task, "create_time": "2025-06-11T08:00:00Z"} for task in sorted(tasks)]

    def clamped(request: web.Request) -> object:
        page, size = int(request.query["page"]), min(int(request.query["per_page"]), 50)
        return {"total_size": len(records), "tasks": records[(page - 1) * size : page * size]}

    cloud.faults.add(
        "json", times=None, match=lambda record: record.path == "/tasks", value=clamped
    )
    assert {task.id for task in client.list_tasks()} == tasks
    client.close()


def test_a_listing_whose_pages_shift_under_the_reader_loses_no_task(uncached: Mounted) -> None:
    """N-1: A listing whose pages shift while they are read loses no task."""
    cloud = uncached.cloud
    kept = {cloud.add_task() for _ in range(1050)}
    gone = [cloud.add_task() for _ in range(2)]

    def shift(record: Any) -> bool:
        if record.query.get("page") == ["2"] and gone:
            cloud.remove_task(gone.pop())
        return False

    cloud.faults.add("status", status=500, path="/tasks", match=shift, times=None)
    try:
        assert kept <= set(uncached.names())
        assert gone == []
    finally:
        for task in kept:
            cloud.remove_task(task)


def test_answers_without_end_cost_no_memory(uncached_mount: Mount) -> None:
    """R-20, Y-10: Endless bodies, and answers that unpack to a thousand times their size, cost no
    memory."""
    cloud, mount = uncached_mount.cloud, uncached_mount
    fs = Mounted(cloud, mount.path)
    task = finished(cloud, a=CONTENT)
    assert task in fs.names()
    before = resident_kb(mount.pid)
    bomb = gzip.compress(bytes(300 << 20), 1)
    headers = {"Content-Encoding": "gzip", "Location": "/version"}
    for status in (200, 302, 403):
        cloud.faults.add(
            "body", path="/tasks", times=None, content=bomb, status=status, headers=headers
        )
        assert errno_of(fs.names) in (errno.EIO, errno.EACCES)
        cloud.faults.clear()
    add_fault(cloud, "store", task, "endless", times=None)
    assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO
    cloud.faults.clear()
    assert task in fs.names()
    assert resident_kb(mount.pid) - before < 120_000
