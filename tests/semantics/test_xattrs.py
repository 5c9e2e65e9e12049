"""Extended attributes of members, and a task's metadata as such."""

import errno
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import in_process
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, text
from tests.mounts import eventually
from tests.zips import BZIP2, DEFLATED, LZMA, STORED, Entry, build, pack

METADATA = "user.taskfs.metadata."
OTHERS = (
    *("security.capability", "security.selinux", "system.posix_acl_access", "user.mime_type"),
    *("user.taskfs.nope", "user.taskfs.metadata", "user.taskfs.", "trusted.x"),
)


def changes_of(cloud: FakeCloud, task: str) -> list[str]:
    """Return the methods of the requests that changed the task's metadata."""
    path = f"/tasks/{task}/metadata"
    return [r.method for r in cloud.requests if r.path == path and r.method != "GET"]


def errno_of(fs: FileSystem, kind: str, *arguments: object) -> int | None:
    with pytest.raises(OSError) as caught:
        getattr(fs, kind)(*arguments)
    return caught.value.errno


def test_members_have_three(fs: FileSystem) -> None:
    """A-16: Members have compressed_size, crc32 and compression."""
    task = fs.cloud.add_task()
    methods = {b"stored": STORED, b"deflate": DEFLATED, b"bzip2": BZIP2, b"lzma": LZMA}
    members = [
        Entry(b"artifacts/b/" + name, name * 1000, method) for name, method in methods.items()
    ]
    fs.cloud.put_object(f"{task}/output.zip", build(members))
    for member, method in zip(members, methods, strict=True):
        path = f"{task}/outputs/b/{method.decode()}"
        assert {name: fs.xattr(path, name) for name in fs.xattrs(path)} == {
            "user.taskfs.compressed_size": b"%d" % len(pack(member.body, member.method)),
            "user.taskfs.crc32": b"%08x" % zlib.crc32(member.body),
            "user.taskfs.compression": method,
        }
        for name in OTHERS:
            assert errno_of(fs, "xattr", path, name) == errno.ENODATA
        assert errno_of(fs, "set_xattr", path, "user.taskfs.crc32", b"0") == errno.EROFS
        assert errno_of(fs, "set_xattr", path, "user.x", b"0") == errno.EROFS
        assert errno_of(fs, "remove_xattr", path, "user.taskfs.crc32") == errno.EROFS
    for path in (f"{task}/outputs", f"{task}/outputs/b", f"{task}/status", ".taskfs", ""):
        assert fs.xattrs(path) == []
        assert errno_of(fs, "set_xattr", path, f"{METADATA}key", b"0") == errno.EROFS


def test_tasks_have_one_per_metadata_key(fs: FileSystem) -> None:
    """A-17: A task has one attribute per metadata key."""
    metadata = {"study": "dam break", "größe": "3 µm", "a.b/c d": "x\ny"}
    task = fs.cloud.add_task(task_metadata=metadata)
    assert {n: fs.xattr(task, n).decode() for n in fs.xattrs(task)} == {
        METADATA + key: value for key, value in metadata.items()
    }
    assert fs.xattrs(fs.cloud.add_task()) == []


def test_setting_one_updates_it_remotely(fs: FileSystem) -> None:
    """A-18: Setting an attribute updates it remotely, and an unchanged value sends nothing."""
    task = fs.cloud.add_task(status="started", task_metadata={"kept": "1", "study": "old"})
    fs.set_xattr(task, f"{METADATA}study", "größer".encode())
    fs.set_xattr(task, f"{METADATA}new key", b"value")
    assert changes_of(fs.cloud, task) == ["PATCH", "PATCH"]
    expected = {"kept": "1", "study": "größer", "new key": "value"}
    assert json.loads(text(fs, f"{task}/info.json"))["task_metadata"] == expected
    assert fs.xattr(task, f"{METADATA}study") == "größer".encode()
    assert set(fs.xattrs(task)) == {METADATA + key for key in expected}
    fs.set_xattr(task, f"{METADATA}study", "größer".encode())
    fs.set_xattr(task, f"{METADATA}kept", b"1")
    assert len(changes_of(fs.cloud, task)) == 2


def test_values_that_cannot_be_are_einval(fs: FileSystem) -> None:
    """A-19: An empty or non-UTF-8 value is EINVAL."""
    task = fs.cloud.add_task(task_metadata={"study": "old"})
    for value in (b"", b"\xff\xfe", b"caf\xe9"):
        assert errno_of(fs, "set_xattr", task, f"{METADATA}study", value) == errno.EINVAL
    assert fs.xattr(task, f"{METADATA}study") == b"old"
    assert changes_of(fs.cloud, task) == []


def test_keys_that_cannot_be(fs: FileSystem) -> None:
    """A-19: A key that cannot be one is EINVAL, and nothing is sent."""
    task = fs.cloud.add_task()
    name = f"{METADATA}caf\udce9"
    assert errno_of(fs, "set_xattr", task, name, b"value") == errno.EINVAL
    assert errno_of(fs, "xattr", task, name) == errno.ENODATA
    assert changes_of(fs.cloud, task) == []


