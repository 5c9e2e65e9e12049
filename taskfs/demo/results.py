"""The files of simulations: text logs, tables, and VTK files for viewers.

The contents depend only on the task's id, so a task has the same files after a restart. The VTK
files have the simple legacy format: particles in ASCII, grids in binary (big-endian).
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from taskfs.demo.archives import DEFLATED, STORED, MemberSpec
from taskfs.demo.hdf5 import pressure_history
from taskfs.demo.sources import RepeatedSource


@dataclass(frozen=True, slots=True)
class Simulator:
    """The command of a simulator, and the names and contents of its files."""

    image: str
    command: str
    log: str
    table: str
    columns: str
    frame: str
    draw: Callable[[Random, float], bytes]
    case: Sequence[str]
    history: str = ""  # the name of an HDF5 file with the pressure over time, if it writes one


def output_members(
    task_id: str, simulator: str, started: float, ended: float, *, done: float = 1.0
) -> list[MemberSpec]:
    """Return the members of a task's output.zip, with mtimes from *started* to *ended*.

    *done* is the computed fraction of the simulation: below 1, the files are shorter and stderr
    holds an error.
    """
    kind, frames = SIMULATORS[simulator], frame_count(done)
    step = (ended - started) / frames
    summary = {"task_id": task_id, "simulator": simulator, "frames": frames}
    texts = text_outputs(task_id, simulator, done)
    log = f"log/{kind.log}"
    members = [
        MemberSpec("artifacts/", mtime=ended),
        *(MemberSpec(f"artifacts/{name}", texts[name], ended) for name in texts if name != log),
        MemberSpec("artifacts/log/", mtime=started),
        MemberSpec(f"artifacts/{log}", texts[log], ended),
        MemberSpec("artifacts/vtk/", mtime=ended),
    ]
    if kind.history:
        content = pressure_history(Random(task_id), frames)
        members.append(MemberSpec(f"artifacts/{kind.history}", content, ended))
    for frame in range(1, frames + 1):
        # The same seed for each frame makes the frames an animation of one body.
        content = kind.draw(Random(task_id), frame / 20)
        name = f"artifacts/vtk/{kind.frame}_{frame}.vtk"
        members.append(MemberSpec(name, content, started + frame * step))
    members.append(MemberSpec("output.json", json.dumps(summary).encode(), ended))
    members.append(MemberSpec("system_metrics.csv", b"time_s,cpu_percent\n0,3.1\n60,97.4\n", ended))
    return members


def frame_count(done: float) -> int:
    """Return the number of frames of a run of which the fraction *done* is computed."""
    return max(1, round(20 * done))


def text_outputs(task_id: str, simulator: str, done: float) -> dict[str, bytes]:
    """Return the text files of a run by name; those of a shorter run are prefixes of them."""
    kind, frames = SIMULATORS[simulator], frame_count(done)
    error = "" if done >= 1 else _failure(simulator, frames)
    return {
        "stdout.txt": _console(simulator, task_id, frames).encode(),
        "stderr.txt": error.encode(),
        kind.table: _table(task_id, kind.columns, frames),
        f"log/{kind.log}": _log(simulator, frames).encode(),
    }


def input_members(task_id: str, simulator: str, submitted: float) -> list[MemberSpec]:
    """Return the members of a task's input.zip: `sim_dir/` and the request."""
    kind, random = SIMULATORS[simulator], Random(task_id)
    members = [MemberSpec("sim_dir/", mtime=submitted)]
    for name in kind.case:
        settings = f"endTime {random.randint(2, 9)};\ndeltaT {random.choice((1, 2, 5))}e-3;\n"
        text = f"// {simulator} case of {task_id}\n{settings}writeInterval 20;\n"
        members.append(MemberSpec(f"sim_dir/{name}", text.encode(), submitted - 3600))
    request = {"simulator": simulator, "sim_dir": "sim_dir", "commands": [kind.command]}
    members.append(MemberSpec("input.json", json.dumps(request).encode(), submitted))
    return members


