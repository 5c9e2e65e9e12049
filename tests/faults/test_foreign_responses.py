"""Answers that are not the service's own: a proxy's, an ingress's or a login portal's instead.

None of them may look like a directory without names, a task that is gone or a replaced object.
"""

import errno
import os
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault, finished
from tests.file_systems import FileSystem, Mounted, assert_same, errno_of, write
from tests.mounts import eventually
from tests.outputs import noise

CONTENT: Final = noise(7, 700_000)
PIECE: Final = 100_000
METADATA: Final = "user.taskfs.metadata.note"
BOM: Final = b"\xef\xbb\xbf"


def answer(content: bytes, kind: str, status: int = 404, **headers: str) -> dict[str, Any]:
    return {"content": content, "content_type": kind, "status": status, "headers": headers}


def xml(code: str) -> bytes:
    return (
        f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code>'
        "<Message>…</Message></Error>".encode()
    )


TRANSPORT_ERRORS: Final = {
    "an ingress": answer(b"default backend - 404", "text/plain"),
    "Go": answer(b"404 page not found\n", "text/plain; charset=utf-8"),
    "HTML": answer(b"<html>404 Not Found</html>", "text/html"),
    "nothing": answer(b"", "text/plain"),
    "other JSON": answer(b'{"message": "no Route matched"}', "application/json"),
    "a JSON string": answer(b'"detail"', "application/json"),
    "410 HTML": answer(b"<html>Gone</html>", "text/html", 410),
}
OWN_DETAIL: Final = answer(b'{"detail": "Not Found"}', "application/json")
NOT_OF_A_STORE: Final = {
    **TRANSPORT_ERRORS,
    "the API's": OWN_DETAIL,
    "no bucket": answer(xml("NoSuchBucket"), "application/xml"),
    "no container": answer(xml("ContainerNotFound"), "application/xml"),
    "a code in a page": answer(b"<html><Code>NoSuchKey</Code></html>", "text/html"),
}
ABSENT: Final = {
    "S3": answer(xml("NoSuchKey"), "application/xml"),
    "S3, a version": answer(xml("NoSuchVersion"), "application/xml"),
    "a namespace": answer(
        b'<Error xmlns="http://example.com/"><Code>NoSuchKey</Code></Error>', "text/xml"
    ),
    "Azure": answer(BOM + xml("BlobNotFound"), "application/xml"),
    "Azure without a body": answer(b"", "text/plain", 404, **{"x-ms-error-code": "BlobNotFound"}),
}


@pytest.mark.parametrize("foreign", [*TRANSPORT_ERRORS, "the API's"])
def test_a_404_on_the_listing_is_never_an_empty_directory(fs: FileSystem, foreign: str) -> None:
    """F-14, F-15: A 404 on a listing is asked for once more and is then EIO, with any body."""
    task = finished(fs.cloud, a=CONTENT)
    write(fs, ".taskfs/refresh")
    assert task in fs.names()
    wrong = NOT_OF_A_STORE[foreign]
    write(fs, ".taskfs/refresh")
    once = fs.cloud.faults.add("body", match=lambda record: record.path == "/tasks", **wrong)
    assert task in fs.names()
    assert once.hits == 1
    write(fs, ".taskfs/refresh")
    fs.cloud.faults.add("body", match=lambda record: record.path == "/tasks", times=None, **wrong)
    assert errno_of(fs.names) == errno.EIO
    assert errno_of(lambda: fs.names(".by-status")) == errno.EIO
    fs.cloud.faults.clear()
    assert task in fs.names()


@pytest.mark.parametrize("foreign", TRANSPORT_ERRORS)
def test_a_foreign_404_on_a_task_is_eio(unlisting_fs: FileSystem, foreign: str) -> None:
    """F-14: A 404 on a task that is not the API's own is EIO."""
    fs = unlisting_fs
    task = finished(fs.cloud, a=CONTENT)
    add_fault(fs.cloud, "record", task, "body", times=None, **TRANSPORT_ERRORS[foreign])
    assert errno_of(lambda: fs.stat(task)) == errno.EIO
    assert errno_of(lambda: fs.set_xattr(task, METADATA, b"x")) == errno.EIO
    fs.cloud.faults.clear()
    add_fault(fs.cloud, "record", task, "body", **TRANSPORT_ERRORS[foreign])
    assert fs.stat(task).st_mode & 0o40000
    once = fs.cloud.faults.add(
        "body", path=f"/tasks/{task}/metadata", method="PATCH", **TRANSPORT_ERRORS[foreign]
    )
    fs.set_xattr(task, METADATA, b"x")
    assert once.hits == 1
    assert fs.xattr(task, METADATA) == b"x"


