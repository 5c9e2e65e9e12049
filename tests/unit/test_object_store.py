"""`StoreObject`: ranges of one version through a signed URL, against the embedded cloud."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskfs.errors import (
    AccessDenied,
    BadResponse,
    NotFound,
    StaleObject,
    Unavailable,
    Unsupported,
)
from taskfs.model import ObjectVersion
from taskfs.remote.object_store import StoreObject
from taskfs.remote.range_requests import SMALL_OBJECT
from taskfs.remote.transport import Transport
from taskfs.support.stats import Stats
from tests.fake_api import FakeCloud

PATH = "t/output.zip"
CONTENT = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport(timeout_s=20, stats=Stats(), endpoint="store")
    yield transport
    transport.close()


class Signer:
    """Signs URLs of one path, and counts them."""

    def __init__(self, cloud: FakeCloud, path: str = PATH) -> None:
        self._cloud = cloud
        self._path = path
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return self._cloud.signed_url(self._path)


@pytest.fixture
def signer(cloud: FakeCloud) -> Signer:
    cloud.put_object(PATH, CONTENT)
    return Signer(cloud)


@pytest.fixture
def store_object(signer: Signer, transport: Transport) -> StoreObject:
    return StoreObject(PATH, signer, transport)


@pytest.fixture
def version(store_object: StoreObject) -> ObjectVersion:
    return store_object.fetch_tail(1).version


def ranges(cloud: FakeCloud) -> list[str | None]:
    return [r.range for r in cloud.requests if r.side == "store"]


def test_the_tail_has_the_size(cloud: FakeCloud, store_object: StoreObject) -> None:
    """A-12: The size of an archive comes from Content-Range."""
    tail = store_object.fetch_tail(1000)
    assert (tail.start, tail.body) == (len(CONTENT) - 1000, CONTENT[-1000:])
    assert tail.version.size == len(CONTENT)
    assert tail.version.etag
    whole = store_object.fetch_tail(len(CONTENT) + 5)
    assert (whole.start, whole.body == CONTENT) == (0, True)
    assert ranges(cloud) == ["bytes=-1000", f"bytes=-{len(CONTENT) + 5}"]
    assert {r.method for r in cloud.requests} == {"GET"}  # a presigned URL refuses HEAD


def test_ranges(cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion) -> None:
    """`RemoteObject.fetch_range`: the bytes [start, stop), exactly `stop - start` of them."""
    for start, stop in ((0, 1), (0, len(CONTENT)), (len(CONTENT) - 1, len(CONTENT)), (777, 99_999)):
        assert store_object.fetch_range(start, stop, version) == CONTENT[start:stop]
    assert ranges(cloud)[1:3] == ["bytes=0-0", f"bytes=0-{len(CONTENT) - 1}"]


def test_one_url_serves_many_requests(
    signer: Signer, store_object: StoreObject, version: ObjectVersion
) -> None:
    """A-13: One signed URL serves many requests."""
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda n: store_object.fetch_range(n * 10, n * 10 + 10, version), range(50)
        )
        assert b"".join(parts) == CONTENT[:500]
    assert signer.count == 1


@pytest.mark.parametrize("kind", ["expire", "revoke"])
def test_a_refused_url_is_renewed_once(
    cloud: FakeCloud, signer: Signer, store_object: StoreObject, version: ObjectVersion, kind: str
) -> None:
    """If the store refuses a URL (400 `ExpiredToken`, or 403), one new URL is requested, and the
    range is repeated."""
    getattr(cloud, f"{kind}_urls")()
    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(lambda n: store_object.fetch_range(n, n + 1, version), range(16))
        assert b"".join(parts) == CONTENT[:16]
    assert signer.count == 2


def test_a_new_url_that_is_refused_too(
    cloud: FakeCloud, signer: Signer, store_object: StoreObject, version: ObjectVersion
) -> None:
    """X-2: A renewed URL that is refused too is EACCES."""
    cloud.faults.add("status", status=403, side="store", times=None)
    with pytest.raises(AccessDenied):
        store_object.fetch_range(0, 1, version)
    assert signer.count == 2
    cloud.faults.clear()
    cloud.url_lifetime_s = -1
    cloud.expire_urls()
    with pytest.raises(AccessDenied):
        store_object.fetch_range(0, 1, version)


def test_a_replaced_object_is_stale(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """X-5: A replaced object is ESTALE."""
    for content in (CONTENT[::-1], CONTENT[:100], CONTENT * 2, CONTENT):
        cloud.put_object(PATH, content)
        with pytest.raises(StaleObject):
            store_object.fetch_range(1000, 2000, version)


@pytest.mark.parametrize("etag", ['W/"weak"', None, ""])
def test_without_a_strong_etag_a_replacement_is_detected_too(
    cloud: FakeCloud, store_object: StoreObject, etag: str | None
) -> None:
    """RFC 9110, 13.1.1: If-Match compares strongly: a weak tag would never match."""
    cloud.faults.add("header", name="ETag", value=etag, side="store", times=None)
    version = store_object.fetch_tail(10).version
    assert store_object.fetch_range(0, 10, version) == CONTENT[:10]
    cloud.put_object(PATH, CONTENT + b"longer")
    with pytest.raises(StaleObject):
        store_object.fetch_range(0, 10, version)


def test_a_deleted_object(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """X-1: An object that the store no longer has is ENOENT."""
    cloud.remove_object(PATH)
    with pytest.raises(NotFound, match="NoSuchKey"):
        store_object.fetch_range(0, 10, version)
    with pytest.raises(NotFound):
        store_object.fetch_tail(10)


@pytest.mark.parametrize(("kind", "after_bytes"), [("short", 500_000), ("reset", 1_300_000)])
def test_a_body_cut_short_is_resumed(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion, kind: str, after_bytes: int
) -> None:
    """`RemoteObject.fetch_range`: a body that is cut short is resumed."""
    cloud.clear_requests()
    cloud.faults.add(kind, side="store", after_bytes=after_bytes)
    assert store_object.fetch_range(100, 2_000_100, version) == CONTENT[100:2_000_100]
    first, second = ranges(cloud)
    assert first == "bytes=100-2000099"
    assert second and int(second.removeprefix("bytes=").split("-")[0]) > 100
    cloud.clear_requests()
    cloud.faults.add(kind, side="store", after_bytes=after_bytes)
    assert store_object.fetch_tail(2_000_000).body == CONTENT[-2_000_000:]
    assert len(ranges(cloud)) == 2


def test_an_object_that_is_replaced_during_a_cut_body(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """F-9: A body that was cut is never completed from another version."""
    cloud.faults.add("short", side="store", after_bytes=500_000)

    def replaced(record: object) -> bool:
        if len(ranges(cloud)) > 2:
            cloud.put_object(PATH, CONTENT[::-1])
        return False

    cloud.faults.add("status", status=500, match=replaced, times=None)
    with pytest.raises(StaleObject):
        store_object.fetch_range(0, len(CONTENT), version)


def test_a_body_that_is_too_long_is_an_error(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """X-9: Surplus bytes never look like content."""
    cloud.faults.add("long", side="store")
    assert store_object.fetch_range(0, 1000, version) == CONTENT[:1000]
    assert store_object.fetch_range(1000, 2000, version) == CONTENT[1000:2000]


def test_a_store_that_ignores_ranges(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion, transport: Transport
) -> None:
    """X-6: A store that ignores ranges on a large object is EOPNOTSUPP."""
    cloud.faults.add("whole", side="store", times=None)
    cloud.clear_requests()
    for ask in (
        lambda: store_object.fetch_tail(10),
        lambda: store_object.fetch_range(5, 10, version),
    ):
        with pytest.raises(Unsupported):
            ask()
    time.sleep(0.1)
    assert len(CONTENT) > SMALL_OBJECT
    cloud.put_object("small", CONTENT[:5000])
    small = StoreObject("small", Signer(cloud, "small"), transport)
    tail = small.fetch_tail(1000)
    assert (tail.start, tail.body) == (4000, CONTENT[4000:5000])
    assert small.fetch_tail(9000).body == CONTENT[:5000]
    assert small.fetch_range(10, 30, tail.version) == CONTENT[10:30]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Range", None),
        ("Content-Range", "bytes 0-9/*"),
        ("Content-Range", "bytes 5-14/2097152"),
        ("Content-Range", "bytes 9-0/2097152"),
        ("Content-Range", "bytes 0-8/2097152"),
        ("Content-Range", "pages 0-9/2097152"),
    ],
)
def test_a_contradictory_response_is_retried_once(
    cloud: FakeCloud,
    store_object: StoreObject,
    version: ObjectVersion,
    name: str,
    value: str | None,
) -> None:
    """X-14: A response that contradicts itself is requested again once, then it is EIO."""
    cloud.faults.add("header", name=name, value=value, side="store")
    assert store_object.fetch_range(0, 10, version) == CONTENT[:10]
    cloud.faults.add("header", name=name, value=value, side="store", times=None)
    cloud.clear_requests()
    with pytest.raises(BadResponse):
        store_object.fetch_range(0, 10, version)
    assert len(ranges(cloud)) == 2


def test_a_compressed_response_is_unsupported(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """A compressed representation has other byte offsets than the object."""
    cloud.faults.add("header", name="Content-Encoding", value="gzip", side="store")
    with pytest.raises(Unsupported):
        store_object.fetch_range(0, 10, version)


def test_an_empty_object(cloud: FakeCloud, transport: Transport) -> None:
    """N-24: An empty object is an archive of no bytes."""
    cloud.put_object("empty", b"")
    empty = StoreObject("empty", Signer(cloud, "empty"), transport)
    fetched = empty.fetch_tail(10)
    assert (fetched.start, fetched.body, fetched.version.size) == (0, b"", 0)


def test_a_store_that_stalls(cloud: FakeCloud, signer: Signer, version: ObjectVersion) -> None:
    """X-3: A store that stalls is ETIMEDOUT."""
    hasty = Transport(timeout_s=1.0, stats=Stats(), endpoint="store")
    store_object = StoreObject(PATH, signer, hasty)
    cloud.faults.add("stall", side="store", times=None)
    with pytest.raises(Unavailable):
        store_object.fetch_range(0, 10, version)
    cloud.faults.clear()
    cloud.faults.add("stall", side="store", after_bytes=0, times=None)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        store_object.fetch_range(0, 300_001, version)
    assert time.monotonic() - began < 30
    cloud.faults.clear()
    hasty.close()


def test_a_store_that_stalls_within_each_body(
    cloud: FakeCloud, signer: Signer, version: ObjectVersion
) -> None:
    """X-13: Where each try gets a part of the range, the reads go on where the last one ended."""
    transport = Transport(timeout_s=3.0, stats=Stats(), endpoint="store")
    cloud.faults.add("stall", side="store", after_bytes=100_000, times=None)
    received = StoreObject(PATH, signer, transport).fetch_range(0, 300_001, version)
    assert received == CONTENT[:300_001]
    cloud.faults.clear()
    transport.close()


def test_the_key_is_never_sent(
    cloud: FakeCloud, store_object: StoreObject, version: ObjectVersion
) -> None:
    """Y-3: The store never gets the key."""
    store_object.fetch_range(0, 10, version)
    assert cloud.store.leaked_keys == []
    assert not any(r.had_api_key for r in cloud.requests if r.side == "store")
