"""The state of the embedded cloud: its tasks, which change over time, projects and objects."""

from __future__ import annotations

import hashlib
import math
import string
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from taskfs.demo.archives import LAYOUTS, BuiltArchive, MemberSpec, Stamp, extended_stamp
from taskfs.demo.catalogue import (
    ACTIVE_AT_START,
    FINISHED,
    MAX_ARRIVALS,
    SECONDS_BETWEEN_ARRIVALS,
    Blueprint,
    arrival,
)
from taskfs.demo.machines.files import Run
from taskfs.demo.objects import LazyArchive, ObjectTable
from taskfs.demo.results import input_members, output_members, trajectory_members
from taskfs.demo.sources import ByteSource
from taskfs.demo.tasks import MACHINE_TYPES, STEPS, TERMINAL, CloudTask, Event

KILL_DURATION_S: Final = 3.0  # from the request of a kill to the status `killed`
# Seconds since the creation of a task that a test adds; its statuses are spread over them.
_ADDED_AGE_S: Final = 60.0
_ID_LETTERS: Final = string.ascii_lowercase + string.digits


class Account:
    """All tasks of one account. Each method first applies the status changes that are due.

    Safe for concurrent use: one lock is held while state is read or changed, also while the archive
    of a finished task is built for its metrics, but never across I/O.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.objects = ObjectTable(clock)
        self.killed: list[str] = []
        self._lock = threading.RLock()
        self._tasks: dict[str, CloudTask] = {}
        self._blueprints: dict[str, Blueprint] = {}
        self._projects: dict[str, float] = {}
        self._newest_first: list[CloudTask] | None = None
        self._active: dict[str, CloudTask] = {}  # the tasks with planned events
        self._arrivals: list[tuple[float, Blueprint]] = []
        self._next_due = math.inf
        self._id_count = 0

    def populate(self) -> None:
        """Create the first tasks, whose planned events count from now."""
        with self._lock:
            now = self._clock()
            for task_id, created, blueprint in FINISHED:
                self._create(task_id, created, blueprint)
            for blueprint in ACTIVE_AT_START:
                self._create(self._new_id(), now, blueprint)
            self._arrivals = [
                (now + (number + 1) * SECONDS_BETWEEN_ARRIVALS, arrival(number))
                for number in range(MAX_ARRIVALS)
            ]
            self._next_due = now
            self._advance()

    # For the API.

    def get(self, task_id: str) -> CloudTask | None:
        with self._lock:
            self._advance()
            return self._tasks.get(task_id)

    def newest_first(self) -> Sequence[CloudTask]:
        """Return all tasks, newest first; the list never changes afterwards."""
        with self._lock:
            self._advance()
            if self._newest_first is None:
                tasks = list(self._tasks.values())[::-1]  # at equal times, the later one first
                self._newest_first = sorted(tasks, key=lambda task: -task.created)
            return self._newest_first

    def record(self, task: CloudTask) -> dict[str, Any]:
        """Return the JSON object of a single task: with its status history."""
        with self._lock:
            return task.record(self._outputs(task)) | task.history()

    def json(self, tasks: Iterable[CloudTask]) -> list[bytes]:
        """Return the encoded JSON object of each task in a listing."""
        with self._lock:
            return [task.json(self._outputs) for task in tasks]

    def run_of(self, task: CloudTask) -> Run | None:
        """Return the computation of a task; None before its start and for a test's task."""
        with self._lock:
            blueprint = self._blueprints.get(task.id)
            begin = task.time_of("computation-started")
            if blueprint is None or begin is None:
                return None
            # The end as planned: a kill stops the writing of files but does not speed it up.
            offset = {status: offset for offset, status in blueprint.timeline}
            end = offset.get("computation-ended", blueprint.timeline[-1][0])
            length = end - offset["computation-started"]
            done = _computed_fraction(blueprint.timeline[-1][1])
            return Run(task.id, task.simulator, begin, begin + length, done)

    def tasks_ahead(self, task: CloudTask) -> int | None:
        """Return the number of tasks queued before *task*, or None if it is not queued."""
        with self._lock:
            if task.status != "submitted":
                return None
            since = task.events[-1].time
            waiting = [t.events[-1].time for t in self._tasks.values() if t.status == "submitted"]
            return sum(other < since for other in waiting)

    def kill(self, task: CloudTask) -> bool:
        """Accept a kill request; return False if the task is terminated already."""
        with self._lock:
            self._advance()
            if task.is_terminated:
                return False
            self.killed.append(task.id)
            if task.status != "pending-kill":
                now = self._clock()
                self._apply(task, [Event(now, "pending-kill")])
                self._plan(task, [Event(now + KILL_DURATION_S, "killed")])
            return True

    def set_metadata(self, task: CloudTask, metadata: Mapping[str, str], *, replace: bool) -> None:
        with self._lock:
            task.metadata = {**({} if replace else task.metadata), **metadata}
            task.invalidate()

    def projects(self) -> dict[str, tuple[float, list[CloudTask]]]:
        """Return the creation time (Unix seconds) and the tasks of each project."""
        with self._lock:
            found: dict[str, tuple[float, list[CloudTask]]] = {}
            for name, created in self._projects.items():
                found[name] = created, []
            for task in reversed(self.newest_first()):
                found.setdefault(task.project, (task.created, []))[1].append(task)
            return found

    def add_to_project(self, name: str, task: CloudTask | None = None) -> None:
        """Create the project *name* if it does not exist; move *task* into it."""
        with self._lock:
            self._projects.setdefault(name, self._clock())
            if task is not None:
                task.project = name
                task.invalidate()

    # For tests.

    def add_task(
        self,
        task_id: str | None = None,
        *,
        status: str = "success",
        simulator: str = "splishsplash",
        project: str = "default",
        machine: str = "c2-standard-4",
        outputs: Mapping[str, bytes] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        layout: str = "streamed",
        **fields: Any,
    ) -> str:
        """Add a task, created a minute ago, that stays in *status*; return its id.

        *outputs* and *inputs* map names to contents. They become the files beneath `artifacts/`
        and `sim_dir/` of archives in the given *layout*; without them the task has no archive.
        Other *fields* override fields of the API's JSON; an object is merged into the original.
        """
        with self._lock:
            now = self._clock()
            task_id = task_id or self._new_id()
            statuses = _statuses_until(status)
            interval = _ADDED_AGE_S / max(1, len(statuses) - 1)
            start = now - _ADDED_AGE_S
            events = [Event(start + interval * n, passed) for n, passed in enumerate(statuses)]
            metadata = dict(fields.pop("task_metadata", None) or {})
            kind = MACHINE_TYPES.get(machine) or replace(
                MACHINE_TYPES["c2-standard-4"], name=machine
            )
            task = CloudTask(task_id, simulator, project, kind, events, metadata=metadata)
            task.overrides = fields
            self._tasks[task_id] = task
            self._newest_first = None
            for path, top, files in (
                (task.output_path, "artifacts/", outputs),
                (task.input_path, "sim_dir/", inputs),
            ):
                if path is not None and files is not None:
                    members = [MemberSpec(top + name, text, now) for name, text in files.items()]
                    build = partial(_archive, members, layout, extended_stamp, top)
                    self.objects.put_lazily(path, LazyArchive(build, now))
            return task_id

    def set_status(self, task_id: str, status: str) -> None:
        """Begin *status* now, and any status before it that is missing; cancel planned events.

        Raises:
            KeyError: there is no such task.
        """
        with self._lock:
            self._advance()
            task, now = self._tasks[task_id], self._clock()
            missing = [step for step in _statuses_until(status)[:-1] if task.time_of(step) is None]
            self._plan(task, [])
            self._apply(task, [Event(now, step) for step in (*missing, status)])

    def update_task(self, task_id: str, **fields: Any) -> None:
        """Override *fields* of the task's JSON, as in `add_task`."""
        with self._lock:
            task = self._tasks[task_id]
            task.overrides |= fields
            task.invalidate()
            self._newest_first = None

    def remove_task(self, task_id: str) -> None:
        with self._lock:
            task = self._tasks.pop(task_id)
            self._active.pop(task_id, None)
            self._newest_first = None
            for path in (task.output_path, task.input_path):
                if path is not None:
                    self.objects.remove(path)

    def put_object(self, path: str, content: bytes | ByteSource) -> str:
        """Store an object, or a new version of it; return its ETag."""
        with self._lock:
            self._drop_cached_json(path)
            return self.objects.put(path, content).etag

    def remove_object(self, path: str) -> None:
        with self._lock:
            self._drop_cached_json(path)
            self.objects.remove(path)

    def _drop_cached_json(self, path: str) -> None:
        if task := self._tasks.get(path.partition("/")[0]):
            task.invalidate()

    # The passing of time.

    def _advance(self) -> None:
        now = self._clock()
        if now < self._next_due:
            return
        while self._arrivals and self._arrivals[0][0] <= now:
            created, blueprint = self._arrivals.pop(0)
            self._create(self._new_id(), created, blueprint)
        for task in list(self._active.values()):
            due = [event for event in task.planned if event.time <= now]
            if due:
                self._plan(task, task.planned[len(due) :])
                self._apply(task, due)
        pending = [task.planned[0].time for task in self._active.values()]
        self._next_due = min(
            [*pending, *(created for created, _ in self._arrivals[:1])], default=math.inf
        )

    def _create(self, task_id: str, base: float, blueprint: Blueprint) -> None:
        """Add a task with its whole timeline planned; the next `_advance` applies what is due."""
        first, *planned = (Event(base + offset, status) for offset, status in blueprint.timeline)
        task = CloudTask(
            task_id,
            blueprint.simulator,
            blueprint.project,
            MACHINE_TYPES[blueprint.machine],
            [first],
            metadata=dict(blueprint.metadata),
            error=blueprint.error,
        )
        self._tasks[task_id] = task
        self._blueprints[task_id] = blueprint
        self._newest_first = None
        self._plan(task, planned)

    def _plan(self, task: CloudTask, events: list[Event]) -> None:
        task.planned = events
        self._active.pop(task.id, None)
        if events:
            self._active[task.id] = task
            self._next_due = min(self._next_due, events[0].time)

    def _apply(self, task: CloudTask, events: Sequence[Event]) -> None:
        """Apply *events*, and create the archives that they complete."""
        task.events += events
        task.invalidate()
        blueprint = self._blueprints.get(task.id)
        for event in events if blueprint else ():
            # The inputs are uploaded once, even if the task is submitted again.
            if event.status == "submitted" and task.input_path not in self.objects:
                members = input_members(task.id, task.simulator, event.time)
                build = partial(_archive, members, "plain", extended_stamp, "sim_dir/")
                self.objects.put_lazily(str(task.input_path), LazyArchive(build, event.time))
            computing = task.time_of("computation-started")
            if blueprint and event.status in TERMINAL and blueprint.layout and computing:
                build = partial(_outputs, task.id, blueprint, event, computing)
                self.objects.put_lazily(str(task.output_path), LazyArchive(build, event.time))

    def _outputs(self, task: CloudTask) -> BuiltArchive | None:
        path = task.output_path
        return self.objects.archive(path) if path and task.is_terminated else None

    def _new_id(self) -> str:
        """Return an id in the service's format, different after each start of the cloud."""
        self._id_count += 1
        digest = hashlib.sha256(f"{self._clock()}:{self._id_count}".encode()).digest()
        return "".join(_ID_LETTERS[byte % len(_ID_LETTERS)] for byte in digest[:25])


