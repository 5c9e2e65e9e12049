"""Transient faults are survived, on the API and the store alike. Then come the errnos of
docs/semantics.md, never a short file, EAGAIN or a false ENOENT, and no failure is cached."""

import email.utils
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import pytest

from taskfs.demo.endpoint import RequestRecord
from taskfs.remote.object_store import StoreObject
from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from tests.fake_api import FakeCloud, Fault
from tests.faults.scenarios import add_fault, finished, read_whole
from tests.file_systems import Mounted, assert_same, errno_of
from tests.mounts import eventually
from tests.outputs import noise

CONTENT: Final = noise(1, 300_000)
WHERE: Final = ("record", "signing", "store")
Kind = tuple[str, dict[str, Any]]
FAULTS: Final[dict[str, Kind]] = {
    **{f"{n}": ("status", {"status": n}) for n in (408, 429, 500, 502, 503, 504)},
    "429 with Retry-After": ("status", {"status": 429, "retry_after": "0.2"}),
    "reset before the body": ("reset", {}),
    "reset within the body": ("reset", {"after_bytes": 20}),
    "a body cut": ("short", {"after_bytes": 20}),
    "a body without a byte": ("short", {"after_bytes": 0}),
}
SLOW_FAULTS: Final[dict[str, Kind]] = {
    "stall": ("stall", {}),
    "stall within the body": ("stall", {"after_bytes": 20}),
    "503 with Retry-After as a date": ("status", {"status": 503, "retry_after": "date"}),
}


def read(fs: Mounted, task: str, name: str = "a") -> None:
    """Look the task up, list its outputs and read them."""
    assert (fs.path / task / "status").read_text() == "success\n"
    assert os.listdir(fs.path / task / "outputs") == [name]
    read_whole(fs, f"{task}/outputs/{name}", CONTENT)


@pytest.mark.parametrize("fault", FAULTS)
def test_several_transient_faults_in_a_row_are_survived(unlisting: Mounted, fault: str) -> None:
    """X-11, X-12, X-16: 429 with and without `Retry-After`, 5xx, resets before and within a body,
    and cut bodies are survived several in a row."""
    task = finished(unlisting.cloud, a=CONTENT)
    kind, options = FAULTS[fault]
    scripts = [add_fault(unlisting.cloud, where, task, kind, times=2, **options) for where in WHERE]
    read(unlisting, task)
    assert [script.hits for script in scripts] == [2, 2, 2]


@pytest.mark.parametrize("fault", SLOW_FAULTS)
@pytest.mark.parametrize("where", ["record", "store"])
def test_a_stall_is_survived(unlisting: Mounted, where: str, fault: str) -> None:
    """X-12, X-16: A stall is survived, and so is a `Retry-After` that is a date."""
    task = finished(unlisting.cloud, a=CONTENT)
    kind, options = SLOW_FAULTS[fault]
    if "retry_after" in options:
        options = {**options, "retry_after": email.utils.formatdate(time.time() + 1, usegmt=True)}
    script = add_fault(unlisting.cloud, where, task, kind, **options)
    read(unlisting, task)
    assert script.hits == 1


@pytest.mark.parametrize("where", WHERE)
def test_different_faults_in_a_row_are_survived(unlisting: Mounted, where: str) -> None:
    """X-11, X-14: Different faults in a row are survived; a mismatch is tried once more after any
    other fault."""
    task = finished(unlisting.cloud, a=CONTENT)
    wrong: Kind = ("html", {}) if where != "store" else ("header", {"name": "Content-Range"})
    script = []
    for kind, options in (FAULTS["503"], FAULTS["reset before the body"], wrong, FAULTS["429"]):
        options = {"value": None, **options} if kind == "header" else options
        script.append(add_fault(unlisting.cloud, where, task, kind, **options))
    read(unlisting, task)
    assert [fault.hits for fault in script] == [1] * 4


def is_no_suffix_range(record: RequestRecord) -> bool:
    """Whether a request is for a member, not for the end of an archive."""
    return not str(record.range).startswith("bytes=-")


UNTIL_THE_TIMEOUT: Final[dict[str, tuple[Kind, int]]] = {
    "429": (("status", {"status": 429}), errno.ETIMEDOUT),
    **{f"{n}": (("status", {"status": n}), errno.EIO) for n in (500, 503)},
    "reset": (("reset", {}), errno.ETIMEDOUT),
    "a body cut": (("short", {"after_bytes": 0}), errno.ETIMEDOUT),
    "stall": (("stall", {}), errno.ETIMEDOUT),
    "drip": (("drip", {}), errno.ETIMEDOUT),
}
AT_ONCE: Final[dict[str, tuple[Kind, int]]] = {
    "429 with Retry-After longer than the timeout": (
        ("status", {"status": 429, "retry_after": 3600}),
        errno.ETIMEDOUT,
    ),
    "401": (("status", {"status": 401}), errno.EACCES),
    "403": (("status", {"status": 403}), errno.EACCES),
    "418": (("status", {"status": 418}), errno.EIO),
    "304": (("status", {"status": 304}), errno.EIO),
}


