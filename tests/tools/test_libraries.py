"""Libraries that take fsspec's URLs and files."""

from pathlib import Path
from typing import Any, Final

import fsspec
import numpy as np
import pandas as pd
import pytest

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud

FRAME: Final = pd.DataFrame({"t": np.arange(5000), "pressure": np.linspace(0.0, 1.0, 5000)})
FIELD: Final = np.random.default_rng(1).normal(size=(50, 400))
CSV: Final = FRAME.to_csv(index=False).encode()


def test_dask_data_frames(by_environment: FakeCloud) -> None:
    """P-16: `dask.dataframe.read_csv` reads a pattern."""
    import dask
    import dask.dataframe as dd

    for _ in range(3):
        by_environment.add_task(project="dam", outputs={"a.csv": CSV, "b.csv": CSV})
    frame = dd.read_csv("taskfs://.by-project/dam/*/outputs/*.csv", blocksize=16_000)
    assert frame.npartitions > 6
    with dask.config.set(scheduler="threads"):
        assert np.isclose(frame["pressure"].mean().compute(), 0.5)
        assert len(frame) == 6 * len(FRAME)


def test_pyarrow_datasets(remote: TaskFileSystem, cloud: FakeCloud, tmp_path: Path) -> None:
    """P-16: pyarrow's datasets read CSV and Parquet over fsspec."""
    import pyarrow.dataset
    import pyarrow.parquet

    FRAME.to_parquet(tmp_path / "x.parquet")
    parquet = (tmp_path / "x.parquet").read_bytes()
    task = cloud.add_task(outputs={"csv/a.csv": CSV, "csv/b.csv": CSV, "x.parquet": parquet})
    csvs = pyarrow.dataset.dataset(f"{task}/outputs/csv", filesystem=remote, format="csv")
    assert csvs.count_rows() == 2 * len(FRAME)
    table = pyarrow.parquet.read_table(f"{task}/outputs/x.parquet", filesystem=remote)
    pd.testing.assert_frame_equal(table.to_pandas(), FRAME)


def test_xarray(remote: TaskFileSystem, cloud: FakeCloud, tmp_path: Path) -> None:
    """P-16: xarray reads the file object, whole and in chunks."""
    import xarray

    field = xarray.DataArray(np.random.default_rng(1).normal(size=(50, 400)), dims=("t", "x"))
    xarray.Dataset({"p": field}).to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
    task = cloud.add_task(outputs={"x.nc": (tmp_path / "x.nc").read_bytes()})
    for options in ({}, {"chunks": {"t": 10}}):
        with (
            remote.open(f"{task}/outputs/x.nc") as file,
            xarray.open_dataset(file, engine="h5netcdf", **options) as found,
        ):
            assert np.array_equal(found["p"][7:9].values, field[7:9].values)
            assert np.isclose(float(found["p"].mean()), float(field.mean()))


def test_zarr_style_mapping(by_environment: FakeCloud) -> None:
    """P-6, P-16: fsspec's mapper, which zarr reads through, fetches several keys at once."""
    task = by_environment.add_task(outputs={f"z/{n}": b"%d" % n for n in range(5)})
    found: Any = fsspec.get_mapper(f"taskfs://{task}/outputs/z")
    assert sorted(found) == [str(n) for n in range(5)]
    assert found.getitems(["1", "3"]) == {"1": b"1", "3": b"3"}


def zarr_store(directory: Path) -> dict[str, bytes]:
    """Return the files of a zarr store with the array `p` of 50 by 400."""
    import xarray

    field = xarray.DataArray(FIELD, dims=("t", "x"), name="p")
    xarray.Dataset({"p": field}).to_zarr(directory, consolidated=True)
    files = (path for path in directory.rglob("*") if path.is_file())
    return {f"run.zarr/{path.relative_to(directory)}": path.read_bytes() for path in files}


@pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore::ResourceWarning")
def test_zarr(by_environment: FakeCloud, tmp_path: Path) -> None:
    """P-20: `zarr.open` of a URL works, which asks for an asynchronous file system."""
    import zarr

    task = by_environment.add_task(outputs=zarr_store(tmp_path / "made.zarr"))
    group = zarr.open(f"taskfs://{task}/outputs/run.zarr", mode="r")
    assert np.array_equal(group["p"][7:9], FIELD[7:9])


@pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore::ResourceWarning")
@pytest.mark.parametrize("options", [{}, {"chunks": {}}])
def test_xarray_open_zarr(
    by_environment: FakeCloud, tmp_path: Path, options: dict[str, Any]
) -> None:
    """P-20: `xarray.open_zarr` of a URL works, whole, in chunks and with storage options."""
    import xarray

    task = by_environment.add_task(outputs=zarr_store(tmp_path / "made.zarr"))
    url = f"taskfs://{task}/outputs/run.zarr"
    with xarray.open_zarr(url, storage_options={"timeout": "20s"}, **options) as found:
        assert np.array_equal(found["p"][7:9].values, FIELD[7:9])
        assert np.isclose(float(found["p"].mean()), FIELD.mean())
