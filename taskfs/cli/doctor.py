"""`taskfs doctor`: checks of what a mount needs, each with its fix."""

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
from taskfs.cli.api_session import configure_logging, find_cache_problem
from taskfs.cli.options import Settings, config_options
from taskfs.cli.output import describe_error
from taskfs.config import Config
from taskfs.errors import ConfigError, TaskFSError
from taskfs.fuse.engine_support import why_not_fusepy, why_not_kernel
from taskfs.fuse.fusermount import (
    FUSE_CONF,
    FUSE_DEVICE,
    FUSE_PACKAGES,
    find_fusermount,
    may_allow_other,
    why_not_set_uid,
)
from taskfs.fuse.mount_errors import CONTAINER, DEVICE_MISSING
from taskfs.fuse.mount_table import our_mounts
from taskfs.fuse.mountpoint import is_dead
from taskfs.support.formatting import escape_controls, format_size
from taskfs.support.installation import install_hint

# Seconds between the API's clock and ours. Running times and the ages of archives are differences
# of the two; below a minute the error is small beside them.
MAX_CLOCK_OFFSET_S: Final = 60.0
# Free bytes for a useful cache: a few archive indexes and the blocks of one large file.
MIN_CACHE_BYTES: Final = 256 * 1024**2
UPDATEDB_CONF: Final = Path("/etc/updatedb.conf")


class Failed(Exception):
    """The check failed; the text is the problem, a colon and the fix."""


class Note(Exception):
    """The check failed, but matters only to some users."""


class Skipped(Exception):
    """The check needs the result of a check that failed; the text says which."""


class Probe(NamedTuple):
    """The outcome of one API request: the failure, if any, and the API's clock minus ours."""

    failure: TaskFSError | None
    clock_offset_s: float | None


@dataclass
class CheckContext:
    """The inputs of the checks besides the machine; requests run once and are shared."""

    settings: Settings
    config: Config

    @cached_property
    def key(self) -> FoundKey:
        """The API key and its source; raises ConfigError if there is no usable key."""
        return find_api_key(self.settings.flags, file=self.settings.file)

    @cached_property
    def probe(self) -> Probe:
        """The outcome of one request, shared so that an unreachable API costs one timeout.

        Raises:
            Note, Skipped: no request can be sent.
        """
        from taskfs.first_listing import open_client

        if self.config.offline:
            raise Note("not asked: offline is set")
        try:
            config = replace(self.config, api_key=self.key.key)
        except ConfigError:
            raise Skipped("there is no API key") from None
        with closing(open_client(config)) as client:
            try:
                client.check()
            except TaskFSError as exc:
                return Probe(exc, client.clock_offset_s)
            return Probe(None, client.clock_offset_s)


@click.command("doctor", short_help="Check what taskfs needs here.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON array of objects with name, result and text.  [default: off]",
)
@config_options("doctor")
def command(settings: Settings, as_json: bool) -> int:
    """Check what taskfs needs: an engine, /dev/fuse, the key, the API, the clock and the cache.

    Each check is a line: `ok`; `FAIL` with the problem and its fix; `note` for a problem that
    matters only to some users; or `skip` if an earlier failure prevents the check. The exit status
    is 0 if nothing failed, else 1.
    """
    config = settings.load(need_key=False)
    configure_logging(config)
    context = CheckContext(settings, config)
    outcomes = []
    for name, check in CHECKS:
        word, text = run_check(check, context)
        outcomes.append({"name": name, "result": word, "text": text})
        if not as_json:
            click.echo(f"{word:<4} {name}: {escape_controls(text)}")
    if as_json:
        click.echo(json.dumps(outcomes, indent=2))
    return 1 if any(outcome["result"] == "FAIL" for outcome in outcomes) else 0


def run_check(check: Callable[[CheckContext], str], context: CheckContext) -> tuple[str, str]:
    """Return the word and the text of one check's line."""
    try:
        return "ok", check(context)
    except Failed as exc:
        return "FAIL", str(exc)
    except Note as exc:
        return "note", str(exc)
    except Skipped as exc:
        return "skip", str(exc)
    except TaskFSError as exc:
        return "FAIL", " ".join(describe_error(exc).split())


def _kernel_engine(context: CheckContext) -> str:
    return _check_engine(context, "kernel", why_not_kernel())


def _fusepy_engine(context: CheckContext) -> str:
    return _check_engine(context, "fusepy", why_not_fusepy())


def _check_engine(context: CheckContext, name: str, reason: str) -> str:
    """Return that the engine can be used.

    Raises:
        Failed: it cannot be, and the settings ask for it, or no engine can.
        Note: it cannot be, and another is used.
    """
    if not reason:
        return "usable"
    has_other = not (why_not_fusepy() if name == "kernel" else why_not_kernel())
    if context.config.engine == name or not has_other:
        raise Failed(reason)
    raise Note(f"not usable, and not needed: {reason}")


def _fusermount(_: CheckContext) -> str:
    path = find_fusermount()
    if not path and os.geteuid() == 0:
        return "not found, and root needs none"
    if not path:
        raise Failed(f"not found: {FUSE_PACKAGES}")
    if fault := why_not_set_uid(path):
        raise Failed(fault)
    return path


