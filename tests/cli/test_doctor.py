"""`taskfs doctor`: one line per check, with a fix for each failure."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from taskfs.cli import doctor
from taskfs.config import Config
from taskfs.fuse import fusermount
from tests.cli.conftest import Command
from tests.fake_api import FakeCloud

# The context of checks that only look at the machine.
NO_CONTEXT = cast(doctor.CheckContext, None)


def line(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if line[5:].startswith(f"{name}: "))


def results(text: str) -> dict[str, str]:
    """Return the result of each check. That of `mounts` depends on the tests beside this one, which
    may have killed daemons at the moment."""
    return {line[5:].partition(":")[0]: line[:4].strip() for line in text.splitlines()}


def test_each_check_is_a_line(taskfs: Command) -> None:
    """C-23: Each check is one line."""
    done = taskfs("doctor", "--cache-size", "1G")  # the disk may have no room for the default

    words = results(done.stdout)
    assert {
        "kernel engine",
        "fusepy engine",
        "fusermount",
        "/dev/fuse",
        "API key",
        "API",
        "clock",
    } <= set(words)
    assert "cache directory" in words
    assert set(words.values()) <= {"ok", "note", "FAIL"}
    assert words["API"] == words["API key"] == words["clock"] == words["cache directory"] == "ok"
    assert done.returncode == (1 if "FAIL" in words.values() else 0)


def test_a_library_that_is_missing_names_the_package(taskfs: Command) -> None:
    """C-23: A missing library names its package."""
    done = taskfs("doctor", FUSE_LIBRARY_PATH="/nonexistent")
    assert "FAIL" not in {**results(done.stdout), "mounts": "ok"}.values()
    assert line(done.stdout, "kernel engine") == "ok   kernel engine: usable"
    assert line(done.stdout, "fusepy engine").startswith("note fusepy engine: not usable, and not")
    done = taskfs("doctor", "--engine", "fusepy", FUSE_LIBRARY_PATH="/nonexistent")
    assert done.returncode == 1
    assert line(done.stdout, "fusepy engine").startswith("FAIL")
    assert "libfuse2t64" in line(done.stdout, "fusepy engine")


@pytest.mark.parametrize(("user", "word"), [(0, "ok"), (1000, "FAIL")])
def test_fusermount_missing(user: int, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-23: A missing fusermount fails its check."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr("shutil.which", lambda *args, **options: None)
    context = doctor.CheckContext(cast(Any, None), Config(cache_dir=Path("/"), engine="kernel"))
    for name in ("fusermount", "kernel engine"):
        said, text = doctor.run_check(dict(doctor.CHECKS)[name], context)
        assert said == word
        assert ("apt-get install fuse3" in text) is (word == "FAIL")


@pytest.mark.parametrize(
    ("release", "platform"), [("4.17.0-1", "linux"), ("14.2-RELEASE", "freebsd14")]
)
def test_where_the_kernel_engine_cannot_work(
    release: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fusepy engine serves where the kernel engine cannot."""
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    monkeypatch.setattr(sys, "platform", platform)
    context = doctor.CheckContext(cast(Any, None), Config(cache_dir=Path("/")))
    said, text = doctor.run_check(dict(doctor.CHECKS)["kernel engine"], context)
    assert said == "note"
    assert "Linux" in text
    said, text = doctor.run_check(dict(doctor.CHECKS)["fusepy engine"], context)
    assert said == "ok"


def test_no_key(bare: Command) -> None:
    """C-23: A missing key is named with its fix."""
    done = bare("doctor")
    assert done.returncode == 1
    assert line(done.stdout, "API key").startswith("FAIL")
    assert "inductiva auth login" in line(done.stdout, "API key")
    assert done.stderr == ""


