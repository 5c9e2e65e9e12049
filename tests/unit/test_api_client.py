"""`TaskClient`: the calls of the task API, against the embedded cloud."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskfs.errors import (
    AccessDenied,
    AlreadyTerminated,
    BadResponse,
    InvalidValue,
    NoAttribute,
    NotFound,
    Unavailable,
)
from taskfs.remote.api_client import TaskClient
from tests.fake_api import FakeCloud
from tests.mounts import eventually


@pytest.fixture
def client(cloud: FakeCloud) -> Iterator[TaskClient]:
    # So long that a busy machine sends no retry, which a test would count.
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=30)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between kill requests, which prove nothing."""
    monkeypatch.setattr("taskfs.remote.api_client.KILL_PAUSE_S", 0.02)


def kills(cloud: FakeCloud) -> list[str]:
    """Return the requests of a kill in order: `status` or `kill`."""
    words = [r.path.rpartition("/")[2] for r in cloud.requests]
    return [word for word in words if word in ("status", "kill")]


def test_check(cloud: FakeCloud, client: TaskClient) -> None:
    """C-5: The key is checked with one small request."""
    for _ in range(20):
        cloud.add_task()
    client.check()
    assert [(r.path, r.query["per_page"]) for r in cloud.requests] == [("/tasks", ["1"])]
    cloud.rotate_key()
    with pytest.raises(AccessDenied):
        client.check()


def test_listings_come_in_pages_of_500(cloud: FakeCloud, client: TaskClient) -> None:
    """F-7: A listing comes in pages of 500, newest first."""
    tasks = [
        cloud.add_task(create_time=f"2025-06-11T08:{n // 60:02}:{n % 60:02}Z") for n in range(1203)
    ]
    listed = [task.id for task in client.list_tasks()]
    assert listed == tasks[::-1]
    asked = sorted((int(r.query["page"][0]), r.query["per_page"][0]) for r in cloud.requests)
    assert asked == [(1, "500"), (2, "500"), (3, "500")]
    cloud.clear_requests()
    assert [task.id for task in client.list_tasks(last=7)] == tasks[:-8:-1]
    assert [r.query["per_page"] for r in cloud.requests] == [["7"]]
    assert [task.id for task in client.list_tasks(last=700)] == tasks[:-701:-1]
    assert TaskClient(cloud.api_url, cloud.api_key).list_tasks(project="no") == []


def test_four_pages_at_once(cloud: FakeCloud, client: TaskClient) -> None:
    """F-25: At most 4 pages of a listing are requested at once."""
    for _ in range(2501):
        cloud.add_task()
    stall = cloud.faults.add("stall", times=None, match=lambda r: r.query["page"] != ["1"])
    with ThreadPoolExecutor(1) as reader:
        listing = reader.submit(client.list_tasks)
        eventually(lambda: stall.hits >= 4)
        time.sleep(0.3)  # a fifth one would come now
        assert stall.hits == 4
        cloud.faults.clear()
        assert len(listing.result(60)) == 2501


def test_filters(cloud: FakeCloud, client: TaskClient) -> None:
    """C-6: The filters of a listing are `status`, `project` and `active=true`."""
    failed = cloud.add_task(status="failed", project="p")
    started = cloud.add_task(status="started", project="p")
    other = cloud.add_task(status="started")
    assert [t.id for t in client.list_tasks(project="p")] == [started, failed]
    assert [t.id for t in client.list_tasks(status="failed")] == [failed]
    assert [t.id for t in client.list_tasks(active=True)] == [other, started]
    assert [t.id for t in client.list_tasks(active=True, project="p")] == [started]


def test_a_listing_that_changes_between_its_pages_is_read_again(
    cloud: FakeCloud, client: TaskClient
) -> None:
    """N-1, F-17: No task is lost where the listing shifts between two pages."""
    tasks = {cloud.add_task() for _ in range(600)}
    removed = cloud.add_task()

    def shift(record: object) -> bool:
        if getattr(record, "query", {}).get("page") == ["2"] and removed in cloud.statuses():
            cloud.remove_task(removed)
        return False

    cloud.faults.add("status", status=500, match=shift, times=None)
    assert {task.id for task in client.list_tasks()} >= tasks


