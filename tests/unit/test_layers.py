"""Which module may import which: only from rows above its own."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "taskfs"

# A module may import those of the rows above it; modules of one row do not know each other. A new
# module is a new word in the highest row that it can have.
ROWS: Final = (
    ("errors", "redaction", "stats", "buffers", "clock", "pools", "notify", "heads", "sleepers"),
    ("model", "options", "waiting", "igzip", "retries", "claims", "extents", "installation"),
    (
        "config",
        "record",
        "transport",
        "pages",
        "logs",
        "daemon",
        "mountpoint",
        "zipend",
        "blocks",
        "rooms",
        "decoders",
        "scope",
        "singleflight",
    ),
    ("coverage", "readahead", "segments", "zipindex", "cursors"),
    ("pace", "diskcache"),
    ("inflate",),
    ("store", "readers", "ledger"),
    ("offline",),
    ("archive",),
    ("api", "records", "shelf"),
    ("opening",),
    ("handles", "virtual", "texts", "metadata"),
    ("nodes",),
    ("members", "views", "textnode"),
    ("parts",),
    ("service", "tasknode"),
    ("tree",),
    ("compose", "paths"),
    ("target", "sharing"),
    ("fetching", "taskfile"),
    ("download", "operations", "refusals", "filesystem", "channel", "wire"),
    ("places", "pushes"),
    ("dispatch",),
    ("session",),
    ("mount",),
    ("cli.candidates", "cli.demo_environment", "cli.docs", "cli.filetypes", "cli.manpage"),
    ("cli.options",),
    ("cli.console", "cli.keys"),
    ("cli.report",),
    ("cli.tasks", "cli.unfinished"),
    ("cli.watchscreen",),
    ("cli.doctor", "cli.downloading", "cli.mounting", "cli.waiting", "cli.watching"),
    ("cli.mount8",),
    ("cli.completion", "cli.systemd"),
    ("cli",),
    ("__main__",),
)
# Third-party code, and the only modules that may import it.
THIRD_PARTY: Final = {
    "fuse": {"channel"},
    "requests": {"transport", "store", "heads"},
    "urllib3": {"transport", "heads"},
    "tenacity": {"retries"},
    "fsspec": {"filesystem"},
    "cachetools": {"records", "shelf", "texts", "tree", "archive"},
    "msgspec": {"api", "record", "pages", "virtual", "archive", "ledger", "offline", "cli.report"},
    "platformdirs": {"config", "logs", "options"},
    "click": {"cli"},
    "rich": {"cli"},
    "aiohttp": {"demo"},
    "zlib_ng": {"decoders"},
    "isal": {"igzip"},
    "compression": {"decoders"},  # of the standard library, from Python 3.14 on
    "tomli": {"config"},
}
# What the core must be usable without: it is all that stands above `operations`.
ADAPTERS: Final = {
    *("operations", "wire", "places", "pushes", "dispatch", "channel", "session", "mount"),
    *("daemon", "mountpoint", "notify", "refusals"),
}
READ_ENGINE: Final = {
    "claims",
    *("buffers", "zipend", "zipindex", "igzip", "decoders", "coverage", "blocks", "extents"),
    *("readahead", "rooms", "sleepers", "cursors", "pace", "inflate", "segments", "diskcache"),
    *("readers", "archive"),
}
ROW_OF: Final = {name: number for number, row in enumerate(ROWS) for name in row}


def modules() -> dict[str, Path]:
    """Return the files of the package by dotted name, packages by their own."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


MODULES: Final = modules()


def imports_of(name: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it, `taskfs.` left out.

    What is imported for type checkers alone does not count; a relative import is refused.
    """
    tree = ast.parse(MODULES[name].read_text())
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            ignored.update(child for part in node.body for child in ast.walk(part))
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("taskfs.") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            module = node.module or ""
            for alias in node.names:
                whole = f"{module}.{alias.name}".removeprefix("taskfs.")
                yield whole if whole in MODULES else module.removeprefix("taskfs.")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
            yield from (str(part).split(".")[0] for part in names if isinstance(part, str))


def core_imports(name: str) -> list[str]:
    return [other for other in imports_of(name) if other in MODULES and other not in ("", "taskfs")]


def is_demo(name: str) -> bool:
    return name.split(".")[0] == "demo"


def test_every_module_has_its_row() -> None:
    """Every module has a row."""
    missing = [name for name in MODULES if name and not is_demo(name) and name not in ROW_OF]
    assert missing == [], "give each a place in ROWS"
    assert [name for name in ROW_OF if name not in MODULES] == []
    assert sum(map(len, ROWS)) == len(ROW_OF)


@pytest.mark.parametrize("name", [name for name in MODULES if name and not is_demo(name)])
def test_a_module_imports_only_from_rows_above(name: str) -> None:
    """A module imports only from rows above it."""
    row = ROW_OF.get(name, len(ROWS))
    for other in core_imports(name):
        if is_demo(other):
            assert name in ("mount", "cli.mounting"), f"{name} imports the demo"
        else:
            assert ROW_OF[other] < row, f"{name} imports {other}, which is not above it"


@pytest.mark.parametrize("name", MODULES)
def test_third_party_code_only_where_it_belongs(name: str) -> None:
    """Third-party code is imported only where the table allows it."""
    for imported in imports_of(name):
        top = imported.split(".")[0]
        # tomllib is of the standard library from 3.11 on, and not asked for before.
        if imported in MODULES or top in ("taskfs", "tomllib", *sys.stdlib_module_names):
            continue
        allowed = THIRD_PARTY.get(top, set())
        places = {name, name.split(".")[0]}
        assert places & allowed, (
            f"{name or 'taskfs'} imports {top}, which {allowed or 'nobody'} may"
        )


@pytest.mark.parametrize("name", [name for name in MODULES if is_demo(name)])
def test_the_demo_knows_nothing_of_the_rest(name: str) -> None:
    """`demo/` shares nothing with the rest but the API's JSON."""
    assert [other for other in core_imports(name) if not is_demo(other)] == []


@pytest.mark.parametrize("name", sorted(READ_ENGINE))
def test_the_read_engine_knows_no_tasks_and_no_http(name: str) -> None:
    """The cached range reader knows no tasks and no HTTP."""
    assert set(core_imports(name)) <= READ_ENGINE | {"errors", "model", "stats", "waiting"}


def test_the_core_knows_no_fuse() -> None:
    """The core runs without a kernel and without libfuse."""
    core = [name for name in MODULES if name and not is_demo(name) and "cli" not in name]
    core = [name for name in core if name not in (*ADAPTERS, "__main__")]
    for name in core:
        assert not set(core_imports(name)) & ADAPTERS - {"mountpoint"}
    assert {"api", "archive", "blocks", "tree", "compose", "download"} <= set(core)
    program = (
        f"import importlib, sys\nfor name in {core!r}: importlib.import_module('taskfs.' + name)\n"
        "sys.exit(bool({'fuse', 'click', 'rich', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


def test_the_command_line_starts_without_fuse_and_network_code() -> None:
    """C-4: The command line starts without FUSE and network code."""
    program = (
        "import sys, taskfs.cli\n"
        "status = taskfs.cli.main(['--version'])\n"
        "sys.exit(status or bool({'fuse', 'requests', 'aiohttp'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_a_module_says_what_it_is_for(name: str) -> None:
    """Every module begins with a docstring."""
    assert ast.get_docstring(ast.parse(MODULES[name].read_text()))