def trajectory_members(ended: float) -> Iterator[MemberSpec]:
    """Yield two members of over 100 MB compressed that occupy one block of memory each.

    The trajectory repeats one vibration of a crystal.
    """
    random = Random("trajectory")
    atoms, period = 64, 64
    sites = [[random.uniform(0, 20) for _ in range(3)] for _ in range(atoms)]
    lines = []
    for frame in range(period):
        lines.append(f"{atoms}\none vibration of the crystal, frame {frame:02d}\n")
        swing = 0.4 * math.sin(2 * math.pi * frame / period)
        for number, (x, y, z) in enumerate(sites):
            dx, dy = swing * math.cos(number), swing * math.sin(number)
            lines.append(f"Ar {x + dx:10.6f} {y + dy:10.6f} {z:10.6f}\n")
    block = "".join(lines).encode()
    yield MemberSpec("artifacts/trajectory.xyz", RepeatedSource(block, 1300), ended, DEFLATED)
    velocities = array("f", (random.gauss(0, 1) for _ in range(16_384))).tobytes()
    yield MemberSpec("artifacts/velocities.bin", RepeatedSource(velocities, 1000), ended, STORED)


def _particles(random: Random, phase: float) -> bytes:
    """Return a falling column of fluid: positions, density and velocity."""
    count, spread = 150, 0.2 + 1.8 * phase
    points, density, velocity = [], [], []
    for _ in range(count):
        x, y, z = random.random(), random.random(), random.random()
        height = y / (0.5 + spread) + 0.05 * math.sin(6 * x * spread + 12 * phase)
        points += [x * spread, max(0.0, height), z * 0.5]
        density.append(1000 + 20 * (1 - y) * random.random())
        velocity += [x * 1.8, -y * (1 - phase), 0.0]
    return _point_cloud("fluid particles", count, points, "density", density, velocity)


def _atoms(random: Random, phase: float) -> bytes:
    """Return vibrating and drifting atoms: positions, kinetic energy and velocity."""
    count, swing = 120, math.sin(2 * math.pi * phase)
    points, energy, velocity = [], [], []
    for number in range(count):
        axis = number % 3
        site = [random.uniform(0, 10) for _ in range(3)]
        site[axis] += 0.3 * swing + 0.2 * phase
        points += site
        energy.append(random.random() * (1 - swing * swing))
        velocity += [1.9 * math.cos(2 * math.pi * phase) if i == axis else 0.0 for i in range(3)]
    return _point_cloud("atoms", count, points, "kinetic_energy", energy, velocity)


def _waves(random: Random, phase: float) -> bytes:
    """Return a train of waves in a flume: the elevation of the free surface."""
    nx, ny, length = 80, 24, random.uniform(8, 14)
    values = array("f")
    for j in range(ny):
        for i in range(nx):
            angle = 2 * math.pi * (i / length - 1.7 * phase) + 0.02 * j * j
            values.append(0.4 * math.cos(angle) + 0.05 * math.cos(2 * angle))
    return _grid("free surface", nx, ny, "elevation", values)


def _vortex(random: Random, phase: float) -> bytes:
    """Return a lid-driven cavity that spins up: the speed of the flow."""
    nx = ny = 40
    centre, strength = random.uniform(0.4, 0.6), 1 - math.exp(-4 * phase)
    values = array("f")
    for j in range(ny):
        for i in range(nx):
            x, y = i / (nx - 1) - centre, j / (ny - 1) - 0.6
            values.append(strength * 8 * math.hypot(x, y) * math.exp(-12 * (x * x + y * y)))
    return _grid("lid-driven cavity", nx, ny, "speed", values)


