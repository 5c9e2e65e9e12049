"""`install_hint`: the command fits the running installation."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from taskfs.support.installation import EXTRAS, INSTALL_HINT, install_hint

toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without a mark of the tool that made it."""
    prefix = tmp_path / "taskfs"
    prefix.mkdir()
    monkeypatch.setattr(sys, "prefix", str(prefix))
    return prefix


def test_an_environment_of_pipx_is_extended_with_pipx(prefix: Path) -> None:
    """C-1: In an environment of pipx the fix is `pipx inject` with the environment's name."""
    (prefix / "pipx_metadata.json").write_text("{}")
    assert install_hint("demo") == "pipx inject taskfs 'aiohttp>=3.10'"


def test_a_virtual_environment_is_extended_with_its_own_python(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-1: In a virtual environment the fix names its interpreter."""
    monkeypatch.setattr(sys, "executable", "/a b/bin/python")
    assert install_hint("socks") == "'/a b/bin/python' -m pip install 'requests[socks]'"


def test_an_environment_without_pip_is_extended_with_uv(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C-1: In an environment without pip the fix uses uv."""
    monkeypatch.setattr(sys, "executable", "/a/bin/python")
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr("taskfs.support.installation.find_spec", lambda name: None)
    assert install_hint("demo") == "uv pip install --python /a/bin/python 'aiohttp>=3.10'"


def test_a_systems_python_is_left_alone(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-1: For a system's own Python, which refuses pip (PEP 668), the fix is pipx."""
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    text = install_hint("demo")
    assert text.index("pipx inject taskfs 'aiohttp>=3.10'") < text.index("virtual environment")
    assert INSTALL_HINT.index("pipx install .") < INSTALL_HINT.index("virtual environment")


def test_the_requirements_are_those_of_the_project() -> None:
    """C-1: The fixes name the requirements of pyproject.toml."""
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, requirements in project["optional-dependencies"].items():
        if name in EXTRAS:
            assert requirements == [EXTRAS[name]]
    assert EXTRAS.keys() - {"socks"} <= project["optional-dependencies"].keys()


def test_no_command_installs_taskfs_from_an_index() -> None:
    """taskfs is on no package index, so `pip install taskfs` would fail or fetch another."""
    for path in [*(ROOT / "taskfs").rglob("*.py"), *(ROOT / "scripts").iterdir()]:
        if path.is_file():
            text = path.read_text(errors="replace")
            assert "pip install 'taskfs" not in text, path
            assert "pip install taskfs" not in text and "pipx install taskfs" not in text, path
