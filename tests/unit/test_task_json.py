"""`parse_task`: a task's JSON record is parsed leniently, field by field."""

import json
from typing import Any

import pytest

from taskfs.errors import BadResponse
from taskfs.model import Task
from taskfs.remote.task_json import is_directory_name, parse_task

WHOLE: dict[str, Any] = {
    "task_id": "i4ir3kvv62odsfrhko4y8w2an",
    "status": "success",
    "is_terminated": True,
    "simulator": "reef3d",
    "project": "default",
    "storage_input_path": "i4/input.zip",
    "storage_output_path": "i4/output.zip",
    "storage_region": "europe-west1",
    "create_time": "2025-06-11T10:00:00.123456+02:00",
    "input_submit_time": "2025-06-11T08:00:02+00:00",
    "start_time": "2025-06-11T08:00:03Z",
    "computation_start_time": "2025-06-11T08:00:04",
    "computation_end_time": "2025-06-11T08:10:04Z",
    "end_time": "2025-06-11T08:10:05Z",
    "metrics": {
        "computation_seconds": 600.5,
        "output_total_files": 3,
        "output_zipped_size_bytes": 12345,
    },
    "executer": {"vm_type": "projects/p/machineTypes/c2-standard-4", "error_detail": "low disk"},
    "error_detail": "oh",
    "task_metadata": {"a": "b"},
}


def parse(**changes: Any) -> Task:
    return parse_task(json.dumps(WHOLE | changes).encode())


def test_a_whole_record() -> None:
    """T-7: All fields of a record are read."""
    task = parse()
    second = 10**9
    start = 1_749_628_800 * second
    assert task.id == WHOLE["task_id"]
    assert (task.status, task.is_terminated) == ("success", True)
    assert (task.simulator, task.project, task.region) == ("reef3d", "default", "europe-west1")
    assert task.machine_type == "c2-standard-4"
    assert task.create_ns == start + 123_456_000
    assert task.input_submit_ns == start + 2 * second
    assert task.start_ns == start + 3 * second
    assert task.computation_start_ns == start + 4 * second  # without an offset: UTC
    assert task.end_ns == start + 605 * second
    assert (task.computation_seconds, task.output_files) == (600.5, 3)
    assert task.output_zipped_bytes == 12345
    assert (task.error_detail, task.executer_error) == ("oh", "low disk")
    assert (task.input_path, task.output_path) == ("i4/input.zip", "i4/output.zip")
    assert task.metadata == {"a": "b"}
    assert json.loads(task.record) == WHOLE


@pytest.mark.parametrize("value", [None, 7, [], {}, True, [{}]])
def test_a_field_of_the_wrong_type_counts_as_missing(value: Any) -> None:
    """X-17: Each field may be null, and one bad field breaks nothing."""
    task = parse(**{name: value for name in WHOLE if name not in ("task_id", "is_terminated")})
    assert task.status == task.machine_type == task.error_detail == task.executer_error == ""
    assert task.simulator is task.project is task.output_path is task.region is None
    assert task.create_ns is task.end_ns is task.computation_seconds is None
    assert task.metadata == {}
    assert task.is_terminated
    assert parse(is_terminated=value).is_terminated == (value is True)


@pytest.mark.parametrize(
    "time", ["", "soon", "2025-13-01T00:00:00Z", "2025-06-11", "99999-01-01T00:00:00Z"]
)
def test_unusable_times(time: str) -> None:
    """Times are ISO 8601 with an offset, or null."""
    assert parse(end_time=time).end_ns is None
    assert parse(end_time=time).last_change_ns == parse().start_ns


@pytest.mark.parametrize("number", [-1, 1e300, True, "7", None])
def test_unusable_numbers(number: Any) -> None:
    """T-4, X-17: `computation_time` is empty where the record has no usable number."""
    assert parse(metrics={"computation_seconds": number}).computation_seconds is None


@pytest.mark.parametrize(
    "record",
    [
        *(b"", b"[]", b"null", b"{", b'{"task_id": 3}', b'{"task_id": ""}', b"\xff"),
        *(b'{"task_id": ".."}', b'{"task_id": ".x"}', b'{"task_id": "a/b"}', b"{}"),
        *(b'{"task_id": "a\\u0000b"}', b'{"task_id": "%s"}' % (b"x" * 256)),
    ],
)
def test_a_record_without_a_usable_id_is_refused(record: bytes) -> None:
    """N-20: A record whose id cannot be a directory's name is refused."""
    with pytest.raises(BadResponse):
        parse_task(record)


def test_whitespace_does_not_change_a_task() -> None:
    """A-11: The spacing of a record moves no mtime."""
    loose = json.dumps(WHOLE, indent=3).encode()
    tight = json.dumps(WHOLE, separators=(",", ":")).encode()
    assert parse_task(loose) == parse_task(tight) == parse()


def test_the_record_keeps_unknown_fields() -> None:
    """T-7: `info.json` keeps fields that taskfs does not know."""
    record = b'{"task_id":"t","new":1.50,"huge":123456789012345678901234567890,"e":"\\u00e9 x"}'
    assert parse_task(record).record == record


@pytest.mark.parametrize(
    ("vm_type", "shown"),
    [("c2-standard-4", "c2-standard-4"), ("a/b/n2", "n2"), ("a/b/", "b"), ("", ""), ("/", "")],
)
def test_machine_types(vm_type: str, shown: str) -> None:
    """T-3: The machine type is the last part of `executer.vm_type`."""
    assert parse(executer={"vm_type": vm_type}).machine_type == shown


def test_directory_names() -> None:
    """N-1: A task's directory is one component and not hidden."""
    assert all(map(is_directory_name, ("a", "ä" * 127, "a.b", "-x", " ")))
    assert not any(map(is_directory_name, ("", ".", "..", ".a", "a/b", "a\0", "ä" * 128)))


def test_the_computation_time_of_a_running_task() -> None:
    """T-4: `computation_time` counts while the computation runs, and is empty before."""
    running = parse(metrics=None, is_terminated=False, end_time=None, computation_end_time=None)
    assert running.computation_start_ns is not None
    assert running.computation_elapsed(running.computation_start_ns + 5 * 10**9) == 5
    assert running.computation_elapsed(0) == 0
    assert parse(metrics=None).computation_elapsed(0) == 600
    assert parse(metrics=None, computation_start_time=None).computation_elapsed(0) is None
