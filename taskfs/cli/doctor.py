"""`taskfs doctor`: what a mount needs, checked one by one, each with its fix."""

import ctypes
import ctypes.util
import json
import os
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple

import click

from taskfs.api_key import FoundKey, find_api_key
from taskfs.cli.console import cache_problem, configure_logging, printable, with_fix
from taskfs.cli.options import Settings, config_options
from taskfs.config import Config
from taskfs.errors import ConfigError, TaskFSError
from taskfs.fuse.mountpoint import FUSE_PACKAGES, is_dead, our_mounts, why_not_set_uid
from taskfs.model import format_size
from taskfs.support.installation import extra_fix

MAX_CLOCK_OFFSET_S: Final = 60.0
MIN_CACHE_BYTES: Final = 256 * 1024**2
FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")
UPDATEDB_CONF: Final = Path("/etc/updatedb.conf")


class Failed(Exception):
    """A check that did not pass; the text is what is wrong, a colon, and the fix."""


class Hint(Exception):
    """A check that did not pass and does not matter to everybody."""


class Skipped(Exception):
    """A check that cannot be made because an earlier one failed; the text says which."""


class Answer(NamedTuple):
    """What the API said to one request: the failure, if any, and its clock minus ours."""

    failure: TaskFSError | None
    clock_offset_s: float | None


@dataclass
class Surroundings:
    """What the checks look at besides the machine."""

    settings: Settings
    config: Config

    @cached_property
    def key(self) -> FoundKey:
        """The API key and its place; ConfigError where none can be used."""
        return find_api_key(self.settings.flags, file=self.settings.file)

    @cached_property
    def answer(self) -> Answer:
        """The API's answer to one request, which all checks share: a silent API costs one timeout.

        Raises:
            Hint, Skipped: nothing can be asked.
        """
        from taskfs.first_listing import open_client

        if self.config.offline:
            raise Hint("not asked: offline is set")
        try:
            config = replace(self.config, api_key=self.key.key)
        except ConfigError:
            raise Skipped("without an API key nothing can be asked") from None
        with closing(open_client(config)) as client:
            try:
                client.check()
            except TaskFSError as exc:
                return Answer(exc, client.clock_offset_s)
            return Answer(None, client.clock_offset_s)


@click.command(short_help="Check what taskfs needs here.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON array of objects with name, result and text.  [default: off]",
)
@config_options("doctor")
def doctor(settings: Settings, as_json: bool) -> int:
    """Check what taskfs needs: libfuse, fusermount, /dev/fuse, the key, the API, clock and cache.

    Each check is a line: `ok`, `FAIL` with the fix, `note` for what matters only to some, or `skip`
    for what an earlier failure keeps from being checked. The exit status is 0 if nothing failed,
    else 1.
    """
    config = settings.load(need_key=False)
    configure_logging(config)
    surroundings = Surroundings(settings, config)
    outcomes = []
    for name, check in CHECKS:
        word, text = _outcome(check, surroundings)
        outcomes.append({"name": name, "result": word, "text": text})
        if not as_json:
            click.echo(f"{word:<4} {name}: {printable(text)}")
    if as_json:
        click.echo(json.dumps(outcomes, indent=2))
    return 1 if any(outcome["result"] == "FAIL" for outcome in outcomes) else 0


def _outcome(check: Callable[[Surroundings], str], surroundings: Surroundings) -> tuple[str, str]:
    try:
        return "ok", check(surroundings)
    except Failed as exc:
        return "FAIL", str(exc)
    except Hint as exc:
        return "note", str(exc)
    except Skipped as exc:
        return "skip", str(exc)
    except TaskFSError as exc:
        return "FAIL", " ".join(with_fix(exc).split())


def _libfuse(_: Surroundings) -> str:
    path = os.environ.get("FUSE_LIBRARY_PATH") or ctypes.util.find_library("fuse")
    if not path:
        raise Failed(f"not found: {FUSE_PACKAGES}")
    try:
        number = ctypes.CDLL(path).fuse_version()
    except (OSError, AttributeError):
        raise Failed(f"{path} cannot be loaded: {FUSE_PACKAGES}") from None
    if not 26 <= number < 30:
        raise Failed(f"{path} is version {number / 10:g}, not 2.6 to 2.9: {FUSE_PACKAGES}")
    return f"{path}, version {number / 10:g}"


def _fusermount(_: Surroundings) -> str:
    path = shutil.which("fusermount")
    if not path:
        raise Failed(f"not found on PATH: {FUSE_PACKAGES}")
    if fault := why_not_set_uid(path):
        raise Failed(fault)
    return path


