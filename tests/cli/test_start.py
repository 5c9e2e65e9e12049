"""The start of `taskfs`: fast, without libfuse, each failure one line."""

import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud
from tests.fork_server import COMMAND

COMMANDS = (
    *("login", "logout", "mounts", "stats", "ls", "cat", "head", "tail", "du", "cp"),
    *("mount", "umount", "list", "watch", "info", "kill", "wait", "download", "doctor", "demo"),
    *("systemd-unit", "install-helper", "mime-types", "completion", "docs", "manpage"),
)


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_work_without_libfuse_in_well_under_a_second(
    bare: Command, flag: str
) -> None:
    """C-4: `--help` and `--version` work without libfuse and start fast."""
    command = replace(bare, new_interpreter=True)
    fastest = 60.0
    for _ in range(5):  # the fastest run counts, because the machine may be busy
        began = time.monotonic()
        done = command(flag, FUSE_LIBRARY_PATH="/nonexistent")
        fastest = min(fastest, time.monotonic() - began)
        assert done.returncode == 0, done.stderr

    assert fastest < 5.0  # seconds: a bound for a busy machine


@pytest.mark.parametrize(
    "heavy", ["fuse", "requests", "rich", "msgspec", "aiohttp", "platformdirs"]
)
def test_help_imports_nothing_heavy(bare: Command, heavy: str) -> None:
    """C-4: `--help` imports nothing heavy."""
    program = (
        "import sys; from taskfs.cli.main import main; main(['mount', '--help']); "
        f"sys.exit({heavy!r} in sys.modules)"
    )
    done = bare.python(program)
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
        (("lsit",), "No such command 'lsit': did you mean list or ls?"),
        (("Mount", "/x"), "did you mean mount"),
        (("unmount", "/x"), "did you mean umount?"),
        (("ps",), "did you mean list?"),
        (("stop", "x"), "did you mean kill?"),
        (("--versoin",), "No such option '--versoin': did you mean --version?"),
        (("-v", "list"), "'-v': the options of a command follow its name"),
        (("list", "--projct", "x"), "No such option '--projct': did you mean --project?"),
        (("mount", "--cache-sze", "1", "/x"), "did you mean --cache-size or --cache-dir"),
        (("mount", "--no-allow-othr", "/x"), "did you mean --no-allow-other"),
        (("list", "-z"), "No such option '-z' (see"),
        (("mount",), "Missing argument 'MOUNTPOINT'"),
        (("mount", "--cache-size", "big", "/x"), "'big' is not a size: write 10G"),
        (("kill",), "name tasks, or choose them with --project, --status or --all"),
        (("info", "a/b"), "not the id of a task"),
        (("info", "x" * 5000), "xxx...' is not the id of a task"),
        (("list", "-n", "0"), "0 is not in the range"),
        (("list", "-n", "3", "--all"), "exclude each other"),
        (("wait",), "Missing argument"),
        (("wait", "--timeout", "0", "x"), "above 0"),
        (("demo", "--port", "5"), "--port needs --serve"),
        (("demo", "--serve", "/x"), "leave out MOUNTPOINT"),
        (("download", "a", "b", "--output-dir", "c"), "--output-dir takes one ID"),
        (("download", "a", "--archive", "--filenames", "c"), "leave out --filenames"),
        (("download", "a", "--filenames"), "requires an argument (see `taskfs download --help`)"),
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


def test_no_output_and_no_log_holds_the_key_or_a_signature(
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


@pytest.mark.parametrize("command", ["list", "--help", "doctor", "manpage", "watch --once"])
def test_a_closed_standard_output_is_an_error(
    taskfs: Command, cloud: FakeCloud, command: str
) -> None:
    """C-35: Output to a closed descriptor is one line on standard error, exit status 1."""
    cloud.add_task(status="started")
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} {command} >&-"],
        env=taskfs.environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (1, "taskfs: Bad file descriptor\n")


def test_a_command_that_prints_nothing_needs_no_standard_output(
    taskfs: Command, cloud: FakeCloud
) -> None:
    """C-35: A file that gets the number of a closed descriptor receives nothing that is printed."""
    task = cloud.add_task(outputs={"a.txt": b"hello"})
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} download {task} >&- <&-"],
        cwd=taskfs.cwd,
        env=taskfs.environment,
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = [path for path in (taskfs.cwd / "inductiva_output").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in found] == [b"hello"]