def _statuses_until(status: str) -> tuple[str, ...]:
    """Return the statuses that a task passes through up to *status*, inclusive."""
    if status in STEPS:
        return STEPS[: STEPS.index(status) + 1]
    if status == "killed":
        return (*STEPS[:4], "pending-kill", "killed")
    return (*STEPS, status) if status in TERMINAL else (*STEPS[:4], status)


def _outputs(task_id: str, blueprint: Blueprint, end: Event, computing: float) -> BuiltArchive:
    done = _computed_fraction(end.status)
    members = output_members(task_id, blueprint.simulator, computing, end.time, done=done)
    if blueprint.large:
        members[-2:-2] = trajectory_members(end.time)
    return _archive(members, str(blueprint.layout), blueprint.stamp, "artifacts/")


def _computed_fraction(status: str) -> float:
    """Return the fraction of the simulation that is computed when a task ends in *status*."""
    return 1.0 if status == "success" else 0.4


def _archive(
    members: Sequence[MemberSpec],
    layout: str,
    stamp: Stamp,
    top: str,
) -> BuiltArchive:
    source = LAYOUTS[layout](members, stamp)
    files = [m for m in members if m.name.startswith(top) and not m.name.endswith("/")]
    return BuiltArchive(source, len(files), sum(member.size for member in files))
