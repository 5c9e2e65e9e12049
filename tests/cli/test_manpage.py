"""The manual page: complete, and valid roff."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from taskfs import __version__
from taskfs.cli.main import COMMANDS, taskfs
from taskfs.cli.roff import format_manual
from taskfs.options import OPTIONS
from taskfs.tree.text_files import TEXT_FILES
from tests.cli.conftest import Command
from tests.fork_server import ROOT
from tests.programs import require_program
from tests.unit.test_layers import THIRD_PARTY

PAGE = format_manual(taskfs, "2026-01-02")


def rendered(page: str) -> str:
    done = subprocess.run(
        ["groff", "-ww", "-man", "-Tascii", "-P-bcu", "-rLL=300n"],
        input=page,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_command_prints_the_source_into_a_pipe(bare: Command) -> None:
    """C-32: `taskfs manpage` prints the roff source into a pipe."""
    done = bare("manpage", SOURCE_DATE_EPOCH="1700000000")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == format_manual(taskfs, "2023-11-14")


def test_the_command_shows_the_page_on_a_terminal(bare: Command) -> None:
    """C-32: On a terminal `taskfs manpage` shows the page with man(1)."""
    require_program("man", "man-db")
    with bare.terminal("manpage", MANPAGER="cat", MANOPT="-P cat", MANWIDTH="100") as terminal:
        assert terminal.end() == 0, terminal.text
    shown = re.sub(r".\x08|\x1b\[[0-9;]*m", "", terminal.text)
    assert "NAME" in shown and "taskfs mount" in shown
    assert ".SH" not in shown


def test_the_command_works_without_man(bare: Command) -> None:
    """C-32: Without man(1) all help texts are shown."""
    with bare.terminal("manpage", PATH="/nonexistent", PAGER="") as terminal:
        assert terminal.end() == 0, terminal.text
    for name in COMMANDS:
        assert f"taskfs {name} [OPTIONS]" in terminal.text


def test_groff_takes_it_and_shows_all() -> None:
    """C-11: groff renders the page, which has each command, option and setting."""
    require_program("groff", "groff-base")
    text = rendered(PAGE)
    for name in COMMANDS:
        assert f"taskfs {name} [OPTIONS]" in text
    for option in OPTIONS:
        if option.commands:
            assert option.flag in text, option
        elif option.in_mount_options:
            assert f"\n       {option.name}" in text
        assert " ".join(option.help.split()) in " ".join(text.split()) or not option.commands
    for words in ("mount -t fuse.taskfs taskfs MOUNTPOINT", "INDUCTIVA_API_KEY", "NO_COLOR"):
        assert words in text
    assert f"taskfs {__version__}" in text and "2026-01-02" in text


def test_mandoc_finds_nothing_wrong() -> None:
    """C-11: `mandoc -T lint` finds no fault."""
    done = subprocess.run(
        [require_program("mandoc"), "-T", "lint", "-W", "warning"],
        input=PAGE,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_no_line_is_taken_for_a_request() -> None:
    """roff(7): a line that begins with a dot or an apostrophe is a request."""
    known = {".TH", ".SH", ".SS", ".PP", ".TP", ".nf", ".fi", ".RS", ".RE"}
    requests = {line.split()[0] for line in PAGE.splitlines() if line[:1] in (".", "'")}
    assert requests <= known
    assert max(map(len, PAGE.splitlines())) < 200


def test_the_date_can_be_that_of_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """C-11: SOURCE_DATE_EPOCH sets the date, so two builds are equal."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert '"2023-11-14"' in format_manual(taskfs)


def test_the_page_names_nothing_of_this_machine() -> None:
    """C-11: The page names no path of the machine that builds it."""
    assert str(Path.home()) not in PAGE or Path.home() == Path("/")


def test_the_tree_and_examples_are_in_it() -> None:
    """C-11: The page has the tree of a mount, with every text file, and examples."""
    text = rendered(PAGE)
    for file in TEXT_FILES:
        assert f"ID/{file.name}\n" in text, file.name
    tree, examples = text.index("\nFILES IN A MOUNT\n"), text.index("\nEXAMPLES\n")
    assert 0 < tree < examples < text.index("\nENVIRONMENT\n")
    assert "taskfs wait ID && cp -r" in text[examples:]


# A build environment has only the requirements of the build system.
AS_IN_A_BUILD: Final = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1:]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from taskfs.cli.main import taskfs
from taskfs.cli.roff import format_manual
print(len(format_manual(taskfs)))
"""


def test_the_page_is_formatted_where_only_click_is_installed() -> None:
    """C-11: `pip install .` renders the page in a build environment, which has click alone."""
    packages = [name for name in THIRD_PARTY if name not in ("click", "compression")]
    done = subprocess.run(
        [sys.executable, "-c", AS_IN_A_BUILD, *packages],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 10_000
