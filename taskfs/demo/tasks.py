"""One task of the embedded cloud: its dated statuses, and its JSON in the API.

The fields are those of the public client's models `Task` and `TaskWithStatusHistory` (0.18.12).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final, NamedTuple

from taskfs.demo.archives import BuiltArchive
from taskfs.demo.results import SIMULATORS

STATUSES: Final = {
    # status: (alias, description)
    "pending-input": ("Pending Input", "The task is waiting for its input files."),
    "submitted": ("Submitted", "The task waits in the queue for a machine."),
    "started": ("Started", "A machine took the task and prepares it."),
    "computation-started": ("In Progress", "The simulation is running."),
    "computation-ended": ("Finalizing", "The outputs are being uploaded."),
    "pending-kill": ("Pending Kill", "The task is about to be killed."),
    "spot-instance-preempted": ("Spot Reclaimed", "The machine was taken back; it will resubmit."),
    "success": ("Success", "The task completed."),
    "failed": ("Failed", "The simulation ended with an error."),
    "killed": ("Killed", "The task was killed by its owner."),
    "zombie": ("Zombie", "The task no longer answers."),
    "executer-failed": ("Executer Failed", "The machine had an error."),
    "executer-terminated": ("Executer Terminated", "The machine was terminated."),
    "executer-terminated-by-user": ("Executer Terminated", "The machine was stopped by its owner."),
    "executer-terminated-ttl-exceeded": ("Executer Terminated", "The machine's time was up."),
    "executer-terminated-credits-exhausted": ("Executer Terminated", "There are no credits left."),
    "ttl-exceeded": ("TTL Exceeded", "The task ran longer than it was allowed to."),
}
ACTIVE: Final = (*STATUSES,)[:7]
TERMINAL: Final = frozenset((*STATUSES,)[7:])
# The statuses of a task that succeeds, in order, before the terminal one.
STEPS: Final = ACTIVE[:5]


class Event(NamedTuple):
    """A status and the Unix time at which it begins."""

    time: float
    status: str


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type: memory in GB, price in US$ per hour."""

    name: str
    cpus: int
    memory_gb: int
    price: float


MACHINE_TYPES: Final = {
    machine.name: machine
    for machine in (
        MachineType("c2-standard-4", 4, 16, 0.2088),
        MachineType("c3d-highcpu-16", 16, 32, 0.5990),
        MachineType("n2-standard-8", 8, 32, 0.3885),
    )
}


