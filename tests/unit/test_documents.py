"""The documents name modules, files and scripts that exist."""

import re
from pathlib import Path
from typing import Final

import pytest

from taskfs.cli.main import COMMANDS
from taskfs.cli.roff import TREE
from taskfs.options import OPTIONS
from taskfs.tree.text_files import TEXT_FILES

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "taskfs"
DOCUMENTS: Final = sorted((PACKAGE / "docs").glob("*.md"))
_SECTION: Final = re.compile(r"^### `([\w/]+)/`: .*\n((?:(?!#).*\n)*)", re.MULTILINE)
_NAME: Final = re.compile(r"`((?:\w+/)*\w+)`")


SECTIONS: Final = dict(_SECTION.findall((PACKAGE / "docs/architecture.md").read_text()))
PACKAGES: Final = [path.parent for path in PACKAGE.rglob("__init__.py")]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_the_section_of_a_package_names_its_modules(package: Path) -> None:
    """Architecture.md names each module except those of commands, and no other."""
    commands = {name.replace("-", "_") for name in COMMANDS}
    modules = {path.stem for path in package.glob("[!_]*.py")} - commands
    section = SECTIONS.get(package.relative_to(ROOT).as_posix().removeprefix("taskfs/"), "")
    bullets = re.sub(r"\([^)]*\)", "", section[section.find("- ") :])
    assert set(_NAME.findall(bullets)) - commands == modules


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_paths_in_documents_exist(document: Path) -> None:
    """Each path below taskfs/, tests/ or scripts/, and each `package/module`, exists."""
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    missing = []
    for quoted in re.findall(r"`([\w./-]+)`", text):
        first = quoted.split("/")[0]
        if quoted.startswith(("taskfs/", "tests/", "scripts/")) and "…" not in quoted:
            if not (ROOT / quoted).exists():
                missing.append(quoted)
        elif "/" in quoted.rstrip("/") and first in packages:
            place = PACKAGE / quoted
            if not (place.is_dir() or place.with_name(place.name + ".py").exists()):
                missing.append(quoted)
    assert missing == []


def test_the_settings_are_documented() -> None:
    """administration.md names each setting."""
    text = (PACKAGE / "docs/administration.md").read_text()
    section = text.partition("## Options of `mount`")[2].partition("Every setting")[0]
    table, _, last_row = section.partition("| `-o ")
    first_cells = [line.split(" | ")[0] for line in table.splitlines()]
    others = last_row.partition("Without a flag")[2]
    named = re.findall(
        r"`(?:--)?([a-z][a-z_-]+)(?:[ =\\][^`]*)?`", "\n".join([*first_cells, others])
    )
    assert {option.name for option in OPTIONS} - {name.replace("-", "_") for name in named} == set()


def test_the_lists_of_text_files_agree() -> None:
    """N-2: The README's tree and the manual page list the text files of the table, as N-2 does."""
    names = [file.name for file in TEXT_FILES]
    readme = re.findall(r"^│   ├── ([a-z_.]+) ", (ROOT / "README.md").read_text(), re.MULTILINE)
    manual = [tag.removeprefix("ID/") for tag, _ in TREE if tag.startswith("ID/")]
    semantics = (PACKAGE / "docs/semantics.md").read_text()
    promise = re.findall("`([^`]+)`", semantics.partition("**N-2**")[2].partition("- **")[0])
    listed = {"the README": readme, "the manual page": manual, "N-2": promise}
    found = {where: [name for name in each if name in names] for where, each in listed.items()}
    assert found == dict.fromkeys(listed, names)
    # A name in the documents that the table lacks.
    assert [*names, "kill"] == readme
    assert {*promise} == {*names, "kill", "outputs/", "inputs/", "live/"}


def test_f_22_names_the_files_that_show_the_record() -> None:
    """F-22: The promise names each text file whose row has `needs_record`."""
    semantics = (PACKAGE / "docs/semantics.md").read_text()
    promise = re.findall("`([^`]+)`", semantics.partition("**F-22**")[2].partition("- **")[0])
    assert {*promise} == {file.name for file in TEXT_FILES if file.needs_record}


def test_the_table_of_threads_names_all() -> None:
    """The table of architecture.md names each thread of the code, and no other."""
    section = (PACKAGE / "docs/architecture.md").read_text().partition("## Threads and locks")[2]
    rows = (line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `"))
    listed = {name for row in rows for name in re.findall("`(taskfs-[a-z-]+?)(?:-N)?`", row)}
    started = re.compile(
        r'(?:name(?:_prefix)?=|DaemonPool\([^()]*?)f?"(taskfs-[a-z-]+?)(?:-\{\w+\})?"'
    )
    threads = {
        name for module in PACKAGE.rglob("*.py") for name in started.findall(module.read_text())
    }
    assert listed == threads
