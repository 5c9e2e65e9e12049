"""Scientific tools that need a large package, on the mount: `scripts/test-tools`."""

import multiprocessing
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.fake_api import FakeCloud

pytestmark = pytest.mark.mount

CELLS: Final = 40


def in_another_process(function: Any, *given: Any) -> Any:
    """Call *function* in another process: a reader may keep Python's lock; the cloud is here."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *given).result(150)


def read_volume(path: Path) -> Any:
    import pyvista

    volume = pyvista.read(path)
    return volume.dimensions, np.array(volume["p"]), volume.threshold(0.5, scalars="p").n_cells


def test_pyvista(mnt: Path, cloud: FakeCloud, tmp_path: Path) -> None:
    """S-3: pyvista reads legacy and XML files as ParaView does."""
    import pyvista

    volume = pyvista.ImageData(dimensions=(CELLS + 1,) * 3)
    values = np.random.default_rng(2).random(CELLS**3)
    volume.cell_data["p"] = values
    files = {}
    for name in ("v.vtk", "v.vti"):
        volume.save(tmp_path / name)
        files[f"vtk/{name}"] = (tmp_path / name).read_bytes()
    task = cloud.add_task(outputs=files)
    for name in files:
        dimensions, found, above = in_another_process(read_volume, mnt / task / "outputs" / name)
        assert tuple(dimensions) == (CELLS + 1,) * 3
        assert np.array_equal(found, values)
        assert above == int((values >= 0.5).sum())


def fio(cwd: Path, *options: str) -> None:
    command = ["fio", "--output-format=terse", *options]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("pattern", ["read", "randread"])
def test_fio_verifies(mnt: Path, cloud: FakeCloud, tmp_path: Path, pattern: str) -> None:
    """S-7: `fio --readonly` verifies every block."""
    common = ("--name=job", "--bs=64k", "--size=16m", "--verify=crc32c", "--verify_fatal=1")
    made = tmp_path / "made"
    fio(tmp_path, *common, f"--filename={made}", "--rw=write", "--do_verify=0")
    task = cloud.add_task(outputs={"blocks.bin": made.read_bytes()})
    path = mnt / task / "outputs/blocks.bin"
    fio(
        tmp_path,
        *common,
        f"--filename={path}",
        "--readonly",
        f"--rw={pattern}",
        "--numjobs=2",
        "--ioengine=psync",
    )
    damaged = bytearray(made.read_bytes())
    damaged[9_000_000] ^= 1  # fio must report it, so it compares the bytes
    other = cloud.add_task(outputs={"blocks.bin": bytes(damaged)})
    with pytest.raises(AssertionError, match="verify"):
        fio(
            tmp_path,
            *common,
            f"--filename={mnt / other / 'outputs/blocks.bin'}",
            "--readonly",
            "--rw=read",
        )
