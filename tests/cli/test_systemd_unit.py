"""`taskfs systemd-unit` and `install-helper`, without changes to the system."""

import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import pytest

from taskfs.cli.systemd_unit import fstab_line, unit_text
from tests.cli.conftest import Command
from tests.programs import require_program

ODD_NAMES = ["tasks", "with space", "100%", "$HOME", 'quo"te', "back\\slash", "semi;colon", "ä"]
ODD_NAMES += ["new\nline", "backslash\\", os.fsdecode(b"\xff")]


@pytest.fixture
def program(bare: Command) -> Path:
    """An executable `taskfs`, which a unit must name."""
    return bare.write_executable()


def run(program: Path, bare: Command, *arguments: str, prefix: tuple[str, ...] = ()) -> str:
    done = subprocess.run(
        [*prefix, str(program), *arguments],
        env=bare.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def verify(text: str, directory: Path) -> None:
    """Fail unless `systemd-analyze verify` accepts *text* without output."""
    analyze = require_program("systemd-analyze", "systemd")
    file = directory / "taskfs.service"
    file.write_text(text)
    # Not below *directory*: the path of a socket has at most 108 bytes.
    with tempfile.TemporaryDirectory() as run_time:
        done = subprocess.run(
            [analyze, "--user", "verify", str(file)],
            env={**os.environ, "XDG_RUNTIME_DIR": run_time, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit(program: Path, bare: Command) -> None:
    """C-12, E-16, E-17: The unit is `Type=notify` with ExecStop, and systemd-analyze accepts it."""
    text = run(program, bare, "systemd-unit", "/srv/tasks", "-o", "ro,project=mine")
    lines = text.splitlines()
    assert "Type=notify" in lines
    assert f"ExecStart={program} mount --foreground -o ro,project=mine -- /srv/tasks" in lines
    assert f"ExecStop={program} umount --lazy -- /srv/tasks" in lines
    verify(text, bare.cwd)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_the_unit_of_any_directory(bare: Command, program: Path, name: str) -> None:
    """C-12: systemd-analyze accepts the unit for any name of the mountpoint."""
    text = unit_text(bare.cwd / name, "project=a b%", program)
    assert "\\\n" not in text  # a backslash at the end of a line hides the next one
    verify(text, bare.cwd)


def test_without_a_mountpoint_it_is_in_the_home(program: Path, bare: Command) -> None:
    """C-12: Without a mountpoint the unit names ~/tasks."""
    assert f"-- {bare.environment['HOME']}/tasks\n" in run(program, bare, "systemd-unit")


def test_the_line_of_fstab(program: Path, bare: Command) -> None:
    """C-12: The line for an ordinary user names the uid, the gid and the key file."""
    key = Path(bare.environment["HOME"]) / ".inductiva/api_key"
    key.parent.mkdir()
    key.write_text("k\n")
    line = run(program, bare, "systemd-unit", "--fstab", "/mnt/my tasks", "-o", "ro")
    fields = line.rstrip("\n").split(" ")
    assert [*fields[:3], *fields[4:]] == ["taskfs", "/mnt/my\\040tasks", "fuse.taskfs", "0", "0"]
    words = fields[3].split(",")
    assert words[0] == "_netdev" and words[-1] == "ro"
    assert f"api_key_file={key}" in words
    table = bare.cwd / "fstab"
    table.write_text(line)
    shown = subprocess.run(
        ["findmnt", "--tab-file", str(table), "-nro", "SOURCE,TARGET,FSTYPE"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shlex.split(shown.stdout.replace("\\x20", " "))[:1] == ["taskfs"]


def test_a_key_that_services_do_not_see_is_a_note(bare: Command, program: Path) -> None:
    """C-12: A key that exists only in a shell variable is a note: services do not see it."""
    environment = bare.environment | {"INDUCTIVA_API_KEY": "sesame"}
    done = subprocess.run(
        [program, "systemd-unit"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "services do not see your shell's variables" in done.stderr
    assert "sesame" not in done.stdout + done.stderr


def test_options_are_checked_as_a_mount_would(bare: Command) -> None:
    """C-1: An option that a mount would refuse is one line that names the fix."""
    done = bare("systemd-unit", "-o", "bogus")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "taskfs: -o: unknown option 'bogus': see `taskfs mount --help`\n"


def test_install_helper_needs_root(bare: Command) -> None:
    """E-15, C-1: Without root, `install-helper` is a one-line error."""
    program = (
        "import os, sys; os.geteuid = lambda: 1000\nfrom taskfs.cli.main import main\n"
        "sys.exit(main(['install-helper']))"
    )
    done = bare.python(program)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "/sbin/mount.fuse.taskfs is root's: sudo " in done.stderr


def test_bytes_that_are_no_text_are_escaped() -> None:
    """C-12: A mountpoint in no encoding is written with escapes, and no other is."""
    mountpoint = Path(os.fsdecode(b"/mnt/\xff t"))
    assert '"/mnt/\\xff t"' in unit_text(mountpoint, "", Path("/usr/bin/taskfs"))
    assert " /mnt/\\377\\040t " in fstab_line(mountpoint, "")
