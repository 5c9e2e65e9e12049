"""The embedded cloud, mounted: other commands reach it, other users do not."""

import json
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fork_server import COMMAND
from tests.mounts import Taskfs, eventually, is_mounted, processes_naming
from tests.programs import require_program

pytestmark = pytest.mark.mount

MODULE = " ".join(COMMAND)
UNPRIVILEGED = 65534
# How each shell evaluates the output of `demo --env`.
SHELLS = {
    "bash": f'eval "$({MODULE} demo --env "$MOUNTPOINT")"; ',
    "zsh": f'eval "$({MODULE} demo --env "$MOUNTPOINT")"; ',
    "fish": f'{MODULE} demo --env "$MOUNTPOINT" | source; ',
    "sh": f'eval "$({MODULE} demo --env "$MOUNTPOINT")"; ',
}


@pytest.fixture
def bare(tmp_path: Path) -> Taskfs:
    """The command without an API key."""
    return Taskfs(tmp_path, None)


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """A mountpoint with a blank in its name; it is unmounted at the end."""
    mountpoint = tmp_path / "my demo"
    yield mountpoint
    if is_mounted(mountpoint):
        subprocess.run(["fusermount", "-uz", mountpoint], check=False)
    eventually(lambda: not processes_naming(mountpoint))


@pytest.fixture
def demo(bare: Taskfs, mountpoint: Path) -> Path:
    done = bare("demo", mountpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo --env " in done.stdout
    return mountpoint


def run_in(shell: str, bare: Taskfs, demo: Path, command: str) -> str:
    """Return the output of a command that *shell* runs with the demo's variables."""
    before = {
        "TASKFS_API_URL": "http://127.0.0.1:1",
        "TASKFS_API_KEY": "x",
        "MOUNTPOINT": str(demo),
    }
    done = subprocess.run(
        [require_program(shell), "-c", SHELLS[shell] + f"{MODULE} {command}"],
        env=bare.environment | before,
        cwd=bare.home,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_each_shell_takes_the_variables(bare: Taskfs, demo: Path) -> None:
    """C-16: Each shell evaluates what `demo --env MOUNTPOINT` prints, whatever the variables were
    before."""
    shown = {path.name for path in demo.iterdir() if not path.name.startswith(".")}
    for shell in SHELLS:
        listed = json.loads(run_in(shell, bare, demo, "list --all --json"))
        assert {record["task_id"] for record in listed} == shown, shell


def test_other_commands_talk_to_the_mounted_demo(bare: Taskfs, demo: Path) -> None:
    """C-16: With the variables of `demo --env MOUNTPOINT` other commands reach the mounted demo."""
    assert json.loads(run_in("bash", bare, demo, "watch --json"))
    finished = next((demo / ".by-status/success").iterdir()).name
    assert finished in run_in("bash", bare, demo, f"wait {finished} --json")
    run_in("bash", bare, demo, f"download {finished}")
    assert any((bare.home / "inductiva_output" / finished).iterdir())


def test_only_the_owner_reads_the_key(bare: Taskfs, mountpoint: Path) -> None:
    """N-23, Y-3: `.taskfs/environment`, which holds the demo's key, is 0600."""
    mountpoint.mkdir()
    assert bare("mount", "--demo", "--allow-other", mountpoint).returncode == 0
    file = mountpoint / ".taskfs/environment"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    program = "import sys; open(sys.argv[1])"
    for path, status in ((mountpoint / ".taskfs/version", 0), (file, 1)):
        done = subprocess.run(
            ["setpriv", f"--reuid={UNPRIVILEGED}", "--clear-groups", "--inh-caps=-all",
             sys.executable, "-Sc", program, path.relative_to(mountpoint)],
            cwd=mountpoint, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
    assert "PermissionError" in done.stderr


def test_an_account_has_no_such_file(bare: Taskfs, mountpoint: Path) -> None:
    """N-23: A mount of an account has no `.taskfs/environment`."""
    served = subprocess.Popen(
        [*COMMAND, "demo", "--serve"], env=bare.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert served.stdout is not None
        lines = [served.stdout.readline().removeprefix("export ").strip() for _ in range(2)]
        variables = dict(line.split("=", 1) for line in lines)
        mountpoint.mkdir()
        assert bare("mount", mountpoint, **variables).returncode == 0
        assert sorted(path.name for path in (mountpoint / ".taskfs").iterdir()) == [
            *("refresh", "stats.json", "version")
        ]
        done = bare("demo", "--env", mountpoint)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"taskfs: {mountpoint} shows the tasks of an account: start a demo on another "
            "directory with taskfs demo DIRECTORY\n"
        )
        assert bare("umount", mountpoint).returncode == 0
    finally:
        served.terminate()
        served.communicate(timeout=30)


def test_a_port_in_use_names_the_fix(bare: Taskfs) -> None:
    """C-16, C-1: `demo --serve --port` of a port that is in use is one line that names the fix."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = bare("demo", "--serve", "--port", str(port))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"taskfs: port {port} of 127.0.0.1 cannot be used (")
    assert done.stderr.endswith("): choose another --port\n") and done.stderr.count("\n") == 1


def test_without_a_living_demo_it_says_how_to_get_one(bare: Taskfs, demo: Path) -> None:
    """C-16, C-1: Without a live demo `--env` is one line that names the fix."""
    assert bare("umount", demo).returncode == 0
    done = bare("demo", "--env", demo)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"taskfs: no demo is mounted on {demo}: start one with taskfs demo '{demo}'\n"
    )
    done = bare("demo", "--env", "--serve")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_the_script_has_help() -> None:
    """`scripts/demo --help` says what the script does, and does nothing else."""
    script = Path(__file__).parents[2] / "scripts/demo"
    for flag in ("--help", "-h"):
        done = subprocess.run([script, flag], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("scripts/demo [MOUNTPOINT]\n")
    for arguments in (["--nonsense"], ["a", "b"]):
        done = subprocess.run([script, *arguments], capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1 and "--help" in done.stderr


def test_the_tour_ends_with_a_running_log(bare: Taskfs, mountpoint: Path, tmp_path: Path) -> None:
    """L-13: `scripts/demo` installs the extra `live`, and its tour ends with three lines of a
    running log."""
    repository = tmp_path / "repository"
    for directory in ("scripts", ".venv/bin"):
        (repository / directory).mkdir(parents=True)
    script = repository / "scripts/demo"
    script.write_bytes((Path(__file__).parents[2] / "scripts/demo").read_bytes())
    setup, command = repository / "scripts/setup", repository / ".venv/bin/taskfs"
    setup.write_text('#!/bin/sh\necho "$@" >installed\n')
    command.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    for program in (script, setup, command):
        program.chmod(0o755)
    done = subprocess.run(
        [script, mountpoint], env=bare.environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "live" in (repository / "installed").read_text().strip().split(",")
    last = done.stdout.split("\n$ ")[-1].partition("\n\n")[0].splitlines()
    assert last[0].startswith("tail -n 3 ") and last[0].endswith("/live/stdout.txt")
    assert len(last) == 4 and "residual" in "".join(last[1:])