def _point_cloud(
    title: str,
    count: int,
    points: Sequence[float],
    name: str,
    scalars: Sequence[float],
    vectors: Sequence[float],
) -> bytes:
    row = "%.5g %.5g %.5g\n" * count
    cells = "".join(f"1 {index}\n" for index in range(count))
    return (
        f"# vtk DataFile Version 3.0\n{title}\nASCII\nDATASET UNSTRUCTURED_GRID\n"
        f"POINTS {count} float\n{row % tuple(points)}"
        f"CELLS {count} {2 * count}\n{cells}CELL_TYPES {count}\n{'1 ' * count}\n"
        f"POINT_DATA {count}\nSCALARS {name} float 1\nLOOKUP_TABLE default\n"
        f"{'%.5g ' * count % tuple(scalars)}\nVECTORS velocity float\n{row % tuple(vectors)}"
    ).encode()


def _grid(title: str, nx: int, ny: int, name: str, values: array[float]) -> bytes:
    if sys.byteorder == "little":
        values.byteswap()
    head = (
        f"# vtk DataFile Version 3.0\n{title}\nBINARY\nDATASET STRUCTURED_POINTS\n"
        f"DIMENSIONS {nx} {ny} 1\nORIGIN 0 0 0\nSPACING 0.1 0.1 0.1\n"
        f"POINT_DATA {nx * ny}\nSCALARS {name} float 1\nLOOKUP_TABLE default\n"
    )
    return head.encode() + values.tobytes() + b"\n"


def _console(simulator: str, task_id: str, frames: int) -> str:
    lines = [f"{simulator}: task {task_id}", "reading the case", "starting the time loop"]
    for frame in range(1, frames + 1):
        residual = 10 ** (-2 - frame / 8)
        lines.append(f"step {50 * frame:5d}  t = {frame / 10:6.3f} s  residual = {residual:.3e}")
        lines.append(f"writing frame {frame}")
    if frames == 20:
        lines.append("finished")
    return "\n".join(lines) + "\n"


def _log(simulator: str, frames: int) -> str:
    return "".join(
        f"[{50 * frame + part:06d}] {simulator}: iteration {part} of frame {frame} converged\n"
        for frame in range(1, frames + 1)
        for part in range(0, 50, 10)
    )


def _failure(simulator: str, frames: int) -> str:
    return f"{simulator}: solution diverged after step {50 * frames}\nresidual = nan\naborted\n"


def _table(task_id: str, columns: str, frames: int) -> bytes:
    random = Random(task_id)
    rows = [
        f"{frame / 10:.1f},{random.gauss(5, 1):.5f},{random.gauss(1, 0.1):.5f}"
        for frame in range(10 * frames)
    ]
    return "\n".join([f"time_s,{columns}", *rows, ""]).encode()


SIMULATORS: Final = {
    "splishsplash": Simulator(
        "docker://inductiva/kutu:splishsplash_v2.13.1",
        "SPHSimulator config.json --no-gui",
        "SPH_log.txt",
        "energy.csv",
        "kinetic_j,potential_j",
        "ParticleData_Fluid",
        _particles,
        ("config.json", "unit_box.obj"),
    ),
    "reef3d": Simulator(
        "docker://inductiva/kutu:reef3d_v24.12",
        "REEF3D",
        "REEF3D_log.txt",
        "wave_gauges.csv",
        "gauge_1_m,gauge_2_m",
        "free_surface",
        _waves,
        ("ctrl.txt", "control.txt"),
    ),
    "openfoam": Simulator(
        "docker://inductiva/kutu:openfoam-foundation_v12",
        "icoFoam",
        "icoFoam_log.txt",
        "forces.csv",
        "drag_n,lift_n",
        "cavity",
        _vortex,
        ("system/controlDict", "system/fvSchemes", "constant/transportProperties", "0/U"),
        "pressure.h5",
    ),
    "gromacs": Simulator(
        "docker://inductiva/kutu:gromacs_v2025.0",
        "gmx mdrun -deffnm md",
        "md_log.txt",
        "energy.csv",
        "potential_kj_mol,kinetic_kj_mol",
        "atoms",
        _atoms,
        ("md.mdp", "topol.top", "conf.gro"),
    ),
}