@pytest.mark.parametrize("fault", UNTIL_THE_TIMEOUT)
def test_a_lasting_fault_has_the_errno_of_the_table(hasty: Mounted, fault: str) -> None:
    """X-3, X-4, X-8, X-9, F-15: A fault that stays has its errno, is never a short file, EAGAIN or
    a false ENOENT, and is not cached."""
    check_errno(hasty, fault, *UNTIL_THE_TIMEOUT[fault])


@pytest.mark.parametrize("fault", AT_ONCE)
def test_a_final_fault_has_the_errno_of_the_table(uncached: Mounted, fault: str) -> None:
    """X-3, X-4, X-8, X-9, F-15: A fault that no retry cures has its errno, and is not cached."""
    check_errno(uncached, fault, *AT_ONCE[fault])


def check_errno(fs: Mounted, fault: str, failing: Kind, expected: int) -> None:
    """Fail unless all that meets the fault fails with *expected*, and all is well without it."""
    cloud = fs.cloud
    # A walk over tasks prefetches members of the name that it read before.
    name = fault.replace(" ", "-")
    fs.names()
    kind, options = failing
    unlisted, unread = (finished(cloud, **{name: CONTENT}) for _ in range(2))
    # Before the mount knows the tasks, or it may prefetch them.
    signing = add_fault(cloud, "signing", unlisted, kind, times=None, **options)
    store = add_fault(cloud, "store", unread, kind, times=None, match=is_no_suffix_range, **options)
    fs.names()
    assert fs.stat(f"{unread}/outputs/{name}").st_size == len(CONTENT)
    unknown = finished(cloud, **{name: CONTENT})
    record = add_fault(cloud, "record", unknown, kind, times=None, **options)
    asked: list[tuple[Fault, Callable[[], object]]] = [
        (record, lambda: fs.stat(unknown)),  # the first, because any other may list it
        (signing, lambda: fs.read(f"{unlisted}/output_files_info")),
        (store, lambda: read_whole(fs, f"{unread}/outputs/{name}", CONTENT)),
    ]
    with ThreadPoolExecutor(len(asked)) as pool:
        began = time.monotonic()
        got = []
        for script, call in asked:
            got.append(pool.submit(errno_of, call))
            eventually(lambda script=script: script.hits > 0 or got[-1].done())  # type: ignore[misc]
        assert [error.result() for error in got] == [expected] * len(asked)
        assert time.monotonic() - began < 60
    cloud.faults.clear()
    for task in (unknown, unlisted, unread):
        read(fs, task, name)


def test_only_a_404_of_the_api_or_the_store_is_enoent(uncached: Mounted) -> None:
    """F-14: A proxy's page with status 404 is not ENOENT."""
    unread, unknown = finished(uncached.cloud, a=CONTENT), finished(uncached.cloud, a=CONTENT)
    assert unread in uncached.names()
    assert uncached.stat(f"{unread}/outputs/a").st_size == len(CONTENT)
    unknown = finished(uncached.cloud, a=CONTENT)
    add_fault(uncached.cloud, "record", unknown, "html", status=404)
    assert uncached.stat(unknown).st_mode & 0o40000
    unknown = finished(uncached.cloud, a=CONTENT)
    add_fault(uncached.cloud, "record", unknown, "html", status=404, times=None)
    assert errno_of(lambda: uncached.stat(unknown)) == errno.EIO
    uncached.cloud.faults.clear()
    uncached.cloud.remove_task(unknown)
    assert errno_of(lambda: uncached.stat(unknown)) == errno.ENOENT
    uncached.cloud.remove_object(f"{unread}/output.zip")
    assert errno_of(lambda: uncached.read(f"{unread}/outputs/a")) == errno.ENOENT


def test_retry_after_beyond_the_timeout_is_not_waited_for(uncached: Mounted) -> None:
    """X-16: A `Retry-After` beyond the timeout is an error at once."""
    task = finished(uncached.cloud, a=CONTENT)
    fault = add_fault(uncached.cloud, "store", task, "status", status=503, retry_after=3600)
    assert errno_of(lambda: uncached.names(f"{task}/outputs")) == errno.EIO
    assert fault.hits == 1
    read(uncached, task)


def test_an_unanswered_read_takes_one_timeout(uncached: Mounted) -> None:
    """X-15: A read without an answer takes one timeout, although the kernel repeats the page that
    it failed to read ahead."""
    cloud = uncached.cloud
    counts: list[int] = []
    for name in "abcde":  # a busy kernel may repeat it too late
        task = finished(cloud, z=b"z", **{name: CONTENT})
        path = f"{task}/outputs/{name}"
        assert uncached.stat(path).st_size == len(CONTENT)
        fault = add_fault(cloud, "store", task, "status", status=429, retry_after=3600, times=None)
        with uncached.open(path) as opened:
            assert errno_of(partial(opened.read_at, 0, 4096)) == errno.ETIMEDOUT
            counts.append(fault.hits)
            cloud.faults.clear()
            assert_same(opened.read_at(0, 4096), CONTENT[:4096])  # the program's own next try
        if counts[-1] == 1:
            return
    pytest.fail(f"numbers of requests: {counts}")


