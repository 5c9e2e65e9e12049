"""`taskfs login` and `logout`: the key is checked, and only its owner can read it."""

import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.fake_api import FakeCloud


@pytest.fixture
def keyless(bare: Command, cloud: FakeCloud) -> Command:
    """The command with the cloud's URL and without a key."""
    return Command(bare.cwd, bare.environment | {"INDUCTIVA_API_URL": cloud.api_url})


def key_file(home: Path) -> Path:
    return home / ".inductiva" / "api_key"


def test_on_a_terminal_the_key_is_not_shown(keyless: Command, cloud: FakeCloud, home: Path) -> None:
    """C-56: The key is read without echo, checked, and written for the owner alone."""
    with keyless.terminal("login") as terminal:
        terminal.read_until("API key: ")
        terminal.type(f"{cloud.api_key}\n")
        assert terminal.end() == 0
    assert cloud.api_key not in terminal.text
    assert f"accepts the key, which is now in {key_file(home)}" in terminal.text
    assert key_file(home).read_text() == f"{cloud.api_key}\n"
    assert stat.S_IMODE(key_file(home).stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file(home).parent.stat().st_mode) == 0o700
    assert keyless("list").returncode == 0


def test_in_a_script_it_is_the_first_line(keyless: Command, cloud: FakeCloud, home: Path) -> None:
    """C-56: Without a terminal the key is read from standard input."""
    done = keyless("login", stdin=f"{cloud.api_key}\nmore\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert key_file(home).read_text() == f"{cloud.api_key}\n"


@pytest.mark.parametrize("key", ["wrong", "", "not a key!"])
def test_a_bad_key_is_not_written(keyless: Command, home: Path, key: str) -> None:
    """C-56: A key that is refused, empty or malformed is one line, and the old one stays."""
    key_file(home).parent.mkdir()
    key_file(home).write_text("old\n")
    done = keyless("login", stdin=f"{key}\n")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "https://console.inductiva.ai/account" in done.stderr
    assert not key or key not in done.stderr
    assert "run `taskfs login`" not in done.stderr
    assert key_file(home).read_text() == "old\n"
    assert [path.name for path in key_file(home).parent.iterdir()] == ["api_key"]


def test_an_api_that_does_not_answer_writes_nothing(keyless: Command, home: Path) -> None:
    """C-56: A key that cannot be checked is not written."""
    url = "http://127.0.0.1:1"
    done = keyless("login", "--api-url", url, "--timeout", "500ms", stdin="key\n")
    assert done.returncode == 1 and "--api-url" in done.stderr
    assert not key_file(home).exists()


def test_ctrl_c_at_the_prompt(keyless: Command, home: Path) -> None:
    """C-56: Ctrl+C leaves without a key."""
    with keyless.terminal("login") as terminal:
        terminal.read_until("API key: ")
        assert terminal.interrupt() == 130
    assert "Traceback" not in terminal.text and not key_file(home).exists()


def test_ctrl_d_at_the_prompt(keyless: Command, home: Path) -> None:
    """C-56, C-1: Ctrl+D at the prompt is an empty key."""
    with keyless.terminal("login") as terminal:
        terminal.read_until("API key: ")
        terminal.type("\x04")
        assert terminal.end() == 1
    assert "the API key is empty" in terminal.text and not key_file(home).exists()


def test_a_variable_that_takes_precedence_is_noted(keyless: Command, cloud: FakeCloud) -> None:
    """C-56: A variable with a key wins over the file, so login and logout name it."""
    done = keyless("login", stdin=f"{cloud.api_key}\n", INDUCTIVA_API_KEY="other")
    assert done.returncode == 0
    assert done.stderr.startswith("note: INDUCTIVA_API_KEY is set and takes precedence")
    assert "INDUCTIVA_API_KEY" in keyless("logout", INDUCTIVA_API_KEY="other").stderr


def test_logout(keyless: Command, cloud: FakeCloud, home: Path) -> None:
    """C-56: logout removes the key's file, and says so if there is none."""
    keyless("login", stdin=f"{cloud.api_key}\n")
    done = keyless("logout")
    assert (done.returncode, done.stdout) == (0, f"the key in {key_file(home)} is removed\n")
    assert not key_file(home).exists()
    assert keyless("list").returncode == 1
    done = keyless("logout")
    assert (done.returncode, done.stdout) == (0, f"there is no key in {key_file(home)}\n")
