"""Tables of the tasks in the embedded cloud: at the start, and those that arrive later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from taskfs.demo.archives import Stamp, dos_stamp, extended_stamp, ntfs_stamp

Timeline = tuple[tuple[float, str], ...]

COASTAL: Final = "coastal-defence"
MIXING: Final = "mixing-tank"
BINDING: Final = "ligand-binding"


@dataclass(frozen=True, slots=True)
class Blueprint:
    """The description of a task. Its timeline holds (seconds from a base time, status).

    *layout* is that of its output.zip, or None for a task without one. *large* adds the members
    that make it exceed 100 MB. *error* holds the error details of the task and of its executer.
    """

    simulator: str
    project: str
    machine: str
    timeline: Timeline
    layout: str | None = "streamed"
    stamp: Stamp = ntfs_stamp
    metadata: Mapping[str, str] = field(default_factory=dict)
    error: tuple[str | None, str | None] = (None, None)
    large: bool = False


def _timeline(status: str, computing: float) -> Timeline:
    """Return a timeline that ends with *status* after *computing* seconds of computation."""
    return (
        (0, "pending-input"),
        (2.5, "submitted"),
        (31, "started"),
        (43.5, "computation-started"),
        (43.5 + computing, "computation-ended"),
        (49 + computing, status),
    )


# The ids and times of finished tasks never change: (id, Unix time of creation, blueprint).
FINISHED: Final = (
    (
        "i4ir3kvv62odsfrhko4y8w2an",
        1_749_547_800,
        Blueprint(
            "splishsplash",
            COASTAL,
            "c2-standard-4",
            _timeline("success", 192),
            metadata={"study": "dam break", "resolution": "0.02"},
        ),
    ),
    (
        "q7c2m0xw95hdt8ynbz4rkv1ej",
        1_749_634_200,
        Blueprint(
            "openfoam",
            MIXING,
            "c3d-highcpu-16",
            _timeline("success", 1_264.25),
            layout="plain",
            stamp=dos_stamp,
        ),
    ),
    (
        "b9x3u6gsa1pfw0dk5vqm7zt2c",
        1_749_720_600,
        Blueprint(
            "reef3d",
            COASTAL,
            "n2-standard-8",
            _timeline("success", 4_021.5),
            layout="zip64",
            stamp=extended_stamp,
            metadata={"study": "breakwater"},
        ),
    ),
    (
        "h5n8e2yq4rjt6wlc0z3kxbv7d",
        1_749_807_000,
        Blueprint(
            "gromacs",
            BINDING,
            "c3d-highcpu-16",
            _timeline("success", 362_730),
            stamp=extended_stamp,
            large=True,
        ),
    ),
    (
        "m1k4t7zc3vxy9gq5w0rhne8bs",
        1_750_171_200,
        Blueprint(
            "openfoam",
            MIXING,
            "c2-standard-4",
            _timeline("failed", 77),
            layout="plain",
            stamp=dos_stamp,
            error=("icoFoam exited with code 1", "command failed: solution diverged"),
        ),
    ),
    (
        "x6w0j9pd2hfs5bnt8ykq3vgz1",
        1_750_174_800,
        Blueprint(
            "gromacs",
            BINDING,
            "n2-standard-8",
            ((0, "pending-input"), (3, "submitted"), (95, "pending-kill"), (98, "killed")),
            layout=None,
        ),
    ),
    (
        "d3v8r5ke1yzm6xbq9hwt0c4pn",
        1_750_178_400,
        Blueprint(
            "reef3d",
            COASTAL,
            "c2-standard-4",
            (*_timeline("executer-terminated", 610)[:4], (653.5, "executer-terminated")),
            layout=None,
            error=(None, "The machine was terminated while the task was running."),
        ),
    ),
    (
        "z0y7g4nw8tqc2jxk6mbd5vrh9",
        1_750_182_000,
        Blueprint(
            "splishsplash",
            COASTAL,
            "c2-standard-4",
            (*_timeline("ttl-exceeded", 3_600)[:4], (3_643.5, "ttl-exceeded")),
            layout="zip64",
            stamp=extended_stamp,
            error=("The task exceeded its time to live of 3600 s.", None),
        ),
    ),
)

# Offsets count from the start of the cloud; events below zero have happened by then.
ACTIVE_AT_START: Final = (
    Blueprint(
        "gromacs",
        BINDING,
        "n2-standard-8",
        (
            *((-900, "pending-input"), (-890, "submitted"), (-800, "started")),
            *((-785, "computation-started"), (-60, "spot-instance-preempted")),
            *((240, "submitted"), (300, "started"), (312, "computation-started")),
            *((560, "computation-ended"), (568, "success")),
        ),
    ),
    Blueprint(
        "reef3d",
        COASTAL,
        "c3d-highcpu-16",
        (
            *((-460, "pending-input"), (-455, "submitted"), (-400, "started")),
            *((-388, "computation-started"), (900, "computation-ended"), (908, "success")),
        ),
        layout="zip64",
        stamp=extended_stamp,
        metadata={"study": "breakwater", "wave_height": "1.5"},
    ),
    Blueprint(
        "openfoam",
        MIXING,
        "c2-standard-4",
        (
            *((-300, "pending-input"), (-297, "submitted"), (-250, "started")),
            *((-240, "computation-started"), (-6, "computation-ended"), (30, "success")),
        ),
        layout="plain",
        stamp=dos_stamp,
    ),
    Blueprint(
        "splishsplash",
        COASTAL,
        "c2-standard-4",
        (
            *((-80, "pending-input"), (-77, "submitted"), (-5, "started")),
            *((20, "computation-started"), (260, "computation-ended"), (266, "success")),
        ),
    ),
    Blueprint(
        "splishsplash",
        COASTAL,
        "c2-standard-4",
        (
            *((-45, "pending-input"), (-42, "submitted"), (25, "started")),
            *((37, "computation-started"), (157, "computation-ended"), (163, "success")),
        ),
    ),
    Blueprint(
        "openfoam",
        MIXING,
        "c3d-highcpu-16",
        (
            *((-30, "pending-input"), (-26, "submitted"), (50, "started")),
            *((61, "computation-started"), (121, "computation-ended"), (126, "failed")),
        ),
        error=("icoFoam exited with code 1", "command failed: solution diverged"),
    ),
    Blueprint(
        "gromacs",
        BINDING,
        "n2-standard-8",
        (
            *((-15, "pending-input"), (120, "submitted"), (170, "started")),
            *((181, "computation-started"), (420, "computation-ended"), (427, "success")),
        ),
        layout="zip64",
        stamp=extended_stamp,
    ),
)

# Seconds between two new tasks, so that one appears in the first minutes, and the number of tasks,
# which bounds the memory of a demo that runs for days.
SECONDS_BETWEEN_ARRIVALS: Final = 75.0
MAX_ARRIVALS: Final = 15
_ARRIVING: Final = (
    # simulator, project, computation time, end
    ("splishsplash", COASTAL, 95, "success"),
    ("reef3d", COASTAL, 240, "success"),
    ("openfoam", MIXING, 45, "failed"),
    ("gromacs", BINDING, 150, "success"),
)


def arrival(number: int) -> Blueprint:
    """Return task *number* (from 0) of the later arrivals; its timeline starts at its arrival."""
    simulator, project, computing, end = _ARRIVING[number % len(_ARRIVING)]
    error = (f"{simulator} exited with code 1", "command failed") if end == "failed" else None
    timeline = _timeline(end, computing)
    return Blueprint(simulator, project, "c2-standard-4", timeline, error=error or (None, None))
