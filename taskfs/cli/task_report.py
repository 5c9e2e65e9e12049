"""The report about one task that `taskfs info` prints.

The record is unvalidated JSON: a field that is missing, null or of an unexpected type is left out.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Final

from taskfs.cli.output import align
from taskfs.model import Task
from taskfs.support.formatting import (
    escape_controls,
    format_elapsed,
    format_local_time,
    format_money,
    format_size,
)

_DURATIONS: Final = (
    ("total_seconds", "Total"),
    ("input_upload_seconds", "Input upload"),
    ("queue_time_seconds", "Time in queue"),
    ("container_image_download_seconds", "Container image download"),
    ("input_download_seconds", "Input download"),
    ("input_decompression_seconds", "Input decompression"),
    ("computation_seconds", "Computation"),
    ("output_compression_seconds", "Output compression"),
    ("output_upload_seconds", "Output upload"),
)
_BYTES: Final = (
    ("input_size_bytes", "Input size"),
    ("input_zipped_size_bytes", "Input archive"),
    ("output_size_bytes", "Output size"),
    ("output_zipped_size_bytes", "Output archive"),
    ("container_image_size_bytes", "Container image"),
)


def report_lines(record: Mapping[str, Any], now_ns: int) -> Iterator[str]:
    """Yield the lines of the report: the task, its timeline, metrics and cost."""
    task = task_of(record)
    yield from _pairs(_heading(record, task, now_ns))
    for title, lines in (
        ("Timeline", list(_timeline(record, task, now_ns))),
        ("Times", list(_pairs(_metrics(record, _DURATIONS, lambda value: f"{value:.2f} s")))),
        ("Amounts", list(_pairs(_amounts(record)))),
        ("Cost", list(_pairs(_costs(record)))),
        ("Metadata", list(_pairs((task.metadata or {}).items()))),
    ):
        if lines:
            yield ""
            yield f"{title}:"
            yield from (f"  {line}" for line in lines)


def task_of(record: Mapping[str, Any]) -> Task:
    """Return the task of a record as the API sent it."""
    import msgspec

    from taskfs.remote.task_json import parse_task

    return parse_task(msgspec.json.encode(record))


def cost_line(task: Task) -> Iterator[str]:
    """Yield one line about the machine and the cost of a task, if they are known."""
    from taskfs.tasks.task_table import cost_of

    cost = cost_of(task)
    words = [f"machine {task.machine_type}"] if task.machine_type else []
    words += [f"cost {format_money(cost)} US$"] if cost is not None else []
    if words:
        line = ", ".join(words)
        yield escape_controls(line[:1].upper() + line[1:])


def _pairs(pairs: Iterable[tuple[str, Any]]) -> Iterator[str]:
    rows = [(f"{name}:", str(value)) for name, value in pairs if value not in ("", None)]
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    return align([[escape_controls(cell) for cell in row] for row in rows]) if rows else iter(())


def _heading(record: Mapping[str, Any], task: Task, now_ns: int) -> Iterator[tuple[str, Any]]:
    executer = _mapping(record.get("executer"))
    yield "Task", task.id
    yield "Status", task.status
    yield "Error", task.error_detail
    yield "Machine's error", task.executer_error
    yield "Simulator", task.simulator
    yield "Project", task.project
    yield "Machine", task.machine_type
    yield "Host", executer.get("host_type")
    yield "Machine's name", executer.get("vm_name")
    yield "Machine group", record.get("machine_group_name")
    yield "CPUs (logical)", executer.get("cpu_count_logical")
    yield "Container image", record.get("container_image")
    yield "Created", format_local_time(task.create_ns)
    yield "Submitted", format_local_time(task.input_submit_ns)
    yield "Started", format_local_time(task.start_ns)
    yield "Ended", format_local_time(task.end_ns)
    yield "Computation time", format_elapsed(task.computation_elapsed(now_ns))


def _timeline(record: Mapping[str, Any], task: Task, now_ns: int) -> Iterator[str]:
    rows = []
    for step in _list(record.get("status_history")):
        began, ended = _time(step.get("timestamp")), _time(step.get("end_timestamp"))
        word = str(step.get("status") or step.get("alias") or "")
        rows.append((_format_time(began), word, _duration(began, ended, task, now_ns)))
        for operation in _list(step.get("operations")):
            began = _time(operation.get("start_timestamp"))
            ended = _time(operation.get("end_timestamp"))
            attributes = _mapping(operation.get("attributes"))
            word = str(attributes.get("command") or operation.get("alias") or "")
            rows.append((_format_time(began), f"- {word}", _duration(began, ended, task, now_ns)))
    return _table(rows)


def _duration(began: datetime | None, ended: datetime | None, task: Task, now_ns: int) -> str:
    if began is None or (ended is None and task.is_terminated):
        return ""
    stop_s = ended.timestamp() if ended else now_ns / 1e9
    seconds = max(0.0, stop_s - began.timestamp())
    text = f"{seconds:.3f} s" if seconds < 60 else format_elapsed(seconds)
    return text if ended else f"{text} (ongoing)"


def _metrics(
    record: Mapping[str, Any], names: Iterable[tuple[str, str]], write: Callable[[Any], str]
) -> Iterator[tuple[str, str]]:
    metrics = _mapping(record.get("metrics"))
    for name, title in names:
        value = metrics.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield title, write(value)


def _amounts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _metrics(record, (("output_total_files", "Output files"),), lambda value: f"{value}")
    yield from _metrics(record, _BYTES, format_size)


def _costs(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the estimated computation cost, the fee if known, and their sum, in US dollars."""
    computation = record.get("estimated_computation_cost")
    fee = _mapping(record.get("orchestration_fee"))
    charged = fee.get("amount") if fee.get("charged") else 0
    if isinstance(computation, (int, float)):
        yield "Computation (estimate, US$)", format_money(computation)
    if fee and isinstance(charged, (int, float)):
        yield "Orchestration fee (US$)", format_money(charged)
        if isinstance(computation, (int, float)):
            yield "Together (US$)", format_money(computation + charged)


def _time(text: Any) -> datetime | None:
    """Return an ISO 8601 time, in UTC if it has no offset; None if *text* is none."""
    import msgspec

    try:
        moment = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _format_time(moment: datetime | None) -> str:
    return format_local_time(int(moment.timestamp() * 1e9)) if moment else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
