"""The tasks as a table of plain values, for CSV files and for sorting.

A new column is a new row of `FIELDS`.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

import msgspec

from taskfs.model import Task

Value = str | int | float | None


def cost_of(task: Task) -> float | None:
    """Return the estimated computation cost in US dollars, None if it is unknown."""
    return _number(_record(task).get("estimated_computation_cost"))


def _output_bytes(task: Task) -> int | None:
    metrics = _record(task).get("metrics")
    size = _number(metrics.get("output_size_bytes")) if isinstance(metrics, dict) else None
    return None if size is None else int(size)


def _time(time_ns: int | None) -> str | None:
    """Return a time in ISO 8601, UTC, to the second, as pandas and spreadsheets parse it."""
    if time_ns is None:
        return None
    return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# Column name: its value for a task at a time in nanoseconds. Names have units where values have.
FIELDS: Final[Mapping[str, Callable[[Task, int], Value]]] = {
    "id": lambda task, _: task.id,
    "status": lambda task, _: task.status,
    "simulator": lambda task, _: task.simulator,
    "project": lambda task, _: task.project,
    "machine": lambda task, _: task.machine_type or None,
    "created": lambda task, _: _time(task.create_ns),
    "submitted": lambda task, _: _time(task.input_submit_ns or task.create_ns),
    "started": lambda task, _: _time(task.start_ns),
    "ended": lambda task, _: _time(task.end_ns),
    "computation_seconds": lambda task, now_ns: task.computation_elapsed(now_ns),
    "cost_usd": lambda task, _: cost_of(task),
    "output_bytes": lambda task, _: _output_bytes(task),
    "changed": lambda task, _: _time(task.last_change_ns or None),
}


def to_csv(tasks: Iterable[Task], names: Sequence[str], now_ns: int) -> bytes:
    """Return a CSV text (RFC 4180, but with LF, UTF-8) of the columns *names*, with a header."""
    body = io.BytesIO()
    text = io.TextIOWrapper(body, "utf-8", "replace", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for task in tasks:
        values = (FIELDS[name](task, now_ns) for name in names)
        writer.writerow(["" if value is None else _plain(value) for value in values])
    text.flush()
    return body.getvalue()


def _plain(value: Value) -> Value:
    return round(value, 6) if isinstance(value, float) else value


def _record(task: Task) -> dict[str, Any]:
    record = msgspec.json.decode(task.record)
    return record if isinstance(record, dict) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
