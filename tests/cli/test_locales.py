"""Non-UTF-8 locales: no command fails over a character that the encoding lacks."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import TIMEOUT_S, Command
from tests.fake_api import FakeCloud
from tests.fork_server import run_bytes
from tests.programs import require_program

FILES = {"plain.txt": b"p", "é.txt": b"e", "Σ/日本.txt": b"s"}
PROJECT = "été Σ"


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an en_US locale in ISO-8859-1."""
    mountpoint = tmp_path_factory.mktemp("locales")
    localedef = require_program("localedef", "libc-bin locales")
    done = subprocess.run(
        [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(mountpoint / "en_US")],
        capture_output=True,
        text=True,
    )
    assert (mountpoint / "en_US").is_dir(), f"apt-get install locales: {done.stderr}"
    return mountpoint


@pytest.fixture(params=["en_US", "POSIX", "latin-1 streams", "ASCII streams"])
def odd(request: pytest.FixtureRequest, taskfs: Command, locales: Path) -> Command:
    """The command with non-UTF-8 streams; the first two also have non-UTF-8 file names."""
    settings = {
        "en_US": {"LC_ALL": "en_US", "LOCPATH": str(locales)},
        "POSIX": {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        # Without a locale, Python uses C.UTF-8.
        "latin-1 streams": {"PYTHONIOENCODING": "iso8859-1:strict"},
        "ASCII streams": {"PYTHONIOENCODING": "ascii:strict"},
    }
    return Command(taskfs.cwd, taskfs.environment | settings[request.param])


def call(
    taskfs: Command, *arguments: str | Path, stdin: bytes = b""
) -> "subprocess.CompletedProcess[bytes]":
    done = run_bytes(
        [*map(str, arguments)],
        cwd=taskfs.cwd,
        environment=taskfs.environment,
        stdin=stdin,
        timeout_s=TIMEOUT_S,
    )
    assert b"Unicode" not in done.stderr, done.stderr
    assert b"unexpected error" not in done.stderr, done.stderr
    return done


@pytest.fixture
def task(cloud: FakeCloud) -> str:
    cloud.add_task(status="started", project=PROJECT, simulator="日本")
    return cloud.add_task(
        outputs=FILES, project=PROJECT, simulator="日本", error_detail="température 😀 \udcff"
    )


@pytest.mark.parametrize("command", [["list"], ["info", "ID"], ["watch", "--once"]])
def test_what_the_terminal_cannot_show_is_replaced(
    odd: Command, task: str, command: Sequence[str]
) -> None:
    """C-31: A character that the terminal's encoding lacks is shown as `?`."""
    done = call(odd, *(task if word == "ID" else word for word in command))
    assert (done.returncode, done.stderr) == (0, b"")
    assert task.encode() in done.stdout or command[0] == "watch"


@pytest.mark.parametrize("command", [["list"], ["info", "ID"], ["watch", "--once"]])
def test_json_is_lossless(odd: Command, task: str, command: Sequence[str]) -> None:
    """C-31: `--json` is lossless in every locale."""
    done = call(odd, *(task if word == "ID" else word for word in command), "--json")
    assert (done.returncode, done.stderr) == (0, b"")
    records = json.loads(done.stdout.decode("utf-8"))
    for record in records if isinstance(records, list) else [records]:
        assert (record["project"], record["simulator"]) == (PROJECT, "日本")


def test_download_names_files_as_the_mount_does(odd: Command, task: str) -> None:
    """C-37: File names of a download are UTF-8, whatever the locale."""
    done = call(odd, "download", task)
    assert (done.returncode, done.stderr) == (0, b"")
    mountpoint = os.fsencode(odd.cwd / "inductiva_output" / task)
    found = {
        os.path.relpath(os.path.join(folder, name), mountpoint).decode("utf-8"): Path(
            os.fsdecode(os.path.join(folder, name))
        ).read_bytes()
        for folder, _, names in os.walk(mountpoint)
        for name in names
    }
    assert found == FILES
    assert call(odd, "download", task).returncode == 0  # recognises the existing files


def test_a_name_of_the_archive_is_typed_as_the_terminal_shows_it(odd: Command, task: str) -> None:
    """C-37, C-21: A name with an accent selects its member."""
    done = call(odd, "download", task, "--filenames", "é.txt")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (odd.cwd / "inductiva_output" / task / "é.txt").read_bytes() == b"e"


@pytest.mark.parametrize("arguments", [["list", "--project", "é"], ["info", "é"], ["kill", "é"]])
def test_arguments_with_accents(odd: Command, task: str, arguments: Sequence[str]) -> None:
    """C-31, C-1: An argument with an accent in an error is one line."""
    done = call(odd, *arguments)
    assert done.stderr.count(b"\n") == 1, done.stderr


def test_an_answer_with_an_accent_kills_nothing(odd: Command, cloud: FakeCloud) -> None:
    """C-19: An answer with an accent kills nothing."""
    done = call(odd, "kill", cloud.add_task(status="started"), stdin="é\xff\n".encode("latin-1"))
    assert done.returncode == 1
    assert b"nothing was killed" in done.stderr


def test_a_path_with_an_accent_in_the_toml_file(odd: Command, task: str) -> None:
    """C-37: The TOML file is UTF-8, and so are its paths."""
    settings = odd.cwd / "settings.toml"
    settings.write_text('log_file = "é/log"\noutput_parent = "Σ"\n', encoding="utf-8")
    done = call(odd, "download", task, "--config", settings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (odd.cwd / "é/log").exists()
    assert (odd.cwd / "Σ" / task / "é.txt").exists()


@pytest.mark.mount
def test_a_mountpoint_with_an_accent(odd: Command, task: str) -> None:
    """C-31, E-10: `umount` finds a mountpoint with an accent and waits for the daemon's end."""
    mountpoint = odd.cwd / "é Σ"
    mountpoint.mkdir()
    try:
        done = call(odd, "mount", mountpoint)
        assert (done.returncode, done.stderr) == (0, b"")
        assert sorted(os.listdir(mountpoint / task / "outputs")) == sorted(
            {"plain.txt", "é.txt", "Σ"}
        )
        again = call(odd, "mount", mountpoint)
        assert again.returncode == 1
        assert b"is mounted already" in again.stderr
        done = call(odd, "umount", mountpoint)
        assert (done.returncode, done.stderr) == (0, b"")
        assert not os.path.ismount(mountpoint)
    finally:
        subprocess.run(["fusermount", "-uqz", str(mountpoint)], check=False)


@pytest.mark.parametrize(
    "command",
    [
        ["wait", "ID"],
        ["doctor"],
        ["--help"],
        ["mount", "--help"],
        ["mount", "é\udcff"],
        ["umount", "é"],
    ],
)
def test_no_other_command_fails_over_a_character(
    odd: Command, task: str, command: Sequence[str]
) -> None:
    """C-31: No other command fails over a character."""
    done = call(odd, *(task if word == "ID" else word for word in command))
    assert done.stdout or done.stderr.count(b"\n") == 1


def test_watch_on_a_terminal(odd: Command, cloud: FakeCloud) -> None:
    """C-31, C-8: Keys and table are shown in ASCII where the terminal lacks the arrows."""
    killed = cloud.add_task(status="started", project=PROJECT, simulator="日本")
    with odd.terminal("watch") as terminal:
        terminal.read_until("choose")
        terminal.type("q")
        assert terminal.end() == 0
    assert killed in terminal.text
    assert "^ v choose" in terminal.text
    assert "Unicode" not in terminal.text


def test_the_progress_bar_is_ascii(odd: Command, task: str) -> None:
    """C-31: The progress bar is drawn with the characters that the terminal has."""
    with odd.terminal("download", task) as terminal:
        assert terminal.end() == 0
    assert "100%" in terminal.text
    assert "Unicode" not in terminal.text