@pytest.mark.parametrize("reason", ["key", "down"])
def test_the_api(taskfs: Command, cloud: FakeCloud, reason: str) -> None:
    """C-23: An API that refuses the key or does not answer fails its check, with the fix."""
    options = []
    if reason == "key":
        cloud.rotate_key()
    else:
        cloud.pause()
        options = ["--timeout", "500ms"]
    done = taskfs("doctor", *options)
    assert done.returncode == 1
    assert line(done.stdout, "API").startswith("FAIL")
    assert ("inductiva auth login" if reason == "key" else "--api-url") in line(done.stdout, "API")
    assert done.stderr == ""


def test_a_clock_that_is_wrong(taskfs: Command, cloud: FakeCloud) -> None:
    """C-23: A wrong clock is named with its fix."""
    cloud.faults.add(
        "header", times=None, name="Date", value="Mon, 01 Jan 2001 00:00:00 GMT", side="api"
    )
    done = taskfs("doctor")
    assert line(done.stdout, "clock").startswith("FAIL")
    assert "set-ntp" in line(done.stdout, "clock")


def test_the_cache_directory(taskfs: Command) -> None:
    """C-23: A cache directory that others can enter, cannot be used, or is too small is named with
    the fix."""
    open_to_all = taskfs.cwd / "cache"
    open_to_all.mkdir(mode=0o755)
    done = taskfs("doctor", "--cache-dir", str(open_to_all))
    assert f"chmod 700 {open_to_all}" in line(done.stdout, "cache directory")
    done = taskfs("doctor", "--cache-dir", "/dev/null/x")
    assert "--cache-dir" in line(done.stdout, "cache directory")
    done = taskfs("doctor", "--cache-size", "1000000T")
    assert line(done.stdout, "cache directory").startswith("note")


def test_no_cache_directory_where_nothing_is_kept(taskfs: Command, home: Path) -> None:
    """C-14, C-23: With `--cache-size 0` no directory is checked, and none is made."""
    done = taskfs("doctor", "--cache-size", "0", "--cache-dir", "/dev/null/x")
    assert line(done.stdout, "cache directory").startswith("ok")
    taskfs("doctor", "--cache-size", "0")
    assert not (home / ".cache").exists()


def test_an_offline_check_leaves_the_cache_as_it_is(taskfs: Command, home: Path) -> None:
    """O-6, C-23: Where `offline` is set, no cache directory is made, and a missing one is named."""
    done = taskfs("doctor", TASKFS_OFFLINE="on")
    assert line(done.stdout, "cache directory").startswith("FAIL")
    assert "taskfs does not exist: mount once without offline" in done.stdout
    assert not (home / ".cache").exists()
    taskfs("ls")
    done = taskfs("doctor", TASKFS_OFFLINE="on")
    assert line(done.stdout, "cache directory").endswith("/taskfs, only read: offline is set")


def test_json(taskfs: Command) -> None:
    """C-3: `doctor --json` reports the same checks with the same status."""
    plain, done = taskfs("doctor"), taskfs("doctor", "--json")
    outcomes = {outcome["name"]: outcome["result"] for outcome in json.loads(done.stdout)}
    assert done.returncode == (1 if "FAIL" in outcomes.values() else 0)
    assert list(outcomes) == list(results(plain.stdout))
    assert {**outcomes, "mounts": ""} == {**results(plain.stdout), "mounts": ""}


