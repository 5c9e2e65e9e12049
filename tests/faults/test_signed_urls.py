"""Signed URLs expire, are revoked, and are renewed once for all waiting readers. The API key goes
to the API host only, across redirects too."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest

from taskfs.errors import Unavailable
from taskfs.remote.api_client import TaskClient
from taskfs.remote.object_store import StoreObject
from taskfs.remote.transport import Transport
from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault, finished, read_whole
from tests.file_systems import Mounted, assert_same, errno_of
from tests.outputs import noise

READERS: Final = 16
BODIES: Final = {f"f{number:02}": noise(100 + number, 70_000) for number in range(READERS)}


def signings(cloud: FakeCloud) -> int:
    """Count the URLs that were asked for."""
    return sum(r.path == "/storage/signed-urls" for r in cloud.requests)


@pytest.mark.parametrize("kind", ["expire", "revoke"])
def test_a_url_is_renewed_once_for_all_waiting_readers(patient: Mounted, kind: str) -> None:
    """Y-5, R-3: An expired (400 `ExpiredToken`) or revoked (403) URL is renewed once for all
    waiting readers, which repeat the same range."""
    cloud = patient.cloud
    task = finished(cloud, **BODIES, z=noise(1, 200_000))
    assert patient.stat(f"{task}/outputs/z").st_size == 200_000
    getattr(cloud, f"{kind}_urls")()
    cloud.clear_requests()
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda n: read_whole(patient, f"{task}/outputs/{n}", BODIES[n]), BODIES))
    assert signings(cloud) == 1
    refused = [r.range for r in cloud.requests if r.side == "store" and r.status in (400, 403)]
    served = [r.range for r in cloud.requests if r.side == "store" and r.status == 206]
    assert refused
    assert set(refused) <= set(served)


def test_a_url_that_expires_again_and_again_is_renewed_each_time(patient: Mounted) -> None:
    """Y-5: URLs that expire again and again, as under a mount that stays for weeks, are renewed
    each time."""
    body = noise(2, 400_000)
    task = finished(patient.cloud, a=body, z=noise(1, 200_000))
    for _ in range(3):
        (patient.path / ".taskfs/refresh").write_text("1")
        assert patient.stat(f"{task}/outputs/a").st_size == len(body)
        patient.cloud.expire_urls()
        read_whole(patient, f"{task}/outputs/a", body)


def test_a_renewal_that_fails_fails_for_all_at_once(cloud: FakeCloud, transport: Transport) -> None:
    """X-15: A failed renewal fails all waiting readers at once, and the next reader tries again."""
    cloud.put_object("x", BODIES["f00"])
    arrived, release = threading.Semaphore(0), threading.Event()
    calls: list[bool] = []

    def sign() -> str:
        calls.append(True)
        if len(calls) == 1:
            arrived.release()
            release.wait(30)
            raise Unavailable("the API is away")
        return cloud.signed_url("x")

    store_object = StoreObject("x", sign, transport)

    def read() -> BaseException | None:
        try:
            store_object.fetch_tail(10)
        except Unavailable as exc:
            return exc
        return None

    with ThreadPoolExecutor(READERS) as pool:
        first = pool.submit(read)
        assert arrived.acquire(timeout=30)
        others = [pool.submit(read) for _ in range(READERS - 1)]
        assert not any(other.done() for other in others)
        release.set()
        outcomes = [future.result(30) for future in (first, *others)]
    assert outcomes[0] is not None
    assert len(calls) <= 2  # a reader that came after the failure may have asked anew
    assert_same(store_object.fetch_tail(10).body, BODIES["f00"][-10:])


@pytest.mark.parametrize("kind", ["expire", "revoke"])
def test_a_new_url_that_is_refused_too_is_eacces(uncached: Mounted, kind: str) -> None:
    """X-2: A renewed URL that is refused too is EACCES, without further renewals."""
    cloud = uncached.cloud
    body = noise(2, 400_000)
    task = finished(cloud, a=body, z=noise(1, 200_000))
    assert uncached.stat(f"{task}/outputs/a").st_size == len(body)
    status, code = (400, b"ExpiredToken") if kind == "expire" else (403, b"AccessDenied")
    page = b"<Error><Code>%s</Code></Error>" % code
    add_fault(cloud, "store", task, "body", times=None, status=status, content=page)
    assert errno_of(lambda: uncached.read(f"{task}/outputs/a")) == errno.EACCES
    cloud.faults.clear()
    read_whole(uncached, f"{task}/outputs/a", body)


BAD_URLS: Final[dict[str, list[str]]] = {
    "none": [],
    "two": ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b"],
    "a file": ["file:///etc/passwd"],
    "another scheme": ["ftp://127.0.0.1/x"],
    "no host": ["http:///x"],
    "no URL": ["output.zip"],
}


@pytest.mark.parametrize("urls", BAD_URLS)
def test_an_unusable_url_is_eio(uncached: Mounted, urls: str) -> None:
    """X-4: Too few signed URLs, or one that is not a store's, is EIO."""
    task = finished(uncached.cloud, a=b"a")
    add_fault(uncached.cloud, "signing", task, "json", times=None, value=BAD_URLS[urls])
    assert errno_of(lambda: uncached.names(f"{task}/outputs")) == errno.EIO
    uncached.cloud.faults.clear()
    read_whole(uncached, f"{task}/outputs/a", b"a")


def test_the_key_goes_to_the_api_alone(uncached: Mounted) -> None:
    """Y-3: The key goes to the API's host only: on redirects of the API to the store, of the store
    to the API, and where a signed URL names the API's own host."""
    cloud = uncached.cloud
    task, other = finished(cloud, a=b"a"), finished(cloud, a=b"a")
    cloud.put_object("record", b'{"task_id": "%s", "status": "success"}' % task.encode())
    cloud.clear_requests()
    url = cloud.signed_url("record")
    cloud.faults.add("redirect", path="/tasks", times=None, to=url, status=307)
    with pytest.raises(OSError):
        uncached.names()
    cloud.faults.clear()
    uncached.names()
    add_fault(cloud, "signing", task, "json", times=None, value=[f"{cloud.api_url}/tasks"])
    assert errno_of(lambda: uncached.names(f"{task}/outputs")) == errno.EACCES
    cloud.faults.clear()
    add_fault(cloud, "store", other, "redirect", times=None, to=f"{cloud.api_url}/tasks")
    assert errno_of(lambda: uncached.names(f"{other}/outputs")) == errno.EACCES
    cloud.faults.clear()
    assert cloud.store.leaked_keys == []
    assert all(not r.had_api_key for r in cloud.requests if r.range)
    assert [r for r in cloud.requests if r.side == "store" and "record" in r.path]
    assert uncached.names(f"{task}/outputs") == ["a"]


def test_a_redirect_within_the_api_keeps_the_key(cloud: FakeCloud) -> None:
    """Y-3: A redirect within the API's host keeps the key."""
    task = cloud.add_task()
    client = TaskClient(cloud.api_url, cloud.api_key, timeout_s=3)
    cloud.faults.add("redirect", path="/tasks", status=308, to=f"/tasks/{task}")
    assert client.get_task(task).id == task
    assert [r.had_api_key for r in cloud.requests] == [True, True]
    client.close()
