"""The README's transcripts and examples, run as they are printed, on the embedded cloud."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from taskfs.fuse.mountpoint import umount
from tests.docs.transcript import blocks, install_command, matches, run, section, steps
from tests.fake_api import FakeCloud
from tests.fork_server import ROOT
from tests.mounts import eventually, is_mounted

README: Final = (ROOT / "README.md").read_text()
ADMINISTRATION: Final = (ROOT / "taskfs/docs/administration.md").read_text()
FSSPEC: Final = (ROOT / "taskfs/docs/fsspec.md").read_text()
TIMEOUT_S: Final = 90.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home directory with the command `taskfs`; what is mounted below it is unmounted."""
    install_command(tmp_path)
    for name in ("tasks", "backup"):
        (tmp_path / name).mkdir()
    yield tmp_path
    for name in ("tasks", "taskfs-demo"):
        if is_mounted(tmp_path / name):
            umount(tmp_path / name, lazy=True)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "PATH": os.pathsep.join((str(home / "bin"), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "TASKFS_ENGINE": os.environ.get("TASKFS_ENGINE", "auto"),
    }


@pytest.fixture
def account(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same with a key and an API: an account whose tasks are those of the demo."""
    with FakeCloud(populate=True) as cloud:
        yield environment | {
            "INDUCTIVA_API_URL": cloud.api_url,
            "INDUCTIVA_API_KEY": cloud.api_key,
        }


def python(program: str, environment: dict[str, str], cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_the_first_five_minutes(environment: dict[str, str], home: Path) -> None:
    """N-1, N-2, N-7, T-2, T-3, T-4, K-2, K-5, K-12, R-5: The first transcript runs as printed."""
    (block,) = blocks(section(README, "The first five minutes"), "console")
    run(block, environment, home, TIMEOUT_S)
    assert not is_mounted(home / "taskfs-demo")


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_the_recipes(account: dict[str, str], home: Path) -> None:
    """N-3, N-6, N-7, A-7, T-7, T-8, S-1, S-4: The recipes run as printed, the Python one too."""
    recipes = section(README, "Recipes")
    run("".join(blocks(recipes, "console")), account, home, TIMEOUT_S)
    (program,) = blocks(recipes, "python")
    *means, pressure = python(program, account, home).splitlines()
    assert {line.split()[0] for line in means} >= {"q7c2m0xw95hdt8ynbz4rkv1ej"}
    assert all(0 < float(line.split()[1]) < 10 for line in means)
    assert len(pressure.strip("[]").split()) == 5


@pytest.mark.mount
@pytest.mark.usefixtures("each_engine")
def test_the_recipes_of_events(environment: dict[str, str], home: Path) -> None:
    """V-1: inotifywait and entr see what happens in the cloud, called as printed."""
    paragraph = next(text for text in README.split("\n\n") if text.startswith("Changes in the"))
    recipes = re.findall("`([^`]+)`", paragraph)
    assert [recipe.split()[0] for recipe in recipes] == ["inotifywait", "ls"]
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(FakeCloud())
        task = cloud.add_task(status="started")
        environment |= {"INDUCTIVA_API_URL": cloud.api_url, "INDUCTIVA_API_KEY": cloud.api_key}
        log = home / "log"
        mount = ["taskfs", "mount", str(home / "tasks"), "--verbose", "--log-file", str(log)]
        subprocess.run(mount, env=environment, check=True)
        outputs = []
        for number, recipe in enumerate(recipes):
            outputs.append(home / f"screen{number}")
            outputs[-1].touch()
            # On a terminal, which entr needs.
            program = subprocess.Popen(
                ["script", "-qfc", recipe.replace("ID", task), str(outputs[-1])],
                cwd=home / "tasks",
                env=environment | {"SHELL": "/bin/bash"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            stack.enter_context(program)
            stack.callback(program.terminate)
        eventually(lambda: "programs watch 2 files and directories" in log.read_text())
        cloud.set_status(task, "failed")
        eventually(lambda: f"CREATE {task}" in outputs[0].read_text())
        eventually(lambda: "failed" in outputs[1].read_text().split())


def test_python_without_a_mount(account: dict[str, str], home: Path) -> None:
    """P-1, P-4, P-16: The examples of the README and of the document on fsspec run as printed."""
    (example,) = blocks(section(README, "Python without a mount"), "python")
    paths = [line.split()[0] for line in python(example, account, home).splitlines()]
    assert ".by-project/mixing-tank/q7c2m0xw95hdt8ynbz4rkv1ej/outputs/forces.csv" in paths
    first = blocks(FSSPEC, "python")[0]
    assert "i4ir3kvv62odsfrhko4y8w2an" in python(first, account, home)


@pytest.mark.mount
def test_the_batch_script(environment: dict[str, str], home: Path) -> None:
    """R-31: The batch script runs as printed; a second job fetches nothing from the store."""
    (script,) = blocks(section(ADMINISTRATION, "On a cluster"), "bash")
    (home / "job.sh").write_text(script)
    task = "q7c2m0xw95hdt8ynbz4rkv1ej"
    printed, requests = [], []
    with FakeCloud(populate=True) as cloud:
        job = environment | {"SCRATCH": str(home), "TMPDIR": str(home)}
        job |= {"INDUCTIVA_API_URL": cloud.api_url, "INDUCTIVA_API_KEY": cloud.api_key}
        for _ in range(2):
            done = subprocess.run(
                ["bash", "job.sh", task],
                env=job,
                cwd=home,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
            )
            assert (done.returncode, done.stderr) == (0, "")
            printed.append(done.stdout)
            requests.append(sum(record.side == "store" for record in cloud.requests))
    assert printed[0] == printed[1] and "," in printed[0]
    assert requests[0] == requests[1] > 0
    assert not list(home.glob("tmp.*"))


def test_the_readme_is_short() -> None:
    """The README has at most 250 lines, and no line names taskfs on a package index."""
    assert len(README.splitlines()) <= 250
    assert "install taskfs" not in README.replace("uninstall taskfs", "")
    assert "'taskfs[" not in README


def test_a_transcript_that_differs_is_noticed(tmp_path: Path) -> None:
    """The transcripts' test can fail: another output, one line more, one line less."""
    assert [step.command for step in steps("$ a |\n> b\nx\n$ c\n")] == ["a |\nb", "c"]
    assert matches("a ... c\n...\nz", "a b c\n1\n2\nz\n")
    assert not matches("a", "a\nb\n") and not matches("a\nb", "a\n") and not matches("", "x\n")
    run("$ cd /\n$ echo 1 |\n>   cat\n1\n$ pwd\n/\n", dict(os.environ), tmp_path, TIMEOUT_S)
    with pytest.raises(AssertionError, match="echo 2"):
        run("$ echo 2\n1\n", dict(os.environ), tmp_path, TIMEOUT_S)
