"""The public client works with the embedded cloud.

The client is installed once from PyPI into an environment in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from taskfs.demo.cloud import EmbeddedCloud
from tests.stun import StunServer

CLIENT: Final = "inductiva==0.18.12"
FINISHED: Final = "i4ir3kvv62odsfrhko4y8w2an"
SESSION: Final = Path(__file__).with_name("public_client_session.py")

pytestmark = pytest.mark.public_client


@pytest.fixture(scope="session")
def client_python() -> Path:
    """Return the interpreter of an environment with the public client; create it if missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = cache / "taskfs-tests" / CLIENT.replace("==", "-")
    python, complete = home / "bin" / "python", home / ".complete"
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process of a run installs it, the others wait
        if not complete.exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
            install = ["pip", "install", "--quiet", "--retries", "10", "--timeout", "60", CLIENT]
            subprocess.run([str(python), "-m", *install], check=True)
            complete.touch()
    return python


def run(command: list[str], cloud: EmbeddedCloud, directory: Path, **variables: str) -> str:
    """Run a command of the public client against *cloud*; return its output."""
    home = directory / "home"  # the client writes there
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(home),
        "INDUCTIVA_API_URL": cloud.api_url,
        "INDUCTIVA_API_KEY": cloud.api_key,
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        command,
        env=environment | variables,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_listing_status_outputs_download_and_kill(client_python: Path, tmp_path: Path) -> None:
    with EmbeddedCloud() as cloud:
        (running,) = (i for i, s in cloud.statuses().items() if s == "computation-started")
        lines = run(
            [str(client_python), str(SESSION), FINISHED, running, str(tmp_path / "outputs")],
            cloud,
            tmp_path,
        )
        seen = json.loads(lines.splitlines()[-1])
        statuses = cloud.statuses()
        killed, leaked = cloud.killed, cloud.store.leaked_keys

    assert list(seen["all"])[:3] == seen["latest"]
    assert seen["all"].keys() == statuses.keys()
    assert seen["table"] == seen["summaries"] == len(statuses)
    assert FINISHED in seen["success"]
    assert sum(seen["projects"].values()) == len(statuses)
    assert len(seen["in_project"]) == seen["projects"]["mixing-tank"]
    assert (seen["machine"], seen["computation_time"]) == ("GCP-c2-standard-4", 192.0)
    assert seen["running_time"] > 380
    assert set(seen["queue"]) <= {0, 1}
    assert {"stdout.txt", "stderr.txt", "log/", "vtk/"} <= seen["output_info"].keys()
    assert "Number of files: 5" in seen["output_text"]
    assert seen["partial"].keys() == {"stdout.txt", "vtk/ParticleData_Fluid_3.vtk"}
    assert {**seen["full"], **seen["partial"]} == seen["full"]
    assert len(seen["full"]) == 24 and seen["full"]["stdout.txt"] > 0
    assert "sim_dir/config.json" in seen["inputs"]
    assert seen["metadata"] == {"origin": "public client"}
    assert (seen["kill"], seen["killed"], seen["kill_finished"]) == (True, "killed", False)
    assert (killed, leaked) == ([running], [])


def test_files_of_a_running_task(client_python: Path, tmp_path: Path) -> None:
    """The public client's `list-files`, `tail` and `top` reach a machine of the embedded cloud."""
    client = client_python.with_name("inductiva")
    with EmbeddedCloud() as cloud, contextlib.closing(StunServer()) as server:
        (running,) = (i for i, s in cloud.statuses().items() if s == "computation-started")

        def output(*arguments: str) -> str:
            variables = {"INDUCTIVA_TURN_SERVER_URL": server.address}
            return run([str(client), "tasks", *arguments], cloud, tmp_path, **variables)

        commands = (
            ("list-files", running),
            ("tail", running, "stdout.txt", "-l", "2"),
            ("top", running),
            ("last-modified-file", running),
        )
        with ThreadPoolExecutor(len(commands)) as pool:  # the client waits at each step
            listed, console, top, written = pool.map(lambda words: output(*words), commands)
        questions = [question["type"] for question in cloud.machine(running).questions]

    for name in ("stdout.txt", "stderr.txt", "wave_gauges.csv", "REEF3D_log.txt"):
        assert name in listed
    assert "last 2 lines from stdout.txt" in console and "writing frame" in console
    assert "COMMAND" in top
    assert f"/workdir/{running}/output/artifacts/" in written
    assert sorted(questions) == ["last_modified_file", "ls", "tail", "top"]
