"""`taskfs mount` and `demo` without a mount: served output and errors."""

import signal
import urllib.request

import pytest

from taskfs.support.installation import install_hint
from tests.cli.conftest import Command


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_prints_what_a_shell_needs_and_ends_quietly(
    bare: Command, number: signal.Signals
) -> None:
    """C-16: `demo --serve` prints two export lines and ends without a message."""
    process = bare.start("demo", "--serve")
    assert process.stdout and process.stderr
    lines = [process.stdout.readline(), process.stdout.readline()]  # flushed at once

    exports = dict(line.removeprefix("export ").rstrip("\n").split("=", 1) for line in lines)
    assert list(exports) == ["INDUCTIVA_API_URL", "INDUCTIVA_API_KEY"]
    assert all(line.startswith("export ") for line in lines)
    done = bare("list", **exports)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 5
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


def test_serve_on_a_port(bare: Command) -> None:
    """C-16, C-1: `--port` serves on that port; a port that is taken is one line."""
    first = bare.start("demo", "--serve")
    assert first.stdout
    url = first.stdout.readline().split("=")[1].strip()
    try:
        done = bare("demo", "--serve", "--port", url.rpartition(":")[2])
        assert done.returncode == 1
        assert done.stderr.startswith("taskfs: ")
        assert done.stderr.count("\n") == 1
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{url}/tasks")
        caught.value.close()
    finally:
        first.terminate()
        first.communicate(timeout=30)


@pytest.mark.parametrize(
    "arguments", [["demo", "--serve"], ["demo", "/tmp"], ["mount", "--demo", "/tmp"]]
)
def test_without_the_extra_it_says_how_to_install_it(bare: Command, arguments: list[str]) -> None:
    """C-1: Without the extra the error says how to install it."""
    program = (
        "import sys; sys.modules['aiohttp'] = None; from taskfs.cli.main import main; "
        f"sys.exit(main({arguments!r}))"
    )
    done = bare.python(program)
    assert done.returncode == 1
    assert done.stderr.startswith("taskfs: taskfs demo needs the extra `demo`: ")
    assert install_hint("demo") in done.stderr and done.stderr.count("\n") == 1


def test_libfuse_missing_names_the_package(bare: Command) -> None:
    """E-6, C-1: A missing libfuse names its package."""
    (bare.cwd / "mnt").mkdir()
    arguments = ("mount", "--demo", "--engine", "fusepy", str(bare.cwd / "mnt"))
    done = bare(*arguments, FUSE_LIBRARY_PATH="/nonexistent")
    assert done.returncode == 1
    assert "libfuse2 (libfuse2t64 on newer systems)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_to_unmount_needs_no_libfuse(bare: Command) -> None:
    """C-4, C-1: `umount` where nothing is mounted needs no libfuse."""
    done = bare("umount", str(bare.cwd), FUSE_LIBRARY_PATH="/nonexistent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"taskfs: no taskfs is mounted on {bare.cwd}: see `taskfs mounts`\n"


def test_a_missing_key_is_reported_before_mounting(bare: Command) -> None:
    """C-5, X-2: A missing key is reported before anything is mounted."""
    done = bare("mount", str(bare.cwd))
    assert done.returncode == 1
    assert "inductiva auth login" in done.stderr