def test_an_empty_path_is_a_usage_error(bare: Command) -> None:
    """C-34: An empty path is a wrong call, so an unset variable does not mount on the current
    directory."""
    for command in (
        ("mount", ""),
        ("umount", ""),
        ("demo", ""),
        ("mount", "--cache-dir", "", "/x"),
    ):
        done = bare(*command)
        assert (done.returncode, done.stdout) == (2, ""), command
        assert "the path is empty" in done.stderr and done.stderr.count("\n") == 1
    done = bare("mount", "-o", "cache_dir=", "/x", INDUCTIVA_API_KEY="k")
    assert done.returncode == 1 and "the path is empty" in done.stderr


def test_a_demo_on_a_file_says_so(bare: Command) -> None:
    """C-1: A demo on a file is one line that names the fix."""
    (bare.cwd / "file").touch()
    for target in ("file", "file/x"):
        done = bare("demo", target)
        assert done.returncode == 1
        assert done.stderr == f"taskfs: {bare.cwd / target} is not a directory: choose another\n"
    done = bare("demo", "/proc/nosuch")
    assert done.returncode == 1 and "/proc/nosuch cannot be made" in done.stderr


def test_closed_standard_streams(taskfs: Command, cloud: FakeCloud) -> None:
    """Cron jobs and daemons may close the standard streams."""
    cloud.add_task()
    done = subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} list >&- 2>&- <&-"],
        env=taskfs.environment | {"PATH": os.defpath},
        timeout=30,
    )
    assert done.returncode in (0, 1)


@pytest.mark.parametrize("ignored", [False, True])
def test_ctrl_c_during_the_imports_is_silent(bare: Command, ignored: bool) -> None:
    """C-1: Ctrl+C during the imports ends with status 130 and no traceback."""
    (bare.cwd / "lib").mkdir()
    # Shadows click: it interrupts the process during its import, then imports the real click.
    (bare.cwd / "lib" / "click.py").write_text(
        "import os, signal, sys\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.path.remove(os.path.dirname(__file__)); del sys.modules['click']\n"
        "import click\n"
    )
    path = f"{bare.cwd / 'lib'}{os.pathsep}{bare.environment['PYTHONPATH']}"
    if ignored:  # as for a background job of a script
        done = subprocess.run(
            ["/bin/sh", "-c", f"trap '' INT; {' '.join(COMMAND)} --version"],
            env=bare.environment | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("taskfs ")
        return
    process = bare.start("--version", PYTHONPATH=path)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")  # a shell reports 130


def test_ctrl_c_where_python_can_raise_nothing(taskfs: Command) -> None:
    """C-1: Ctrl+C ends a command also in a callback of a weak reference, as imports have them."""
    (taskfs.cwd / "lib").mkdir()
    # Shadows requests: it interrupts the process in such a callback.
    (taskfs.cwd / "lib" / "requests.py").write_text(
        "import os, signal, time, weakref\n"
        "class Lock: pass\n"
        "lock = Lock()\n"
        "reference = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGINT))\n"
        "del lock\n"
        "time.sleep(5)\n"
        "raise SystemExit(7)\n"
    )
    path = f"{taskfs.cwd / 'lib'}{os.pathsep}{taskfs.environment['PYTHONPATH']}"
    process = taskfs.start("list", PYTHONPATH=path)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


def test_ctrl_c_is_not_repeated_too_early(bare: Command) -> None:
    """C-1: Also where the thread that repeats Ctrl+C runs before the report of it has ended."""
    done = bare.python(
        "import os, signal, threading, time, weakref\n"
        "from taskfs.cli.signals import repeat_swallowed_signals\n"
        "repeat_swallowed_signals()\n"
        "start = threading.Thread.start\n"
        "threading.Thread.start = lambda thread: (start(thread), time.sleep(0.1))\n"
        "class Lock: pass\n"
        "lock = Lock()\n"
        "reference = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGINT))\n"
        "try:\n"
        "    del lock\n"
        "    time.sleep(5)\n"
        "except KeyboardInterrupt:\n"
        "    raise SystemExit(9)\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_where_python_can_raise_nothing(
    bare: Command, number: signal.Signals
) -> None:
    """C-1: Such a command ends with the status of its signal; other exceptions are reported."""
    done = bare.python(
        "import os, time, weakref\n"
        "from taskfs.cli.signals import exit_on_signals, repeat_swallowed_signals\n"
        "exit_on_signals()\n"
        "repeat_swallowed_signals()\n"
        "class Lock: pass\n"
        "def die(status): raise SystemExit(status)\n"
        f"for call in lambda _: die(7), lambda _: os.kill(os.getpid(), {number:d}):\n"
        "    lock = Lock()\n"
        "    reference = weakref.ref(lock, call)\n"
        "    del lock\n"
        "    time.sleep(0.2)\n"
        "time.sleep(5)\n"
    )
    assert done.returncode == 128 + number
    assert done.stderr.count("SystemExit: 7") == 1 == done.stderr.count("Exception ignored")
