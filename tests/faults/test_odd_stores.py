"""Stores that differ from Google's: their ranges, tags, codings and statuses are understood."""

from typing import Any, Final

import pytest

from taskfs.errors import StaleObject, Unsupported
from taskfs.remote.object_store import StoreObject
from taskfs.remote.transport import Transport
from tests.fake_api import FakeCloud
from tests.faults.scenarios import add_fault, finished, put, read_whole
from tests.file_systems import FileSystem, assert_same, write
from tests.outputs import noise

CONTENT: Final = noise(8, 1_500_000)  # more than a 200 is accepted for
SMALL: Final = noise(9, 300_000)
Kind = tuple[str, dict[str, Any]]

STORES: Final[dict[str, Kind]] = {
    **{f"no suffix ranges: {how}": ("no suffix", {"how": how}) for how in (416, 400, 501, 200)},
    "suffix ranges read as from 0 on": ("no suffix", {"how": "prefix"}),
    "at most 100,000 bytes at once": ("capped", {"most": 100_000}),
    "at most the last 100,000 bytes at once": ("capped", {"most": 100_000, "from_end": True}),
    "another letter case": ("range case", {"unit": "Bytes"}),
    "upper case": ("range case", {"unit": "BYTES"}),
    "early hints": ("hints", {}),
    **{
        f"coding {coding}": ("header", {"name": "Content-Encoding", "value": coding})
        for coding in ("Identity", "aws-chunked", "AWS-Chunked, identity", "binary", "UTF-8", "")
    },
    "no tag": ("header", {"name": "ETag", "value": None}),
    "a weak tag": ("tag", {"forms": ["weak"]}),
    "a tag without quotes": ("header", {"name": "ETag", "value": "0123abc"}),
}
# These give a plain range the wrong end too, which no client can make good.
TAIL_ONLY: Final = frozenset({"at most the last 100,000 bytes at once"})


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("content", [SMALL, CONTENT], ids=["small", "large"])
def test_an_odd_store_is_read_whole(fs: FileSystem, store: str, content: bytes) -> None:
    """X-20: A store that lacks suffix ranges, caps its answers or writes its headers in another way
    is read whole."""
    task = finished(fs.cloud, a=content, z=b"z")
    kind, options = STORES[store]
    options = {name: list(v) if isinstance(v, list) else v for name, v in options.items()}
    times = 1 if store in TAIL_ONLY else None
    fault = add_fault(fs.cloud, "store", task, kind, times=times, **options)
    assert sorted(fs.names(f"{task}/outputs")) == ["a", "z"]
    read_whole(fs, f"{task}/outputs/a", content)
    assert fault.hits


@pytest.mark.parametrize(
    "forms",
    [["strong", "weak"], ["weak", "strong"], ["strong", "absent"], ["strong", "weak", "absent"]],
    ids="-".join,
)
def test_the_forms_of_one_tag_are_one_version(fs: FileSystem, forms: list[str]) -> None:
    """X-20: Entity tags are compared weakly, and an answer without one tells nothing, so one
    version is not taken for two."""
    task = finished(fs.cloud, a=CONTENT, z=b"z")
    path = f"{task}/outputs/a"
    add_fault(fs.cloud, "store", task, "tag", times=None, forms=list(forms))
    fs.stat(path)
    with fs.open(path) as opened:
        for at in (*range(0, len(CONTENT), 250_000), 77):
            piece = opened.read_at(at, 1000)
            assert_same(piece, CONTENT[at : at + 1000])
    read_whole(fs, path, CONTENT)


@pytest.mark.parametrize("forms", [["strong"], ["weak"], ["strong", "weak"]], ids="-".join)
@pytest.mark.parametrize("size", [0, 1])
def test_a_replaced_object_is_stale_whatever_the_form_of_its_tag(
    cloud: FakeCloud, transport: Transport, forms: list[str], size: int
) -> None:
    """X-5, X-20: A replaced object is ESTALE whatever the form of its tag."""
    cloud.put_object("x", CONTENT)
    cloud.faults.add("tag", side="store", times=None, forms=list(forms))
    store_object = StoreObject("x", lambda: cloud.signed_url("x"), transport)
    version = store_object.fetch_tail(10).version
    for _ in range(3):
        assert_same(store_object.fetch_range(5, 500, version), CONTENT[5:500])
    cloud.put_object("x", CONTENT[::-1] + b"x" * size)
    for _ in range(3):
        with pytest.raises(StaleObject):
            store_object.fetch_range(5, 500, version)


