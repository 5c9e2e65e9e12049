"""Scientific tools read on a mount what the archive holds.

They run in a process of their own: h5py and a page fault of `mmap` keep Python's lock while they
wait, and the cloud is in this process. The tools that need large packages are in `tests/tools`.
"""

import io
import multiprocessing
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import assert_same

pytestmark = pytest.mark.mount

STEPS: Final = 40
CELLS: Final = 10_000
SLICES: Final = (np.s_[39], np.s_[10:20, 5:15], np.s_[::7, 2345], np.s_[...])

Run = Callable[..., Any]
Put = Callable[..., Path]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Calls a function in another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda function, *given: pool.submit(function, *given).result(120)


@pytest.fixture
def put(shared_mnt: Path, shared_cloud: FakeCloud) -> Put:
    """Makes a task with one output file; returns its path on the mount."""

    def make(name: str, content: bytes, *, stored: bool = False) -> Path:
        files = {"readme": b"first\n", name: content}
        made = shared_cloud.add_task(outputs=files)
        if stored:
            whole = io.BytesIO()
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
                for inner, body in files.items():
                    archive.writestr(f"artifacts/{inner}", body)
            shared_cloud.put_object(f"{made}/output.zip", whole.getvalue())
        shared_cloud.clear_requests()
        return shared_mnt / made / "outputs" / name

    return make


def field() -> Any:
    """One field over time."""
    return np.random.default_rng(5).normal(size=(STEPS, CELLS))


def as_hdf5(**options: Any) -> bytes:
    import h5py

    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        file.create_dataset("pressure", data=field(), **options)
        file["pressure"].attrs["unit"] = "Pa"
    return whole.getvalue()


def read_slices(path: Path, slices: tuple[Any, ...]) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        pressure = file["pressure"]
        return pressure.attrs["unit"], [pressure[part] for part in slices]


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 5000), "compression": "gzip"}])
def test_h5py_slices(put: Put, run: Run, options: dict[str, Any]) -> None:
    """S-1: h5py reads slices of contiguous and chunked datasets."""
    unit, found = run(read_slices, put("run.h5", as_hdf5(**options)), SLICES)
    assert unit == "Pa"
    for part, values in zip(SLICES, found, strict=True):
        assert np.array_equal(values, field()[part])


def test_an_h5py_slice_fetches_little(put: Put, run: Run, shared_cloud: FakeCloud) -> None:
    """S-1: A slice of a file that is stored uncompressed fetches only its blocks."""
    content = as_hdf5()
    path = put("run.h5", content, stored=True)
    _, found = run(read_slices, path, (np.s_[30, :100],))
    assert np.array_equal(found[0], field()[30, :100])
    sent = sum(record.bytes_sent for record in shared_cloud.requests if record.side == "store")
    assert sent < len(content) / 4


def read_maps(raw: Path, packed: Path) -> Any:
    mapped: Any = np.memmap(raw, dtype=np.float64, mode="r", shape=(STEPS, CELLS))
    pieces = np.array(mapped[31, 100:200]), np.array(mapped[:, 7])
    return pieces, np.array(np.load(packed, mmap_mode="r"))


def map_for_writing(path: Path) -> None:
    np.memmap(path, dtype=np.uint8, mode="r+")


def test_numpy_memmap(put: Put, run: Run) -> None:
    """S-2: numpy maps an array, raw and as `.npy`, and never for writing."""
    packed = io.BytesIO()
    np.save(packed, field())
    raw = put("p.raw", field().tobytes())
    (row, column), whole = run(read_maps, raw, put("p.npy", packed.getvalue()))
    assert np.array_equal(row, field()[31, 100:200])
    assert np.array_equal(column, field()[:, 7])
    assert np.array_equal(whole, field())
    with pytest.raises(OSError, match="Read-only"):
        run(map_for_writing, raw)


def read_mesh(path: Path) -> Any:
    import meshio

    mesh = meshio.read(path)
    return mesh.points, mesh.cells_dict["triangle"], mesh.point_data


@pytest.mark.parametrize("name", ["mesh.vtk", "mesh.vtu", "mesh.xdmf"])
def test_a_mesh(put: Put, run: Run, tmp_path: Path, name: str) -> None:
    """S-3: meshio reads points, cells and data."""
    import meshio

    points = np.random.default_rng(3).normal(size=(3002, 3))
    triangles = np.array([[n, n + 1, n + 2] for n in range(3000)])
    mesh = meshio.Mesh(points, [("triangle", triangles)], point_data={"p": points[:, 0]})
    options = {"data_format": "XML"} if name == "mesh.xdmf" else {}
    mesh.write(tmp_path / name, **options)
    found = run(read_mesh, put(f"vtk/{name}", (tmp_path / name).read_bytes()))
    assert np.allclose(found[0], points)
    assert np.array_equal(found[1], triangles)
    assert np.allclose(found[2]["p"], points[:, 0])


def read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return archive.testzip(), archive.read("artifacts/noise.bin")


def test_zipfile_on_the_raw_archive(put: Put, run: Run) -> None:
    """S-5: zipfile reads `output.zip`."""
    noise = np.random.default_rng(1).bytes(400_000)
    path = put("noise.bin", noise)
    damaged, found = run(read_zip, path.parents[1] / "output.zip")
    assert damaged is None
    assert_same(found, noise)


def read_csv(path: Path) -> Any:
    import pandas as pd

    with pd.read_csv(path, chunksize=7) as pieces:
        return pd.read_csv(path), pd.read_csv(path, engine="python"), pd.concat(pieces)


def test_pandas_reads_csv(put: Put, run: Run) -> None:
    """S-4: pandas reads a CSV whole and in pieces, with both parsers."""
    import pandas as pd

    frame = pd.DataFrame(field()[:, :30], columns=[f"c{n}" for n in range(30)])
    for found in run(read_csv, put("probes.csv", frame.to_csv(index=False).encode())):
        pd.testing.assert_frame_equal(found, frame)


def read_database(path: Path) -> Any:
    opened = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    try:
        found = opened.execute("select p from probe where t = 777").fetchall()
        checked = opened.execute("pragma integrity_check").fetchall()
        try:
            opened.execute("delete from probe")
        except sqlite3.OperationalError as exc:
            return found, checked, str(exc)
    finally:
        opened.close()


def test_sqlite_in_immutable_mode(put: Put, run: Run, tmp_path: Path) -> None:
    """S-6: SQLite reads in immutable mode, without locks or a journal beside the file."""
    made = sqlite3.connect(tmp_path / "runs.db")
    with made:
        made.execute("create table probe (t real, p real)")
        made.executemany("insert into probe values (?, ?)", ((n, n * n) for n in range(20_000)))
        made.execute("create index at on probe (t)")
    made.close()
    path = put("runs.db", (tmp_path / "runs.db").read_bytes())
    found, checked, refused = run(read_database, path)
    assert found == [(777.0**2,)]
    assert checked == [("ok",)]
    assert "readonly" in refused


def test_tail_follows_a_file(put: Put) -> None:
    """U-12: `tail -f` prints the end and waits."""
    path = put("run.log", b"".join(b"%d\n" % n for n in range(50_000)))
    for file, end in ((path, b"49998\n49999\n"), (path.parents[1] / "status", b"success\n")):
        with subprocess.Popen(["tail", "-n", "2", "-f", file], stdout=subprocess.PIPE) as tail:
            try:
                assert tail.stdout is not None
                assert tail.stdout.read(len(end)) == end
                with pytest.raises(subprocess.TimeoutExpired):
                    tail.wait(1.5)
            finally:
                tail.terminate()
