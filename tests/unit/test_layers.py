"""Which module may import which: only from rows above its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "taskfs"

# A module may import modules of its own layer and of the layers before it. The modules of the root
# are layers of their own; `demo` is the embedded cloud and imports nothing else of taskfs.
LAYERS: Final = (
    "demo",
    "errors",
    "support",
    "model",
    "options",
    "sources",
    "api_key",
    "config",
    "remote",
    "cache",
    "archive",
    "tasks",
    "tree",
    "first_listing",
    "core",
    "download",
    "fsspec",
    "fuse",
    "cli",
    "__main__",
)
# Third-party packages, and the only places that may import them.
THIRD_PARTY: Final[Mapping[str, frozenset[str]]] = {
    package: frozenset(places)
    for package, places in {
        "aiohttp": ["demo"],
        "aioice": ["remote", "demo"],
        "aiortc": ["remote", "demo"],
        "cachetools": ["tasks.known_tasks", "tasks.task_cache", "tree.held_texts"],
        "certifi": ["remote.trust"],
        "click": ["cli"],
        "compression": ["archive.decoders"],  # the standard library's, from Python 3.14 on
        "fsspec": ["fsspec"],
        "fuse": ["fuse.fusepy_loop", "fuse.fusepy_operations"],
        "isal": ["archive.isal", "support.checksum"],
        "msgspec": ["archive.index_layout", "cli", "remote", "tasks", "tree.text_files"],
        "platformdirs": ["support.user_directories"],
        "requests": ["remote"],
        "rich": ["cli"],
        "tomli": ["sources"],
        "urllib3": ["remote"],
        "zlib_ng": ["archive.decoders", "support.checksum"],
    }.items()
}
# The adapters: everything else works without a kernel, a terminal and libfuse.
ADAPTERS: Final = frozenset({"fuse", "cli", "__main__"})


def find_modules() -> dict[str, Path]:
    """Return the modules of the package by dotted name without `taskfs.`; packages by their own."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


MODULES: Final = find_modules()
NAMED: Final = [name for name in MODULES if name]


@cache
def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


@cache
def imports_of(name: str) -> tuple[str, ...]:
    """Return the dotted names that a module imports, without `taskfs.`, for type checking too."""
    return tuple(_find_imports(name))


def _find_imports(name: str) -> Iterator[str]:
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("taskfs.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            module = node.module or ""
            if module.partition(".")[0] != "taskfs":
                yield f"<{module}"
                continue
            for alias in node.names:
                whole = f"{module}.{alias.name}".removeprefix("taskfs.")
                yield whole if whole in MODULES else module.removeprefix("taskfs.")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield f"<{part.value}"


def core_imports(name: str) -> set[str]:
    """Return the modules of taskfs that a module imports."""
    return {other for other in imports_of(name) if other in MODULES and other not in ("", name)}


def layer_of(name: str) -> str:
    return name.partition(".")[0]


def test_every_module_lies_in_a_layer() -> None:
    """docs/architecture.md: every module lies in one of the packages or is one of the root's."""
    layers = {layer_of(name) for name in NAMED}
    assert layers - set(LAYERS) == set()


def test_a_module_imports_its_own_and_earlier_layers() -> None:
    """docs/architecture.md: a package imports only from those that come earlier in the order."""
    for name in NAMED:
        mine = LAYERS.index(layer_of(name))
        for other in core_imports(name):
            assert LAYERS.index(layer_of(other)) <= mine, f"{name} imports {other}"
            if layer_of(other) == "demo" != layer_of(name):
                assert layer_of(name) == "cli", f"{name} imports the embedded cloud"


def test_no_modules_import_each_other() -> None:
    """docs/architecture.md: there is no cycle between modules, imports for types included."""
    graph = {name: core_imports(name) for name in NAMED}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(f"a cycle: {' -> '.join(exc.args[1])}")


def test_third_party_code_is_imported_only_where_it_belongs() -> None:
    """docs/architecture.md: each third-party package is imported in few places."""
    known = {"taskfs", "tomllib", "", *sys.stdlib_module_names}
    for name in MODULES:
        for imported in imports_of(name):
            top = imported.removeprefix("<").partition(".")[0]
            if imported not in MODULES and top not in known:
                allowed = THIRD_PARTY.get(top, frozenset())
                assert {name, layer_of(name)} & allowed, f"{name} imports {top}, not {set(allowed)}"


def test_a_package_file_holds_a_docstring_alone() -> None:
    """docs/architecture.md: re-exports would load what a command does not need.

    `demo` exports one function, for programs outside of taskfs that test against the cloud.
    """
    packages = [name for name in NAMED if MODULES[name].name == "__init__.py"]
    assert [name for name in packages if len(parse(name).body) != 1] == ["demo"]


def test_the_core_needs_no_adapter() -> None:
    """docs/architecture.md: the core runs without a kernel, without libfuse and a terminal."""
    core = [n for n in NAMED if layer_of(n) not in {*ADAPTERS, "demo"}]
    assert {"remote.api_client", "archive.archive", "tree.tree", "core"} <= set(core)
    program = (
        f"import importlib, sys\nfor name in {core!r}: importlib.import_module('taskfs.' + name)\n"
        "sys.exit(bool({'fuse', 'click', 'rich', 'aiohttp', 'aiortc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_the_command_line_starts_without_fuse_and_network_code() -> None:
    """C-4: The command line starts without FUSE and network code."""
    program = (
        "import sys, taskfs.cli.main\n"
        "status = taskfs.cli.main.main(['--version'])\n"
        "sys.exit(status or bool({'fuse', 'requests', 'aiohttp', 'aiortc'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_module_has_a_docstring_and_at_most_350_lines() -> None:
    """docs/contributing.md: a module has one idea, which its docstring names."""
    for name in MODULES:
        assert ast.get_docstring(parse(name)), name
        assert MODULES[name].read_text().count("\n") <= 350, name


def test_scripts_and_tests_import_nothing_of_each_other() -> None:
    """docs/contributing.md: `scripts/` holds short entry points; their programs are in `tests/`."""
    for folder, other in (("scripts", "tests"), ("tests", "scripts")):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom):
                    assert (node.module or "").partition(".")[0] != other, path
                elif isinstance(node, ast.Import):
                    assert other not in {a.name.partition(".")[0] for a in node.names}, path