@pytest.mark.parametrize("status", [404, 410])
def test_a_404_of_the_api_on_one_task_is_enoent(unlisting_fs: FileSystem, status: int) -> None:
    """F-14, X-1: The API's own 404 on one task is ENOENT."""
    fs = unlisting_fs
    task = finished(fs.cloud, a=CONTENT)
    own = {**OWN_DETAIL, "status": status}
    fault = add_fault(fs.cloud, "record", task, "body", times=None, **own)
    assert errno_of(lambda: fs.stat(task)) == errno.ENOENT
    assert fault.hits == 1
    fs.cloud.faults.clear()


@pytest.mark.parametrize("foreign", [*TRANSPORT_ERRORS, "the API's"])
def test_a_404_on_the_signing_is_no_empty_outputs(fs: FileSystem, foreign: str) -> None:
    """F-14, F-15: A 404 of the call that signs URLs is not an empty `outputs/`."""
    task = finished(fs.cloud, a=CONTENT)
    wrong = NOT_OF_A_STORE[foreign]
    add_fault(fs.cloud, "signing", task, "body", times=None, **wrong)
    assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO
    fs.cloud.faults.clear()
    add_fault(fs.cloud, "signing", task, "body", **wrong)
    assert fs.names(f"{task}/outputs") == ["a"]


@pytest.mark.parametrize("foreign", NOT_OF_A_STORE)
def test_a_foreign_404_of_the_store_is_no_empty_outputs(fs: FileSystem, foreign: str) -> None:
    """F-14, X-14: A 404 that is not the store's word on the object is asked for once more and is
    then EIO; the handle reads on afterwards."""
    task = finished(fs.cloud, a=CONTENT, filler=noise(3, 300_000))
    wrong = NOT_OF_A_STORE[foreign]
    add_fault(fs.cloud, "store", task, "body", times=None, **wrong)
    assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO
    fs.cloud.faults.clear()
    once = add_fault(fs.cloud, "store", task, "body", **wrong)
    assert sorted(fs.names(f"{task}/outputs")) == ["a", "filler"]
    with fs.open(f"{task}/outputs/a") as opened:
        add_fault(fs.cloud, "store", task, "body", times=None, **wrong)
        assert errno_of(lambda: opened.read_at(0, PIECE)) == errno.EIO
        fs.cloud.faults.clear()
        assert_same(opened.read_at(0, PIECE), CONTENT[:PIECE])
    assert once.hits == 1


@pytest.mark.parametrize("own", ABSENT)
def test_an_object_that_the_store_reports_absent_is_empty(fs: FileSystem, own: str) -> None:
    """F-12, F-14: An object that the store reports as absent shows as an empty `outputs/`."""
    task = finished(fs.cloud, a=CONTENT)
    fault = add_fault(fs.cloud, "store", task, "body", times=None, **ABSENT[own])
    assert fs.names(f"{task}/outputs") == []
    assert fault.hits == 1


@pytest.mark.mount
def test_readdir_never_says_enoent(shared_mnt: Path, shared_cloud: FakeCloud) -> None:
    """X-19: A directory that vanished is ENOENT by lookup or opendir, and never by READDIR."""
    task = finished(shared_cloud, a=CONTENT)
    fs = Mounted(shared_cloud, shared_mnt)
    with os.scandir(shared_mnt / task) as entries:  # opened, and nothing read yet
        shared_cloud.remove_task(task)
        write(fs, ".taskfs/refresh")
        assert task not in fs.names()
        assert errno_of(lambda: list(entries)) == errno.EIO
    # The kernel keeps the name a moment longer: what opendir and readdir say then is no listing.
    assert errno_of(lambda: fs.names(task)) in (errno.ENOENT, errno.EIO)
    eventually(lambda: not os.path.exists(shared_mnt / task))