def _device(_: Surroundings) -> str:
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise Failed(
            f"{FUSE_DEVICE} is missing: sudo modprobe fuse; for a container, start it with "
            "--device /dev/fuse --cap-add SYS_ADMIN"
        ) from None
    except PermissionError:
        # fusermount is set-uid root, but it opens the device as the user who calls it.
        raise Failed(f"{FUSE_DEVICE} cannot be opened: sudo chmod 666 {FUSE_DEVICE}") from None
    except OSError as exc:
        raise Failed(
            f"{FUSE_DEVICE} cannot be opened ({exc.strerror}): sudo modprobe fuse; for a "
            "container, start it with --device /dev/fuse --cap-add SYS_ADMIN"
        ) from None
    return f"{FUSE_DEVICE} opens"


def _allow_other(_: Surroundings) -> str:
    if os.geteuid() == 0:
        return "root may use --allow-other"
    try:
        lines = FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if "user_allow_other" in (line.strip() for line in lines):
        return f"set in {FUSE_CONF}: --allow-other works"
    raise Hint(f"not set: --allow-other needs it: echo user_allow_other | sudo tee -a {FUSE_CONF}")


def _updatedb(_: Surroundings) -> str:
    """Look whether locate(1)'s index leaves our mounts out: updatedb.conf(5), PRUNEFS."""
    try:
        text = UPDATEDB_CONF.read_text(errors="replace")
    except OSError:
        return "nothing here indexes mounts for locate"
    line = re.search(r'^\s*PRUNEFS\s*=\s*"([^"]*)"', text, re.MULTILINE)
    if line is None:
        fix = f"echo 'PRUNEFS = \"fuse.taskfs\"' | sudo tee -a {UPDATEDB_CONF}"
    elif "fuse.taskfs" in line[1].lower().split():
        return f"fuse.taskfs is in PRUNEFS of {UPDATEDB_CONF}"
    else:
        fix = f"sudo sed -i '/^ *PRUNEFS/s/\"/\"fuse.taskfs /' {UPDATEDB_CONF}"
    raise Hint(f"it lists every task of a mount that root may read; leave them out: {fix}")


def _key(surroundings: Surroundings) -> str:
    place = surroundings.key.location
    # A variable has a name, a file its whole path.
    if os.path.isabs(place) and os.path.isfile(place) and os.stat(place).st_mode & 0o044:
        raise Hint(f"found in {place}, which other users can read: chmod 600 {shlex.quote(place)}")
    return f"found in {place}"


def _api(surroundings: Surroundings) -> str:
    if (failure := surroundings.answer.failure) is not None:
        raise failure
    return f"{surroundings.config.api_url} answers and takes the key"


def _clock(surroundings: Surroundings) -> str:
    offset_s = surroundings.answer.clock_offset_s  # a refusal tells the time as well
    if offset_s is None:
        raise Skipped("the API did not answer")
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        raise Failed(f"{offset_s:+.0f} s off the API's: sudo timedatectl set-ntp true")
    return f"within {max(1.0, abs(offset_s)):.0f} s of the API's"


def _cache(surroundings: Surroundings) -> str:
    """Check the directory as a mount would use it, so it is made where it is missing."""
    path, size = surroundings.config.cache_dir, surroundings.config.cache_size
    fix = "choose another with --cache-dir"
    if why := cache_problem(path):
        raise Failed(why)
    try:
        mode = path.stat().st_mode
        free = shutil.disk_usage(path).free
    except OSError as exc:
        raise Failed(f"{path} cannot be looked at ({exc.strerror}): {fix}") from None
    if mode & 0o077:
        raise Failed(f"{path} is open to other users: chmod 700 {path}")
    if size and free < MIN_CACHE_BYTES:
        raise Failed(f"{path} has {format_size(free)} free: make room, or {fix}")
    if free < size:
        raise Hint(
            f"{path} has {format_size(free)} free, less than --cache-size: it will hold less"
        )
    return f"{path}, {format_size(free)} free"


def _demo(_: Surroundings) -> str:
    try:
        return f"aiohttp {version('aiohttp')}: taskfs demo works"
    except PackageNotFoundError:
        raise Hint(f"taskfs demo needs the extra `demo`: {extra_fix('demo')}") from None


def _stale_mounts(_: Surroundings) -> str:
    dead = [place for place in dict.fromkeys(our_mounts()) if is_dead(Path(place))]
    if dead:
        places = " ".join(map(shlex.quote, dead))
        raise Failed(
            f"the daemon has ended without unmounting {places}: taskfs mount repairs each, or "
            f'end them: for m in {places}; do taskfs umount "$m"; done'
        )
    return "none of ours is dead"


# The order is the order of the lines. A new check is a new row.
CHECKS: Final[tuple[tuple[str, Callable[[Surroundings], str]], ...]] = (
    ("libfuse 2", _libfuse),
    ("fusermount", _fusermount),
    ("/dev/fuse", _device),
    ("user_allow_other", _allow_other),
    ("updatedb", _updatedb),
    ("mounts", _stale_mounts),
    ("API key", _key),
    ("API", _api),
    ("clock", _clock),
    ("cache directory", _cache),
    ("demo", _demo),
)
