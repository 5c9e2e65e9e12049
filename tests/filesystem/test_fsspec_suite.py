"""fsspec's own abstract test suite, where it applies to a read-only file system.

`AbstractGetTests` does: its scenarios are made in the cloud instead of by writing them. The others
are left out because they write: `AbstractPutTests`, `AbstractCopyTests` (copies within the file
system), `AbstractPipeTests` and `AbstractOpenTests` (its one test, exclusive creation).
`test_failures` tests how they are refused.
"""

from hashlib import md5
from pathlib import Path

import pytest
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from taskfs.fsspec.filesystem import TaskFileSystem
from tests.fake_api import FakeCloud


class TestGet(AbstractGetTests, AbstractFixtures):  # type: ignore[misc]  # fsspec is untyped
    """P-17: fsspec's own abstract tests of `get` pass."""

    @pytest.fixture
    def fs(self, remote: TaskFileSystem) -> TaskFileSystem:
        return remote

    @pytest.fixture
    def fs_path(self) -> str:
        return ""  # nothing is written

    @staticmethod
    def source(cloud: FakeCloud, *names: str) -> str:
        task = cloud.add_task(outputs={f"source/{name}": b"" for name in names})
        return f"{task}/outputs/source"

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, cloud: FakeCloud) -> str:
        below = ("subfile1", "subfile2", "nesteddir/nestedfile")
        return self.source(cloud, "file1", "file2", *(f"subdir/{name}" for name in below))

    @pytest.fixture
    def fs_glob_edge_cases_files(self, cloud: FakeCloud) -> str:
        below = ("subfile1", "subfile2", "nesteddir/nestedfile")
        files = [f"subdir{n}/{name}" for n in range(2) for name in below]
        return self.source(cloud, "file1", "file2", *files)

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, cloud: FakeCloud) -> str:
        return self.source(cloud, "subdir.txt", "subdir/subfile.txt")

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, cloud: FakeCloud) -> str:
        names = [md5(str(n).encode()).hexdigest() for n in range(10)]
        contents = {f"source/{name}.txt": str(n).encode() for n, name in enumerate(names)}
        return f"{cloud.add_task(outputs=contents)}/outputs/source"

    def test_get_directory_recursive(
        self, fs: TaskFileSystem, cloud: FakeCloud, tmp_path: Path
    ) -> None:
        """P-17: The suite's test of this name writes its file itself; here the cloud has it."""
        source = f"{cloud.add_task(outputs={'src/file': b''})}/outputs/src"
        plain, slash = tmp_path / "plain", tmp_path / "slash"
        for inner in (plain, plain / "src"):  # the second time the target is there
            assert not inner.exists()
            fs.get(source, str(plain), recursive=True)
            assert (inner / "file").is_file()
        for _ in range(2):
            fs.get(f"{source}/", str(slash), recursive=True)
            assert [path.name for path in slash.iterdir()] == ["file"]