PAGES: Final = {
    "a login page": answer(b"<!DOCTYPE html><html>Log in</html>", "text/html", 200),
    "a page with a tag": answer(b"<html>Log in</html>", "text/html", 200, ETag='"page"'),
    "a page that says nothing of itself": answer(b"\n<html>Log in</html>", "", 200),
    "a packed page": answer(b"packed", "text/html", 200, **{"Content-Encoding": "gzip"}),
    "a page of another type": answer(b"Please log in", "text/plain", 200),
    "octets with a tag": answer(b"Please log in", "application/octet-stream", 200, ETag='"page"'),
    "JSON": answer(b'{"error": "log in"}', "application/json", 200),
    "nothing": answer(b"", "text/plain", 200),
    "nothing at all": answer(b"", "", 200),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_the_middle_of_a_read_is_eio_and_the_handle_lives(
    fs: FileSystem, page: str
) -> None:
    """X-14: A page in the middle of a read is asked for once more and is then EIO, and the next
    read through the same handle works."""
    task = finished(fs.cloud, a=CONTENT, filler=noise(3, 300_000))
    path = f"{task}/outputs/a"
    assert fs.stat(path).st_size == len(CONTENT)
    with fs.open(path) as opened:
        once = add_fault(fs.cloud, "store", task, "body", **PAGES[page])
        assert_same(opened.read_at(0, PIECE), CONTENT[:PIECE])
        assert once.hits == 1
        add_fault(fs.cloud, "store", task, "body", times=None, **PAGES[page])
        far = len(CONTENT) - PIECE
        assert errno_of(lambda: opened.read_at(far, PIECE)) == errno.EIO
        fs.cloud.faults.clear()
        assert_same(opened.read_at(far, PIECE), CONTENT[far:])


def test_a_page_without_a_length_is_eio_too(fs: FileSystem) -> None:
    """X-14, X-6: A page in chunks is EIO and does not mean that the store ignores ranges."""
    task, unopened = (finished(fs.cloud, a=CONTENT, filler=noise(3, 300_000)) for _ in range(2))
    assert fs.stat(f"{task}/outputs/a").st_size == len(CONTENT)
    page = {"status": 200, "headers": {"Content-Type": "text/html", "ETag": '"page"'}}
    for name in (task, unopened):
        add_fault(fs.cloud, "store", name, "endless", times=None, **page)
    assert errno_of(lambda: fs.names(f"{unopened}/outputs")) == errno.EIO
    with fs.open(f"{task}/outputs/a") as opened:
        assert errno_of(lambda: opened.read_at(0, PIECE)) == errno.EIO
        fs.cloud.faults.clear()
        assert_same(opened.read_at(0, PIECE), CONTENT[:PIECE])
    assert sorted(fs.names(f"{unopened}/outputs")) == ["a", "filler"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_in_place_of_an_archives_end_is_eio(fs: FileSystem, page: str) -> None:
    """F-15, X-14: A page in place of an archive's end is EIO and not an empty directory."""
    task = finished(fs.cloud, a=CONTENT)
    add_fault(fs.cloud, "store", task, "body", times=None, **PAGES[page])
    assert errno_of(lambda: fs.names(f"{task}/outputs")) == errno.EIO
    fs.cloud.faults.clear()
    assert fs.names(f"{task}/outputs") == ["a"]


@pytest.mark.parametrize("status", [202, 204, 300, 304])
def test_a_status_that_makes_no_sense_is_looked_at_once_more(
    unlisting_fs: FileSystem, status: int
) -> None:
    """X-14: A status that makes no sense is asked for once more, on API and store alike."""
    fs = unlisting_fs
    task = finished(fs.cloud, a=CONTENT)
    wrong = answer(b"", "text/plain", status)
    faults = [
        add_fault(fs.cloud, where, task, "body", **wrong)
        for where in ("record", "signing", "store")
    ]
    assert fs.names(f"{task}/outputs") == ["a"]
    assert [fault.hits for fault in faults] == [1, 1, 1]
    add_fault(fs.cloud, "store", task, "body", times=None, **wrong)
    with fs.open(f"{task}/outputs/a") as opened:
        assert errno_of(lambda: opened.read_at(0, PIECE)) == errno.EIO
        fs.cloud.faults.clear()
        assert_same(opened.read_at(0, PIECE), CONTENT[:PIECE])
