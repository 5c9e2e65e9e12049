"""A task's JSON record: read leniently, field by field."""

import json
from typing import Any

import pytest

from taskfs.errors import BadAnswer
from taskfs.model import Task
from taskfs.remote.task_json import is_directory_name, parse_task
from taskfs.support.formatting import format_elapsed, format_size

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
def test_a_field_of_the_wrong_type_is_a_missing_one(value: Any) -> None:
    """X-17: A field of the wrong type counts as missing."""
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
def test_times_that_are_none(time: str) -> None:
    """X-17: A time that is not ISO 8601 with an offset counts as missing."""
    assert parse(end_time=time).end_ns is None
    assert parse(end_time=time).last_change_ns == parse().start_ns


@pytest.mark.parametrize("number", [-1, 1e300, True, "7", None])
def test_numbers_that_are_none(number: Any) -> None:
    """T-4: Without a usable number `computation_time` is empty."""
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
    with pytest.raises(BadAnswer):
        parse_task(record)


def test_what_only_its_blanks_tell_apart_is_the_same() -> None:
    """A-11: Other white space in a record moves no mtime."""
    loose = json.dumps(WHOLE, indent=3).encode()
    tight = json.dumps(WHOLE, separators=(",", ":")).encode()
    assert parse_task(loose) == parse_task(tight) == parse()


def test_the_record_keeps_what_nobody_here_knows() -> None:
    """T-7: The record keeps fields that taskfs does not know."""
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


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "00:00:00"), (59.9, "00:00:59"), (192, "00:03:12"), (362_439, "100:40:39")],
)
def test_elapsed_times(seconds: float | None, shown: str) -> None:
    """T-4: Times are HH:MM:SS, and hours count on beyond 99."""
    assert format_elapsed(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (3120, "3.12 KB"), (262_000, "262.00 KB")],
)
def test_sizes(count: int, shown: str) -> None:
    """T-5: 1 KB is 1000 bytes."""
    assert format_size(count) == shown


def test_the_computation_counts_while_it_runs() -> None:
    """T-4: The computation time counts while it runs."""
    running = parse(metrics=None, is_terminated=False, end_time=None, computation_end_time=None)
    assert running.computation_start_ns is not None
    assert running.computation_elapsed(running.computation_start_ns + 5 * 10**9) == 5
    assert running.computation_elapsed(0) == 0
    assert parse(metrics=None).computation_elapsed(0) == 600
    assert parse(metrics=None, computation_start_time=None).computation_elapsed(0) is None