def test_keys_too_long_for_a_name_are_left_out(fs: FileSystem) -> None:
    """A-17: Keys that do not fit xattr(7)'s 255 bytes are left out."""
    longest = "ä" * ((255 - len(METADATA)) // 2)
    task = fs.cloud.add_task(task_metadata={longest: "1", f"{longest}ä": "2", "k": "3"})
    assert {name: fs.xattr(task, name) for name in fs.xattrs(task)} == {
        METADATA + longest: b"1",
        f"{METADATA}k": b"3",
    }


def test_removing_one(fs: FileSystem) -> None:
    """A-18: `setfattr -x` removes the key."""
    task = fs.cloud.add_task(task_metadata={"study": "old", "kept": "1"})
    fs.remove_xattr(task, f"{METADATA}study")
    assert fs.xattrs(task) == [f"{METADATA}kept"]
    assert errno_of(fs, "xattr", task, f"{METADATA}study") == errno.ENODATA
    assert errno_of(fs, "remove_xattr", task, f"{METADATA}study") == errno.ENODATA
    assert changes_of(fs.cloud, task) == ["PUT"]


def test_create_and_replace(fs: FileSystem) -> None:
    """A-18: XATTR_CREATE and XATTR_REPLACE act as in setxattr(2)."""
    task = fs.cloud.add_task(task_metadata={"study": "old"})
    create, replace = os.XATTR_CREATE, os.XATTR_REPLACE
    assert errno_of(fs, "set_xattr", task, f"{METADATA}study", b"1", create) == errno.EEXIST
    assert errno_of(fs, "set_xattr", task, f"{METADATA}no", b"1", replace) == errno.ENODATA
    assert changes_of(fs.cloud, task) == []
    fs.set_xattr(task, f"{METADATA}study", b"new", replace)
    fs.set_xattr(task, f"{METADATA}no", b"new", create)
    assert changes_of(fs.cloud, task) == ["PATCH", "PATCH"]


def test_other_names_cannot_be_set(fs: FileSystem) -> None:
    """X-7: Setting any other attribute is EROFS."""
    task = fs.cloud.add_task()
    for name in ("user.comment", "user.taskfs.nope", METADATA, "user.taskfs.crc32"):
        assert errno_of(fs, "set_xattr", task, name, b"value") == errno.EROFS
        assert errno_of(fs, "remove_xattr", task, name) == errno.EROFS
    assert changes_of(fs.cloud, task) == []


def test_other_names_cost_no_request(tree: FileSystem, cloud: FakeCloud) -> None:
    """A-20: Other names are ENODATA without a request."""
    task = cloud.add_task(status="started", outputs={"a": b"x"})
    tree.names()
    cloud.clear_requests()
    for path in ("", task, f"{task}/status", f"{task}/kill", f"{task}/outputs", ".by-status"):
        for name in OTHERS:
            assert errno_of(tree, "xattr", path, name) == errno.ENODATA
    assert [r.path for r in cloud.requests] == []


def test_a_refused_change_says_so(fs: FileSystem) -> None:
    """A-18, X-2: A refused change is EACCES and not shown as made."""
    task = fs.cloud.add_task(task_metadata={"study": "old"})
    assert fs.xattr(task, f"{METADATA}study") == b"old"
    fs.cloud.faults.add("status", status=403, path=f"{task}/metadata", times=None)
    assert errno_of(fs, "set_xattr", task, f"{METADATA}study", b"new") == errno.EACCES
    assert errno_of(fs, "remove_xattr", task, f"{METADATA}study") == errno.EACCES
    assert fs.xattr(task, f"{METADATA}study") == b"old"


def test_a_record_in_flight_does_not_hide_a_change(tree: FileSystem, cloud: FakeCloud) -> None:
    """A-18: A response that the API made before a change does not show the task without it."""
    task = cloud.add_task()
    assert tree.xattrs(task) == []
    in_flight = cloud.faults.add("stall", acted=True, match=lambda r: r.path == f"/tasks/{task}")
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(tree.set_xattr, task, f"{METADATA}a", b"1")
        eventually(lambda: in_flight.hits == 1)
        second = threads.submit(tree.set_xattr, task, f"{METADATA}b", b"2")
        second.result(30)  # it requests the record itself
        cloud.faults.clear()
        first.result(30)
    assert tree.xattrs(task) == [f"{METADATA}a", f"{METADATA}b"]


def test_changes_made_elsewhere_show(fs: FileSystem) -> None:
    """F-5: A metadata change made elsewhere shows with the next listing."""
    task = fs.cloud.add_task(task_metadata={"study": "old"})
    assert fs.xattr(task, f"{METADATA}study") == b"old"
    fs.cloud.update_task(task, task_metadata={"study": "new"})
    eventually(lambda: fs.xattr(task, f"{METADATA}study") == b"new")


def test_metadata_of_another_shape_is_left_out(
    cloud: FakeCloud, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A-17: Metadata that is not text is left out."""
    odd = {"number": 3, "null": None, "nul\0": "x", "": "x", "text": "yes"}
    task = cloud.add_task()
    cloud.update_task(task, task_metadata=odd)
    with in_process(cloud, tmp_path_factory.mktemp("cache"), {}) as tree:
        assert tree.xattrs(task) == [f"{METADATA}text"]
        assert json.loads(text(tree, f"{task}/info.json"))["task_metadata"] == odd