def test_a_refused_connection_is_survived(patient: Mounted) -> None:
    """X-12: A refused connection is survived, on API and store alike."""
    patient.names()
    task = finished(patient.cloud, a=CONTENT)
    patient.cloud.pause()
    back = threading.Timer(0.8, patient.cloud.resume)
    back.start()
    try:
        read(patient, task)
    finally:
        back.join()


def test_the_network_gone_for_a_while_and_back(hasty: Mounted) -> None:
    """X-3, X-12: While the network is gone reads are ETIMEDOUT; then all is well."""
    known, other = finished(hasty.cloud, a=CONTENT), finished(hasty.cloud, a=CONTENT)
    read(hasty, known)
    hasty.names()
    hasty.cloud.pause()
    calls: list[Callable[[], object]] = [
        hasty.names,
        lambda: hasty.stat("0" * 25),
        lambda: hasty.names(f"{other}/outputs"),
    ]
    for _ in range(2):  # one try does not make the next one worse
        with ThreadPoolExecutor(len(calls)) as pool:
            assert list(pool.map(errno_of, calls)) == [errno.ETIMEDOUT] * len(calls)
    read_whole(hasty, f"{known}/outputs/a", CONTENT)  # cached
    hasty.cloud.resume()
    assert {known, other} <= set(hasty.names())
    assert errno_of(lambda: hasty.stat("0" * 25)) == errno.ENOENT
    read(hasty, other)


def test_a_name_that_does_not_resolve_is_survived(
    cloud: FakeCloud, transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X-22: A host name that does not resolve at first is survived."""
    cloud.put_object("x", CONTENT)
    real, asked = socket.getaddrinfo, 0

    def resolver(host: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal asked
        if host != "store.invalid":
            return real(host, *arguments, **options)
        asked += 1
        if asked < 4:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    url = cloud.signed_url("x").replace("127.0.0.1", "store.invalid")
    store_object = StoreObject("x", lambda: url, transport)
    assert_same(store_object.fetch_tail(1000).body, CONTENT[-1000:])
    assert asked == 4


def test_a_name_that_does_not_resolve_is_etimedout_and_forgotten(hasty: Mounted) -> None:
    """X-3, F-15: A name that stays unresolved is ETIMEDOUT; the URL that led there is dropped."""
    task = finished(hasty.cloud, a=CONTENT)
    assert hasty.stat(f"{task}/outputs/a").st_size == len(CONTENT)
    hasty.cloud.expire_urls()
    urls = ["http://store.invalid/x?Signature=secret"]
    add_fault(hasty.cloud, "signing", task, "json", value=urls, times=None)
    assert errno_of(lambda: hasty.read(f"{task}/outputs/a")) == errno.ETIMEDOUT
    hasty.cloud.faults.clear()
    read(hasty, task)


@pytest.mark.parametrize("kind", ["short", "reset", "stall"])
def test_a_body_cut_at_any_point_is_resumed_where_it_stopped(cloud: FakeCloud, kind: str) -> None:
    """X-13: A body cut at any point is resumed where it stopped."""
    # A stall is waited for; nothing else is to end a try.
    timeout_s = 3 if kind == "stall" else 60
    transport = Transport(timeout_s=timeout_s, stats=Stats(), endpoint="store")
    cloud.put_object("x", CONTENT)
    store_object = StoreObject("x", lambda: cloud.signed_url("x"), transport)
    version = store_object.fetch_tail(1).version
    points = [1, 65_535, 65_536, 262_144, len(CONTENT) - 1]
    for point in points if kind != "stall" else points[2:3]:
        cloud.clear_requests()
        cloud.faults.add(kind, side="store", after_bytes=point)
        assert_same(store_object.fetch_range(0, len(CONTENT), version), CONTENT)
        first, second = [r.range for r in cloud.requests]
        assert first == f"bytes=0-{len(CONTENT) - 1}"
        begin = int(str(second).removeprefix("bytes=").split("-")[0])
        # On a reset, the kernel drops received bytes that were not read yet.
        assert begin <= point if kind == "reset" else begin == point
    cloud.faults.clear()
    transport.close()


def test_a_body_cut_again_and_again_is_still_whole(patient: Mounted) -> None:
    """X-13: A body cut again and again arrives with no byte twice and none missing."""
    task = finished(patient.cloud, a=CONTENT)
    assert patient.stat(f"{task}/outputs/a").st_size == len(CONTENT)
    patient.cloud.clear_requests()
    add_fault(patient.cloud, "store", task, "short", after_bytes=50_000, times=12)
    read_whole(patient, f"{task}/outputs/a", CONTENT)
    sent = sum(r.bytes_sent for r in patient.cloud.requests if f"/{task}/" in r.path)
    assert sent <= len(CONTENT) + 65_536