def test_bad_records_are_left_out_and_logged_once(
    cloud: FakeCloud, client: TaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """N-20: A record without a usable id is left out and logged once."""
    good = cloud.add_task()
    cloud.add_task("../escape")
    cloud.add_task(".hidden")
    for _ in range(3):
        assert [task.id for task in client.list_tasks()] == [good]
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 2


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b'"half a \\ud83d character"', "half a ? character"),
        (b'"caf\xe9"', "caf\ufffd"),
        (b"NaN", ""),
        (b"-Infinity", ""),
        (b"1e999", ""),
    ],
)
def test_an_invalid_text_does_not_fail_the_listing(
    cloud: FakeCloud, client: TaskClient, content: bytes, shown: str
) -> None:
    """X-17: One invalid text does not break the other records."""
    page = b'{"total_size":2,"tasks":[{"task_id":"a","error_detail":%s},{"task_id":"b"}]}'
    cloud.faults.add("body", content=page % content, times=None)
    assert [(t.id, t.error_detail) for t in client.list_tasks()] == [("a", shown), ("b", "")]


def test_a_deeply_nested_response_is_a_bad_response(cloud: FakeCloud, client: TaskClient) -> None:
    """X-4: A response that is nested without end is EIO."""
    deep = b'{"total_size":1,"tasks":[{"task_id":"a","x":%s}]}' % (b"[" * 99_999 + b"]" * 99_999)
    cloud.faults.add("body", content=deep, times=None)
    with pytest.raises(BadResponse):
        client.list_tasks()


def test_one_task(cloud: FakeCloud, client: TaskClient) -> None:
    """T-7: One task's record has what a listing gives."""
    task = cloud.add_task(status="failed", task_metadata={"a": "b"})
    assert client.get_task(task) == client.list_tasks()[0]
    detail = client.task_detail(task)
    assert detail["status_history"]
    with pytest.raises(NotFound):
        client.get_task("0" * 25)
    cloud.faults.add("json", value={"task_id": "another", "status": "success"})
    with pytest.raises(BadResponse):
        client.get_task(task)


def test_a_name_cannot_escape_its_path(cloud: FakeCloud, client: TaskClient) -> None:
    """A task's id is quoted, so it cannot name another path of the API."""
    for name in ("../version", "a/b", "x?y=z", "%2e%2e", "a#b"):
        with pytest.raises(NotFound):
            client.get_task(name)
    assert not [r for r in cloud.requests if r.path == "/version" or r.query]


def test_the_queue(cloud: FakeCloud, client: TaskClient) -> None:
    """C-7: The place in the queue comes from `position_in_queue`, which may be null."""
    first, second = cloud.add_task(status="submitted"), cloud.add_task(status="submitted")
    assert client.get_status(second).tasks_ahead in (0, 1)
    assert client.get_status(cloud.add_task(status="started")).tasks_ahead is None
    for position in ("soon", {"tasks_ahead": "x"}, 3, {}):
        value = {"status": "submitted", "position_in_queue": position}
        cloud.faults.add("json", value=value)
        assert client.get_status(first).tasks_ahead is None


def test_a_kill_is_sent_once(cloud: FakeCloud, client: TaskClient) -> None:
    """K-2: A kill is one request, and the call returns when it is accepted."""
    task = cloud.add_task(status="started")
    assert client.kill_task(task).status == "pending-kill"
    assert kills(cloud) == ["status", "kill"]
    cloud.clear_requests()
    assert client.kill_task(task).status == "pending-kill"
    assert kills(cloud) == ["status"]
    assert cloud.killed == [task]


def test_a_refused_kill(cloud: FakeCloud, client: TaskClient) -> None:
    """K-4, K-5, K-8, K-11: Each refusal of a kill has its errno."""
    with pytest.raises(NotFound):
        client.kill_task("0" * 25)
    with pytest.raises(AlreadyTerminated):
        client.kill_task(cloud.add_task(status="failed"))
    task = cloud.add_task(status="started")
    for status, kind in (
        (401, AccessDenied),
        (403, AccessDenied),
        (409, BadResponse),
        (404, NotFound),
    ):
        cloud.faults.add("status", status=status, path="/kill")
        with pytest.raises(kind):
            client.kill_task(task)
    assert cloud.killed == []


@pytest.mark.parametrize("kind", ["reset", "status", "html", "short"])
@pytest.mark.parametrize("acted", [True, False])
def test_after_a_lost_response_the_status_is_read(
    cloud: FakeCloud, client: TaskClient, kind: str, acted: bool
) -> None:
    """K-9: The status is read before a kill is repeated whose response was lost."""
    task = cloud.add_task(status="started")
    options: dict[str, dict[str, Any]] = {
        "reset": {"acted": acted},
        "status": {"status": 502, "acted": acted},
        "short": {"after_bytes": 3},
        "html": {},
    }
    cloud.faults.add(kind, path="/kill", **options[kind])
    assert client.kill_task(task).status == "pending-kill"
    sent_again = kind == "html" or (kind != "short" and not acted)
    assert kills(cloud) == ["status", "kill", "status", *(["kill"] if sent_again else [])]
    assert cloud.killed == [task]