@pytest.mark.parametrize(
    ("text", "may"),
    [
        ("mount_max = 9\nuser_allow_other\n", True),
        (" user_allow_other # for the lab\n", True),
        ("# user_allow_other\n", False),
        ("user_allow_others\n", False),
    ],
)
def test_allow_other(text: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-23: `doctor` reads /etc/fuse.conf as fusermount does: text after # is a comment."""
    conf = tmp_path / "fuse.conf"
    conf.write_text(text)
    monkeypatch.setattr(fusermount, "FUSE_CONF", conf)
    monkeypatch.setattr(os, "geteuid", lambda: 1)
    result, said = doctor.run_check(dict(doctor.CHECKS)["user_allow_other"], NO_CONTEXT)
    assert (result == "ok") is may and ("tee -a" in said) is not may


@pytest.mark.parametrize(
    "text",
    [
        'PRUNE_BIND_MOUNTS="yes"\nPRUNEFS="NFS fuse.rclone fuse.sshfs"\n',
        '# PRUNEFS = "fuse.taskfs"\nPRUNEFS = ""\n',
        "# PRUNEFS is not set\n",
    ],
)
def test_updatedb_and_its_fix(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G-3: `doctor` prints the PRUNEFS line for updatedb, and that line is the fix."""
    conf = tmp_path / "updatedb.conf"
    conf.write_text(text)
    monkeypatch.setattr(doctor, "UPDATEDB_CONF", conf)
    check = dict(doctor.CHECKS)["updatedb"]
    with pytest.raises(doctor.Note) as hint:
        check(NO_CONTEXT)
    subprocess.run(
        ["sh", "-c", str(hint.value).partition(": ")[2].replace("sudo ", "")], check=True
    )
    assert "fuse.taskfs is in PRUNEFS" in check(NO_CONTEXT)
    assert conf.read_text().count("fuse.taskfs") == 1 + text.count("fuse.taskfs")
    conf.unlink()
    assert check(NO_CONTEXT)


def test_without_a_key_the_fix_is_printed_once(bare: Command) -> None:
    """C-23: Without a key, the checks that need it are skipped, not failed."""
    done = bare("doctor")
    assert [line(done.stdout, name)[:4] for name in ("API key", "API", "clock")] == [
        *("FAIL", "skip", "skip")
    ]
    assert done.stdout.count("inductiva auth login") == 1
    assert "https://console.inductiva.ai/account" in line(done.stdout, "API key")


def test_a_silent_api_costs_one_timeout(taskfs: Command, cloud: FakeCloud) -> None:
    """C-23, X-15: The API and the clock are checked with one request."""
    stall = cloud.faults.add("stall", side="api", times=None)
    done = taskfs("doctor", "--timeout", "1s")
    assert line(done.stdout, "API").startswith("FAIL")
    assert line(done.stdout, "clock").startswith("skip")
    assert stall.hits <= 1  # none if the connection took as long


def test_a_missing_ca_file_is_reported_once(bare: Command) -> None:
    """C-23, X-23: A missing CA file is reported at once, with its fix."""
    began = time.monotonic()
    done = bare(
        *("doctor", "--api-url", "https://localhost:1"),
        INDUCTIVA_API_KEY="k",
        REQUESTS_CA_BUNDLE="/nonexistent/ca.pem",
    )
    assert time.monotonic() - began < 30
    assert "REQUESTS_CA_BUNDLE: /nonexistent/ca.pem" in line(done.stdout, "API")
    assert done.stdout.count("REQUESTS_CA_BUNDLE") == 1


@pytest.mark.parametrize(("mode", "word"), [(0o600, "ok"), (0o640, "note"), (0o604, "note")])
def test_a_key_file_that_others_can_read(
    taskfs: Command, cloud: FakeCloud, mode: int, word: str
) -> None:
    """C-23: A key file that other users can read is a `note` with the command that closes it."""
    key_file = taskfs.cwd / "the key"
    key_file.write_text(cloud.api_key)
    key_file.chmod(mode)
    done = taskfs("doctor", "--api-key-file", str(key_file))
    found = line(done.stdout, "API key")
    assert found.startswith(word)
    assert (f"chmod 600 '{key_file}'" in found) == (word == "note")
    assert line(done.stdout, "API").startswith("ok")


def test_a_wrong_key_reads_well(taskfs: Command, cloud: FakeCloud) -> None:
    """C-23: The service's full stop does not stand before the fix."""
    cloud.rotate_key()
    done = taskfs("doctor")
    assert ".:" not in line(done.stdout, "API") and ": check the API key" in done.stdout
