"""`taskfs` itself: it starts fast and without libfuse, and every failure is one line."""

import os
import subprocess
import sys
import time

import pytest

from tests.cli.conftest import COMMAND, Command
from tests.fake_api import FakeCloud

COMMANDS = (
    *("mount", "umount", "list", "watch", "info", "kill", "wait", "download", "doctor", "demo"),
    *("systemd-unit", "install-helper", "mime-types", "completion", "docs"),
)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_work_without_libfuse_in_well_under_a_second(
    bare: Command, flag: str
) -> None:
    """C-4: `--help` and `--version` work without libfuse and start fast."""
    fastest = 60.0
    for _ in range(5):  # the machine may be busy; the program is as fast as its fastest run
        began = time.monotonic()
        done = bare(flag, FUSE_LIBRARY_PATH="/nonexistent")
        fastest = min(fastest, time.monotonic() - began)
        assert done.returncode == 0, done.stderr

    assert fastest < 5.0  # with slack for a busy machine


@pytest.mark.parametrize(
    "heavy", ["fuse", "requests", "rich", "msgspec", "aiohttp", "platformdirs"]
)
def test_help_imports_nothing_heavy(bare: Command, heavy: str) -> None:
    """C-4: `--help` imports nothing heavy."""
    program = (
        "import sys; from taskfs.cli import main; main(['mount', '--help']); "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=bare.environment, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_shows_defaults(bare: Command, command: str) -> None:
    """C-11: Every command has a help text that shows defaults."""
    done = bare(command, "--help")

    assert done.returncode == 0
    assert command in bare("--help").stdout
    options = [line for line in done.stdout.splitlines() if line.lstrip().startswith("--")]
    assert len(done.stdout.split("[default:")) > len(options) // 2


def test_version(bare: Command) -> None:
    """C-4: `--version` prints the version."""
    from taskfs import __version__

    assert bare("--version").stdout == f"taskfs {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("list", "--frobnicate"), "--frobnicate"),
        (("mount",), "Missing argument 'MOUNTPOINT'"),
        (("mount", "--cache-size", "big", "/x"), "'big' is not a size: write 10G"),
        (("kill",), "Missing argument"),
        (("info", "a/b"), "not the id of a task"),
        (("list", "-n", "0"), "0 is not in the range"),
        (("list", "-n", "3", "--all"), "exclude each other"),
        (("wait", "--timeout", "0", "x"), "above 0"),
        (("demo", "--port", "5"), "--port needs --serve"),
        (("demo", "--serve", "/x"), "leave out MOUNTPOINT"),
        (("download", "a", "b", "--output-dir", "c"), "--output-dir takes one ID"),
        (("download", "a", "--archive", "--filenames", "c"), "leave out --filenames"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    bare: Command, arguments: tuple[str, ...], complaint: str
) -> None:
    """C-1: A wrong call is one line, with exit status 2."""
    done = bare(*arguments)

    assert done.returncode == 2
    assert done.stderr.startswith("taskfs: ")
    assert complaint in done.stderr
    assert "--help`" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_key_is_never_an_argument(bare: Command) -> None:
    """Y-3: No command takes a key as an argument."""
    assert bare("list", "--api-key", "abc").returncode == 2
    done = bare("mount", "-o", "api_key=sesame", "/x")
    assert (done.returncode, "sesame" in done.stderr) == (1, False)
    assert "api_key_file" in done.stderr


@pytest.mark.parametrize("command", [("list",), ("info", "x"), ("kill", "x"), ("wait", "x")])
def test_a_missing_key_names_the_fix(bare: Command, command: tuple[str, ...]) -> None:
    """C-1, X-2: A missing key is one line that names the fix."""
    done = bare(*command)

    assert done.returncode == 1
    assert "inductiva auth login" in done.stderr
    assert "--api-key-file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_key_names_the_fix_and_is_not_printed(taskfs: Command) -> None:
    """C-1, Y-3: A wrong key is one line that names the fix and not the key."""
    done = taskfs("list", INDUCTIVA_API_KEY="sesame")

    assert done.returncode == 1
    assert "inductiva auth login" in done.stderr
    assert "sesame" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_api_that_is_not_reached_names_the_fix(bare: Command) -> None:
    """C-1, X-3: An API that is not reached is one line that names the fix."""
    done = bare(
        *("list", "--api-url", "http://127.0.0.1:1", "--timeout", "500ms"), INDUCTIVA_API_KEY="k"
    )

    assert done.returncode == 1
    assert "--api-url" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_key_file_and_configuration_file(bare: Command, cloud: FakeCloud) -> None:
    """C-24, C-25: The key file and the configuration file are read."""
    task = cloud.add_task()
    (bare.cwd / "key").write_text(cloud.api_key + "\n")
    (bare.cwd / "settings.toml").write_text(f'api_url = "{cloud.api_url}"\n')

    done = bare("list", "--config", "settings.toml", "--api-key-file", "key")

    assert done.returncode == 0, done.stderr
    assert task in done.stdout


def test_nothing_printed_or_logged_tells_the_key_or_a_signature(
    taskfs: Command, cloud: FakeCloud
) -> None:
    """Y-3, Y-6: Neither output nor log shows the key or a signature."""
    task = cloud.add_task(outputs={"stdout.txt": b"hello"})
    log = taskfs.cwd / "log"

    done = taskfs("download", task, "-vv", "--log-file", str(log))
    shown = done.stdout + done.stderr + log.read_text()
    done = taskfs("download", task, "-vv", "--archive")
    shown += done.stdout + done.stderr

    assert cloud.api_key not in shown
    assert "ignature" not in shown


def test_a_reader_that_leaves_ends_the_command_quietly(taskfs: Command, cloud: FakeCloud) -> None:
    """C-1: A closed pipe ends the command without a message."""
    for _ in range(300):
        cloud.add_task()
    process = taskfs.start("list", "--all", "--json")
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()

    assert process.wait(30) == 141
    with process.stderr:
        assert process.stderr.read() == ""


def test_a_full_disk_is_an_error(taskfs: Command, cloud: FakeCloud) -> None:
    """C-1: Output that cannot be written is an error."""
    cloud.add_task()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "list"],
            env=taskfs.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1
    assert done.stderr == "taskfs: No space left on device\n"


def test_closed_standard_streams(taskfs: Command, cloud: FakeCloud) -> None:
    """cron jobs and daemons may close them."""
    cloud.add_task()
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} list >&- 2>&- <&-"],
        env=taskfs.environment | {"PATH": os.defpath},
        timeout=30,
    )
    assert done.returncode in (0, 1)