def test_after_a_lost_response_killed_is_success(cloud: FakeCloud, client: TaskClient) -> None:
    """K-2, K-9: A kill whose response was lost succeeds if the task was killed."""
    task = cloud.add_task(status="started")

    def killed(record: object) -> bool:
        cloud.set_status(task, "killed")
        return True

    cloud.faults.add("reset", path="/kill", match=killed)
    assert client.kill_task(task).status == "killed"


def test_five_tries(cloud: FakeCloud, client: TaskClient) -> None:
    """K-10: After 5 tries a kill is ETIMEDOUT."""
    task = cloud.add_task(status="started")
    cloud.faults.add("status", status=503, path="/kill", times=None)
    with pytest.raises(Unavailable):
        client.kill_task(task)
    assert kills(cloud) == ["status", "kill"] * 5


def test_a_kill_ends_within_the_timeout(cloud: FakeCloud) -> None:
    """K-10, X-15: A kill ends within `--timeout`."""
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=30)
    task = cloud.add_task(status="started")
    cloud.faults.add("status", status=429, retry_after=60, path="/kill", times=None)
    with pytest.raises(Unavailable):
        client.kill_task(task)
    assert kills(cloud).count("kill") == 1
    client.close()


def test_metadata(cloud: FakeCloud, client: TaskClient) -> None:
    """A-18: Metadata is set and removed remotely."""
    task = cloud.add_task(task_metadata={"a": "1"})
    client.set_metadata(task, "é/b", "ü")
    assert client.get_task(task).metadata == {"a": "1", "é/b": "ü"}
    client.remove_metadata(task, "a")
    assert client.get_task(task).metadata == {"é/b": "ü"}
    with pytest.raises(NoAttribute):
        client.remove_metadata(task, "a")
    for key, value in (("", "x"), ("x", "")):
        with pytest.raises(InvalidValue):
            client.set_metadata(task, key, value)
    with pytest.raises(NotFound):
        client.set_metadata("0" * 25, "a", "b")


def test_signed_urls(cloud: FakeCloud, client: TaskClient) -> None:
    """Y-5: Signed URLs are asked for by path and region."""
    assert client.signed_url("a b/output.zip", "mars").startswith("http://127.0.0.1:")
    query = cloud.requests[-1].query
    assert query == {"operation": ["download"], "paths": ["a b/output.zip"], "region": ["mars"]}
    client.signed_url("x", None)
    assert "region" not in cloud.requests[-1].query
    for value in ([], ["a", "b"], {"a": 1}, [3]):
        cloud.faults.add("json", value=value, times=2)
        with pytest.raises(BadResponse):
            client.signed_url("x", None)
        cloud.faults.clear()


def test_opening_an_object_sends_no_request(cloud: FakeCloud, client: TaskClient) -> None:
    """N-4: An archive is fetched only when it is read."""
    client.open_object("x/output.zip", None)
    assert cloud.requests == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"detail": "No such thing."}', "No such thing."),
        (b'{"detail": [{"loc": [], "msg": "one"}, {"msg": "two"}]}', "one; two"),
        (b"<html>login</html>", "Forbidden"),
        (b'{"detail": [3]}', "Forbidden"),
        (b"", "Forbidden"),
        (b"\xff", "Forbidden"),
    ],
)
def test_an_error_contains_the_detail_of_the_response(
    cloud: FakeCloud, client: TaskClient, content: bytes, expected: str
) -> None:
    """The text of an error is the JSON's `detail`: a string, or a list for 422."""
    cloud.faults.add("body", content=content, status=403)
    with pytest.raises(AccessDenied) as caught:
        client.list_tasks()
    assert str(caught.value) == f"GET /tasks: {expected}"


def test_a_page_of_html_is_retried_once(cloud: FakeCloud, client: TaskClient) -> None:
    """X-14: A page of HTML in place of JSON is requested again once."""
    task = cloud.add_task()
    cloud.faults.add("html")
    assert [t.id for t in client.list_tasks()] == [task]
    cloud.faults.add("html", times=None)
    with pytest.raises(BadResponse):
        client.list_tasks()
    assert len(cloud.requests) == 4


def test_projects_and_the_clock(cloud: FakeCloud, client: TaskClient) -> None:
    """C-10, C-23: Projects are listed, and the answer's date gives the API's clock."""
    cloud.add_task(project="p")
    assert client.clock_offset_s is None
    assert [project["name"] for project in client.list_projects()] == ["p"]
    offset = client.clock_offset_s
    assert offset is not None and abs(offset) < 5