@dataclass(slots=True, eq=False)
class CloudTask:
    """A task with its past *events* and its *planned* ones. The account's lock guards it.

    *overrides* are fields of the JSON that a test has set.
    """

    id: str
    simulator: str
    project: str
    machine: MachineType
    events: list[Event]
    planned: list[Event] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    error: tuple[str | None, str | None] = (None, None)  # the task's, the executer's
    overrides: dict[str, Any] = field(default_factory=dict)
    _json: bytes | None = None

    @property
    def status(self) -> str:
        return str(self.overrides.get("status", self.events[-1].status))

    @property
    def is_terminated(self) -> bool:
        return bool(self.overrides.get("is_terminated", self.status in TERMINAL))

    @property
    def created(self) -> float:
        text = self.overrides.get("create_time")
        # Before Python 3.11, fromisoformat knows no Z.
        text = text and text.replace("Z", "+00:00")
        return datetime.fromisoformat(text).timestamp() if text else self.events[0].time

    @property
    def output_path(self) -> str | None:
        return self._path("storage_output_path", "output.zip")

    @property
    def input_path(self) -> str | None:
        return self._path("storage_input_path", "input.zip")

    def time_of(self, status: str) -> float | None:
        """Return the Unix time at which *status* last began, or None."""
        times = [event.time for event in self.events if event.status == status]
        return times[-1] if times else None

    def _time_after(self, start: float | None, status: str) -> float | None:
        time = self.time_of(status)
        return None if start is None or time is None or time < start else time

    def invalidate(self) -> None:
        self._json = None

    def json(self, outputs: Callable[[CloudTask], BuiltArchive | None]) -> bytes:
        """Return the encoded JSON object of a listing; cached until the task changes."""
        if self._json is None:
            self._json = json.dumps(self.record(outputs(self))).encode()
        return self._json

    def record(self, archive: BuiltArchive | None) -> dict[str, Any]:
        """Return the fields of the API's `Task`; the metrics describe *archive*, the outputs."""
        status, terminated = self.status, self.is_terminated
        alias = STATUSES.get(status, (status.replace("-", " ").title(), ""))[0]
        submitted = self.time_of("submitted")
        # Times before a resubmission do not count.
        started = self._time_after(submitted, "started")
        computing = self._time_after(started, "computation-started")
        has_machine = started or self.overrides.get("executer")
        end = self.events[-1].time if terminated else None
        # A task that is killed or lost while computing has computed until then.
        computed = self._time_after(computing, "computation-ended") or (computing and end)
        seconds = round(computed - computing, 3) if computed and computing else None
        total = round(end - self.created, 3) if end else None
        errors = self.error if terminated else (None, None)
        metrics: dict[str, Any] = {
            "total_seconds": total,
            "container_image_download_seconds": 2.5 if computing else None,
            "container_image_size_bytes": 412_000_000 if computing else None,
            "queue_time_seconds": round(started - submitted, 3) if started and submitted else None,
            "computation_seconds": seconds,
            "input_upload_seconds": 0.5 if submitted else None,
            "input_download_seconds": 0.25 if computing else None,
            "input_decompression_seconds": 0.05 if computing else None,
            "output_upload_seconds": 1.5 if archive else None,
            "input_zipped_size_bytes": None,
            "input_size_bytes": None,
            "output_total_files": archive.total_files if archive else None,
            "output_size_bytes": archive.total_size if archive else None,
            "output_zipped_size_bytes": archive.source.size if archive else None,
            "output_compression_seconds": 0.1 if archive else None,
        }
        cost = None if seconds is None else round(seconds / 3600 * self.machine.price, 6)
        simulator = SIMULATORS.get(self.simulator)
        record: dict[str, Any] = {
            "task_id": self.id,
            "status": status,
            "status_alias": alias,
            "simulator": self.simulator,
            "storage_path": f"{self.id}/",
            "storage_input_path": self.input_path,
            "storage_output_path": self.output_path,
            "storage_region": "europe-west1",
            "container_image": simulator.image if simulator else None,
            "project": self.project,
            "is_terminated": terminated,
            "create_time": iso(self.created),
            "input_submit_time": iso(submitted),
            "start_time": iso(started),
            "computation_start_time": iso(computing),
            "computation_end_time": iso(computed),
            "end_time": iso(end),
            "estimated_computation_cost": cost,
            "metrics": metrics,
            "executer": self._executer(errors[1]) if has_machine else None,
            "machine_group_name": f"group-{self.machine.name}",
            "machine_group_id": f"mg-{self.project}",
            "error_detail": errors[0],
            "input_resources": [],
            "stream_zip": True,
            "num_retries": sum(e.status == "spot-instance-preempted" for e in self.events),
            "compress_with": "SEVEN_Z",
            "task_metadata": dict(self.metadata),
            "extra_params": {},
            "resubmit_on_preemption": True,
            "duration_seconds": total,
            "orchestration_fee": {"amount": 0.01, "charged": terminated, "currency": "USD"},
        }
        return record | _merge_overrides(record, self.overrides)

    def history(self) -> dict[str, Any]:
        """Return the fields that only the request for a single task contains: its timeline."""
        ends = [iso(event.time) for event in self.events[1:]] + [None]
        spans = list(zip(self.events, ends, strict=True))
        return {
            "status_history": [self._span(event, end) for event, end in spans],
            "machine_operations": [],
            "steps": [
                {"type": event.status, "start_timestamp": iso(event.time), "duration": None}
                for event in self.events
            ],
        }

    def _span(self, event: Event, end: str | None) -> dict[str, Any]:
        alias, description = STATUSES.get(event.status, (event.status, ""))
        operations = []
        if event.status == "computation-started" and self.simulator in SIMULATORS:
            operations.append(
                {
                    "name": "exec_command",
                    "alias": "Command",
                    "start_timestamp": iso(event.time),
                    "end_timestamp": end,
                    "status": "OK" if end else "RUNNING",
                    "attributes": {"command": SIMULATORS[self.simulator].command},
                }
            )
        return {
            "machine_id": self._machine_id() if event.status in STEPS[2:] else None,
            "status": event.status,
            "timestamp": iso(event.time),
            "end_timestamp": end,
            "description": description,
            "alias": alias,
            "operations": operations,
        }

    def _executer(self, error: str | None) -> dict[str, Any]:
        machine = self.machine
        kind = f"projects/demo/zones/europe-west1-b/machineTypes/{machine.name}"
        return {
            "uuid": self._machine_id(),
            "cpu_count_logical": machine.cpus,
            "cpu_count_physical": machine.cpus // 2,
            "memory": machine.memory_gb * 10**9,
            "n_mpi_hosts": 1,
            "vm_type": kind,
            "vm_name": f"vm-{self.id[:8]}",
            "host_type": "GCP",
            "error_detail": error,
        }

    def _machine_id(self) -> str:
        return f"machine-{self.id[:12]}"

    def _path(self, name: str, file: str) -> str | None:
        default = f"{self.id}/{file}" if self.time_of("submitted") else None
        path = self.overrides.get(name, default)
        return None if path is None else str(path)


def iso(time: float | None) -> str | None:
    """Return a Unix time in ISO 8601, in UTC with its offset."""
    if time is None:
        return None
    return datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="microseconds")


def _merge_overrides(record: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return *overrides*, with objects merged into those of *record*."""
    return {
        name: {**record[name], **value}
        if isinstance(value, dict) and isinstance(record.get(name), dict)
        else value
        for name, value in overrides.items()
    }