def test_an_archive_that_is_replaced_on_a_store_with_weak_tags(fs: FileSystem) -> None:
    """F-9, X-20: On a store with weak tags old bytes and new are never mixed."""
    task = finished(fs.cloud, a=CONTENT, z=b"z")
    add_fault(fs.cloud, "store", task, "tag", times=None, forms=["weak"])
    read_whole(fs, f"{task}/outputs/a", CONTENT)
    put(fs.cloud, task, a=CONTENT[::-1])
    write(fs, ".taskfs/refresh")
    read_whole(fs, f"{task}/outputs/a", CONTENT[::-1])


@pytest.mark.parametrize("status", [501, 505, 507, 520, 521, 522, 523, 524, 525, 526, 527, 598])
def test_every_5xx_is_transient(unlisting_fs: FileSystem, status: int) -> None:
    """X-11: 408, 425, 429 and every 5xx are tried again, on API and store alike."""
    fs = unlisting_fs
    task = finished(fs.cloud, a=SMALL)
    faults = [
        add_fault(fs.cloud, where, task, "status", status=status)
        for where in ("record", "signing", "store")
    ]
    assert fs.names(f"{task}/outputs") == ["a"]
    if status != 501:  # to a suffix range, that says that there are none
        assert [fault.hits for fault in faults] == [1, 1, 1]
    add_fault(fs.cloud, "store", task, "status", status=status)
    read_whole(fs, f"{task}/outputs/a", SMALL)


@pytest.mark.parametrize("coding", ["gzip", "br", "aws-chunked, gzip"])
def test_a_compressed_representation_is_refused(
    cloud: FakeCloud, transport: Transport, coding: str
) -> None:
    """X-6: A compressed representation, whose offsets differ from the object's, is EOPNOTSUPP."""
    cloud.put_object("x", CONTENT)
    cloud.faults.add("header", name="Content-Encoding", value=coding, side="store", times=None)
    with pytest.raises(Unsupported):
        StoreObject("x", lambda: cloud.signed_url("x"), transport).fetch_tail(10)


@pytest.mark.parametrize("length", [10, 300_000, 5_000_000])
@pytest.mark.parametrize("store", [name for name in STORES if "suffix" in name or "most" in name])
def test_the_tail_is_exactly_the_tail(
    cloud: FakeCloud, transport: Transport, store: str, length: int
) -> None:
    """X-20, R-1: Plain ranges return the bytes of a suffix range. They are sent only if the answer
    to the suffix range does not hold them."""
    kind, options = STORES[store]
    times = 1 if store in TAIL_ONLY else None
    for content in (SMALL, CONTENT):
        cloud.put_object("x", content)
        cloud.faults.add(kind, side="store", times=times, **options)
        tail = StoreObject("x", lambda: cloud.signed_url("x"), transport).fetch_tail(length)
        assert tail.start == max(0, len(content) - length)
        assert_same(tail.body, content[-length:])
        assert tail.version.size == len(content)
        cloud.faults.clear()


def test_a_cut_tail_is_resumed_by_plain_ranges(cloud: FakeCloud, transport: Transport) -> None:
    """X-13, X-20: A cut tail is resumed by plain ranges, also after a store refused the suffix
    range."""
    cloud.put_object("x", CONTENT)
    cloud.faults.add("no suffix", side="store", how=416)
    cloud.faults.add("short", side="store", skip=1, after_bytes=200_000)
    tail = StoreObject("x", lambda: cloud.signed_url("x"), transport).fetch_tail(900_000)
    assert_same(tail.body, CONTENT[-900_000:])
    ranges = [record.range for record in cloud.requests if record.side == "store"]
    assert ranges[:3] == ["bytes=-900000", "bytes=0-0", "bytes=600000-1499999"]
    assert len(ranges) == 4
