"""Parses a task's JSON record leniently, field by field.

A field of the wrong type counts as missing. The service adds fields and statuses over time, so
unknown ones are no errors.
"""

import json
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

from taskfs.errors import BadResponse
from taskfs.model import Task

# The exceptions of JSON parsers for invalid JSON, or for JSON that is nested too deeply.
NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def parse_task(record: bytes) -> Task:
    """Parse a task's JSON *record*; raise BadResponse if it has no usable id."""
    try:
        try:
            fields = msgspec.json.decode(record)
        except NOT_JSON:
            record = mend_json(record)
            fields = msgspec.json.decode(record)
    except NOT_JSON as exc:
        raise BadResponse(f"a task's record is not JSON: {exc}") from exc
    task_id = _text(fields, "task_id") if isinstance(fields, dict) else ""
    if not is_directory_name(task_id):
        raise BadResponse(f"a task's record has no usable task_id: {task_id[:80]!r}")
    metrics, executer = _object(fields, "metrics"), _object(fields, "executer")
    metadata = _object(fields, "task_metadata")
    return Task(
        id=task_id,
        status=_text(fields, "status"),
        is_terminated=fields.get("is_terminated") is True,
        simulator=_text(fields, "simulator") or None,
        project=_text(fields, "project") or None,
        machine_type=_text(executer, "vm_type").rstrip("/").rsplit("/", 1)[-1],
        create_ns=_time_ns(fields, "create_time"),
        input_submit_ns=_time_ns(fields, "input_submit_time"),
        start_ns=_time_ns(fields, "start_time"),
        computation_start_ns=_time_ns(fields, "computation_start_time"),
        computation_end_ns=_time_ns(fields, "computation_end_time"),
        end_ns=_time_ns(fields, "end_time"),
        computation_seconds=_number(metrics, "computation_seconds"),
        output_files=_count(metrics, "output_total_files"),
        output_zipped_bytes=_count(metrics, "output_zipped_size_bytes"),
        error_detail=_text(fields, "error_detail"),
        executer_error=_text(executer, "error_detail"),
        output_path=_text(fields, "storage_output_path") or None,
        input_path=_text(fields, "storage_input_path") or None,
        region=_text(fields, "storage_region") or None,
        metadata={k: v for k, v in metadata.items() if isinstance(v, str)},
        # Without whitespace, because it may differ between a listing and a single record, and an
        # unchanged task must compare equal.
        record=msgspec.json.format(record, indent=-1),
    )


def mend_json(content: bytes | bytearray) -> bytes:
    """Return *content* as strict JSON.

    Incomplete characters become `?`; NaN and numbers beyond floats become null.
    One text that was cut within a character must not make the whole response unusable. Raises one
    of `NOT_JSON` if *content* is not JSON.
    """
    lenient = json.loads(
        content.decode("utf-8", "replace"),
        parse_constant=lambda _: None,
        parse_float=lambda text: None if math.isinf(float(text)) else float(text),
    )
    return json.dumps(lenient, ensure_ascii=False).encode("utf-8", "replace")


def is_directory_name(name: str) -> bool:
    """Whether *name* can be a directory's name: one component, not hidden, at most 255 bytes."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        return False
    return len(name.encode("utf-8", "surrogateescape")) <= 255


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and value is not None and 0 <= value < 1e12 else None


def _count(fields: Mapping[str, Any], name: str) -> int | None:
    number = _number(fields, name)
    return None if number is None else int(number)


def _time_ns(fields: Mapping[str, Any], name: str) -> int | None:
    """Return an ISO 8601 time in nanoseconds since the epoch; a time without an offset is UTC."""
    text = _text(fields, name)
    if not text:
        return None
    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return _to_ns(moment)


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


def _to_ns(moment: datetime) -> int:
    # Integers, because a float of seconds since the epoch loses microseconds.
    elapsed = moment - _EPOCH
    return ((elapsed.days * 86400 + elapsed.seconds) * 10**6 + elapsed.microseconds) * 1000