def _device(_: CheckContext) -> str:
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise Failed(DEVICE_MISSING) from None
    except PermissionError:
        # fusermount is set-uid root, but opens the device with the calling user's rights.
        raise Failed(f"{FUSE_DEVICE} cannot be opened: sudo chmod 666 {FUSE_DEVICE}") from None
    except OSError as exc:
        raise Failed(
            f"{FUSE_DEVICE} cannot be opened ({exc.strerror}): sudo modprobe fuse; {CONTAINER}"
        ) from None
    return f"{FUSE_DEVICE} opens"


def _allow_other(_: CheckContext) -> str:
    if os.geteuid() == 0:
        return "root may use --allow-other"
    if may_allow_other():
        return f"set in {FUSE_CONF}: --allow-other works"
    raise Note(f"not set: --allow-other needs it: echo user_allow_other | sudo tee -a {FUSE_CONF}")


def _updatedb(_: CheckContext) -> str:
    """Check that the index of locate(1) excludes taskfs mounts: updatedb.conf(5), PRUNEFS."""
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
    raise Note(f"it lists every task of a mount that root may read; leave them out: {fix}")


def _key(context: CheckContext) -> str:
    location = context.key.location  # an absolute path, or the name of a variable
    if os.path.isabs(location) and os.path.isfile(location) and os.stat(location).st_mode & 0o044:
        fix = f"chmod 600 {shlex.quote(location)}"
        raise Note(f"found in {location}, which other users can read: {fix}")
    return f"found in {location}"


def _api(context: CheckContext) -> str:
    if (failure := context.probe.failure) is not None:
        raise failure
    return f"{context.config.api_url} answers and accepts the key"


def _clock(context: CheckContext) -> str:
    offset_s = context.probe.clock_offset_s  # known from a refusal as well
    if offset_s is None:
        raise Skipped("the API did not answer")
    if abs(offset_s) > MAX_CLOCK_OFFSET_S:
        raise Failed(f"{offset_s:+.0f} s off the API's: sudo timedatectl set-ntp true")
    return f"within {max(1.0, abs(offset_s)):.0f} s of the API's"


def _cache(context: CheckContext) -> str:
    """Check the directory more strictly than a mount does.

    Create it if it is missing, unless `offline` is set or nothing is cached.
    """
    path, size = context.config.cache_dir, context.config.cache_size
    if not size:
        return "off: --cache-size 0 keeps nothing on disk"
    fix = "choose another with --cache-dir"
    offline = context.config.offline
    if not offline and (problem := find_cache_problem(path)):
        raise Failed(problem)
    if offline and not path.exists():
        raise Failed(f"{path} does not exist: mount once without offline")
    try:
        mode = path.stat().st_mode
        free = shutil.disk_usage(path).free
    except OSError as exc:
        raise Failed(f"{path} cannot be examined ({exc.strerror}): {fix}") from None
    if mode & 0o077:
        raise Failed(f"{path} is open to other users: chmod 700 {path}")
    if offline:
        return f"{path}, only read: offline is set"
    if free < MIN_CACHE_BYTES:
        raise Failed(f"{path} has {format_size(free)} free: make room, or {fix}")
    if free < size:
        raise Note(
            f"{path} has {format_size(free)} free, less than --cache-size: it will hold less"
        )
    return f"{path}, {format_size(free)} free"


def _live(context: CheckContext) -> str:
    if not context.config.live:
        return "off: --live on shows the files of running tasks"
    try:
        return f"aiortc {version('aiortc')}: live/ shows the files of running tasks"
    except PackageNotFoundError:
        hint = install_hint("live")
        raise Note(f"the files of running tasks need the extra `live`: {hint}") from None


def _demo(_: CheckContext) -> str:
    try:
        return f"aiohttp {version('aiohttp')}: taskfs demo works"
    except PackageNotFoundError:
        raise Note(f"taskfs demo needs the extra `demo`: {install_hint('demo')}") from None


def _stale_mounts(_: CheckContext) -> str:
    dead = [path for path in dict.fromkeys(our_mounts()) if is_dead(Path(path))]
    if dead:
        paths = " ".join(map(shlex.quote, dead))
        raise Failed(
            f"the daemon has ended without unmounting {paths}: taskfs mount repairs each, or "
            f'end them: for m in {paths}; do taskfs umount "$m"; done'
        )
    return "none is dead"


# The checks in the order of their lines. A new check is a new row.
CHECKS: Final[tuple[tuple[str, Callable[[CheckContext], str]], ...]] = (
    ("kernel engine", _kernel_engine),
    ("fusepy engine", _fusepy_engine),
    ("fusermount", _fusermount),
    ("/dev/fuse", _device),
    ("user_allow_other", _allow_other),
    ("updatedb", _updatedb),
    ("mounts", _stale_mounts),
    ("API key", _key),
    ("API", _api),
    ("clock", _clock),
    ("cache directory", _cache),
    ("live", _live),
    ("demo", _demo),
)
