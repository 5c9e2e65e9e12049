"""The state of the embedded cloud: tasks that live in time, their projects and their objects."""

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
    FINISHED,
    LIVING_AT_START,
    MAX_ARRIVALS,
    SECONDS_BETWEEN_ARRIVALS,
    Blueprint,
    arrival,
)
from taskfs.demo.objects import LazyArchive, ObjectTable
from taskfs.demo.results import input_members, output_members, trajectory_members
from taskfs.demo.sources import ByteSource
from taskfs.demo.tasks import MACHINES, STEPS, TERMINAL, CloudTask, Event

KILL_SECONDS: Final = 3.0
_ADDED_AGE_SECONDS: Final = 60.0
_ID_LETTERS: Final = string.ascii_lowercase + string.digits


class Account:
    """All tasks of one account. What is asked for is as of the clock's present.

    Safe for concurrent use: one lock, held while state is read or changed, and while the archive
    of a task that just finished is built for its metrics (some 20 ms); never across I/O.
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
        self._living: dict[str, CloudTask] = {}  # those with something planned
        self._arrivals: list[tuple[float, Blueprint]] = []
        self._next_due = math.inf
        self._ids_made = 0

    def populate(self) -> None:
        """Fill the account with its first tasks, which live from now on."""
        with self._lock:
            now = self._clock()
            for task_id, created, blueprint in FINISHED:
                self._admit(task_id, created, blueprint)
            for blueprint in LIVING_AT_START:
                self._admit(self._new_id(), now, blueprint)
            self._arrivals = [
                (now + (number + 1) * SECONDS_BETWEEN_ARRIVALS, arrival(number))
                for number in range(MAX_ARRIVALS)
            ]
            self._next_due = now
            self._advance()

    # What the API asks for.

    def get(self, task_id: str) -> CloudTask | None:
        with self._lock:
            self._advance()
            return self._tasks.get(task_id)

    def newest_first(self) -> Sequence[CloudTask]:
        """Return all tasks; what is returned is not changed later."""
        with self._lock:
            self._advance()
            if self._newest_first is None:
                tasks = list(self._tasks.values())[::-1]  # of two with one time, the later added
                self._newest_first = sorted(tasks, key=lambda task: -task.created)
            return self._newest_first

    def record(self, task: CloudTask) -> dict[str, Any]:
        """Return one task as the API tells it when asked for that one."""
        with self._lock:
            return task.record(self._outputs(task)) | task.history()

    def json(self, tasks: Iterable[CloudTask]) -> list[bytes]:
        """Return the JSON of each task as a listing gives it."""
        with self._lock:
            return [task.json(self._outputs) for task in tasks]

    def tasks_ahead(self, task: CloudTask) -> int | None:
        """Return how many wait before *task*, or None where it waits for no machine."""
        with self._lock:
            if task.status != "submitted":
                return None
            since = task.events[-1].time
            waiting = [t.events[-1].time for t in self._tasks.values() if t.status == "submitted"]
            return sum(other < since for other in waiting)

    def kill(self, task: CloudTask) -> bool:
        """Accept a kill request, unless the task is over; return whether it was accepted."""
        with self._lock:
            self._advance()
            if task.is_terminated:
                return False
            self.killed.append(task.id)
            if task.status != "pending-kill":
                now = self._clock()
                self._happen(task, [Event(now, "pending-kill")])
                self._plan(task, [Event(now + KILL_SECONDS, "killed")])
            return True

    def set_metadata(self, task: CloudTask, metadata: Mapping[str, str], *, replace: bool) -> None:
        with self._lock:
            task.metadata = {**({} if replace else task.metadata), **metadata}
            task.changed()

    def projects(self) -> dict[str, tuple[float, list[CloudTask]]]:
        """Return for each project since when it is (Unix seconds), and its tasks."""
        with self._lock:
            found: dict[str, tuple[float, list[CloudTask]]] = {}
            for name, born in self._projects.items():
                found[name] = born, []
            for task in reversed(self.newest_first()):
                found.setdefault(task.project, (task.created, []))[1].append(task)
            return found

    def add_to_project(self, name: str, task: CloudTask | None = None) -> None:
        """Make a project where there is none of that *name*, and move *task* into it."""
        with self._lock:
            self._projects.setdefault(name, self._clock())
            if task is not None:
                task.project = name
                task.changed()

    # What tests change.

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
        """Add a task that stays in *status*; return its id, made up unless given.

        It was created a minute ago. *outputs* and *inputs* are files by name, which end up under
        `artifacts/` and `sim_dir/` of archives in the *layout* named; without them the task has
        none. Any other field of the API's JSON may be given, and says what it is given as (an
        object completes the usual one).
        """
        with self._lock:
            now = self._clock()
            task_id = task_id or self._new_id()
            way = _way_to(status)
            pace = _ADDED_AGE_SECONDS / max(1, len(way) - 1)
            start = now - _ADDED_AGE_SECONDS
            events = [Event(start + pace * index, step) for index, step in enumerate(way)]
            metadata = dict(fields.pop("task_metadata", None) or {})
            kind = MACHINES.get(machine) or replace(MACHINES["c2-standard-4"], name=machine)
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
        """Let *status* begin now, with what comes before it where that was not yet; plan nothing.

        Raises:
            KeyError: there is no such task.
        """
        with self._lock:
            self._advance()
            task, now = self._tasks[task_id], self._clock()
            missing = [step for step in _way_to(status)[:-1] if task.time_of(step) is None]
            self._plan(task, [])
            self._happen(task, [Event(now, step) for step in (*missing, status)])

    def update_task(self, task_id: str, **fields: Any) -> None:
        """Let the task's JSON say *fields* from now on, as in `add_task`."""
        with self._lock:
            task = self._tasks[task_id]
            task.overrides |= fields
            task.changed()
            self._newest_first = None

    def remove_task(self, task_id: str) -> None:
        with self._lock:
            task = self._tasks.pop(task_id)
            self._living.pop(task_id, None)
            self._newest_first = None
            for path in (task.output_path, task.input_path):
                if path is not None:
                    self.objects.remove(path)

    def put_object(self, path: str, content: bytes | ByteSource) -> str:
        """Store an object, or a new version of it; return its ETag."""
        with self._lock:
            self._forget_metrics(path)
            return self.objects.put(path, content).etag

    def remove_object(self, path: str) -> None:
        with self._lock:
            self._forget_metrics(path)
            self.objects.remove(path)

    def _forget_metrics(self, path: str) -> None:
        if task := self._tasks.get(path.partition("/")[0]):
            task.changed()

    # Life.

    def _advance(self) -> None:
        now = self._clock()
        if now < self._next_due:
            return
        while self._arrivals and self._arrivals[0][0] <= now:
            born, blueprint = self._arrivals.pop(0)
            self._admit(self._new_id(), born, blueprint)
        for task in list(self._living.values()):
            due = [event for event in task.planned if event.time <= now]
            if due:
                self._plan(task, task.planned[len(due) :])
                self._happen(task, due)
        pending = [task.planned[0].time for task in self._living.values()]
        self._next_due = min(
            [*pending, *(born for born, _ in self._arrivals[:1])], default=math.inf
        )

    def _admit(self, task_id: str, base: float, blueprint: Blueprint) -> None:
        """Add a task whose whole life is still planned; the next `_advance` makes it happen."""
        first, *planned = (Event(base + offset, status) for offset, status in blueprint.life)
        task = CloudTask(
            task_id,
            blueprint.simulator,
            blueprint.project,
            MACHINES[blueprint.machine],
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
        self._living.pop(task.id, None)
        if events:
            self._living[task.id] = task
            self._next_due = min(self._next_due, events[0].time)

    def _happen(self, task: CloudTask, events: Sequence[Event]) -> None:
        """Let *events* happen, together with the archives that are there from then on."""
        task.events += events
        task.changed()
        blueprint = self._blueprints.get(task.id)
        for event in events if blueprint else ():
            # Uploaded once, however often the task is submitted again.
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
        """Return an id in the service's shape, another one after each start of the clock."""
        self._ids_made += 1
        digest = hashlib.sha256(f"{self._clock()}:{self._ids_made}".encode()).digest()
        return "".join(_ID_LETTERS[byte % len(_ID_LETTERS)] for byte in digest[:25])


def _way_to(status: str) -> tuple[str, ...]:
    """Return the statuses a task goes through until *status*, that one included."""
    if status in STEPS:
        return STEPS[: STEPS.index(status) + 1]
    if status == "killed":
        return (*STEPS[:4], "pending-kill", "killed")
    return (*STEPS, status) if status in TERMINAL else (*STEPS[:4], status)


def _outputs(task_id: str, blueprint: Blueprint, end: Event, computing: float) -> BuiltArchive:
    done = 1.0 if end.status == "success" else 0.4
    members = output_members(task_id, blueprint.simulator, computing, end.time, done=done)
    if blueprint.large:
        members[-2:-2] = trajectory_members(end.time)
    return _archive(members, str(blueprint.layout), blueprint.stamp, "artifacts/")


def _archive(
    members: Sequence[MemberSpec],
    layout: str,
    stamp: Stamp,
    top: str,
) -> BuiltArchive:
    source = LAYOUTS[layout](members, stamp)
    files = [m for m in members if m.name.startswith(top) and not m.name.endswith("/")]
    return BuiltArchive(source, len(files), sum(member.size for member in files))
