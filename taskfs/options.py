"""All settings of taskfs in one table, `OPTIONS`.

The flags of the commands, the words of `-o`, the `TASKFS_*` variables and the keys of the TOML file
are made from it. A new setting is a new row and a field of `config.Config`.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from taskfs.errors import ConfigError
from taskfs.support.parsing import (
    one_of,
    parse_count,
    parse_duration,
    parse_flag,
    parse_id,
    parse_mode,
    parse_path,
    parse_positive_duration,
    parse_relative_path,
    parse_size,
    parse_source,
    parse_switch,
    parse_text,
    parse_umask,
    parse_words,
)
from taskfs.support.user_directories import user_directory

ENGINES: Final = ("auto", "kernel", "fusepy")
EVENTS: Final = ("auto", "on", "off")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def _user_cache_dir() -> str:
    path = user_directory("cache")
    if path is None:
        raise ConfigError("there is no home directory for the cache: set TASKFS_CACHE_DIR or HOME")
    return str(path)


# The commands that read the tree without a mount.
READ_COMMANDS: Final = frozenset({"ls", "cat", "head", "tail", "du", "cp"})
FSSPEC: Final = "fsspec"  # not a command: the storage options of the fsspec file system
# The commands with the common options. `unpin` and `cache` send no request, but the API and the key
# say whose files are meant, and a user gives them what `pin` got.
COMMANDS: Final = READ_COMMANDS | {
    "mount",
    "list",
    "watch",
    "info",
    "top",
    "kill",
    "wait",
    "download",
    "doctor",
    "pin",
    "unpin",
    "cache",
}
EVERY: Final = COMMANDS | {FSSPEC}
NETWORK: Final = EVERY | {"login"}
SCOPED: Final = frozenset({"mount", "list", "watch", FSSPEC})
LOGGED: Final = COMMANDS | {"demo", "login"}
MOUNT: Final = frozenset({"mount"})
TREE: Final = frozenset({"mount", FSSPEC})
# `list` and `info` read the cache with --offline; `download` uses the indexes of archives.
CACHE: Final = READ_COMMANDS | {
    *("mount", "doctor", "list", "info", "pin", "unpin", "cache", "download", FSSPEC)
}


class Option(NamedTuple):
    """One setting.

    The flag is `--` and the name with dashes, the variable is `TASKFS_` and the name in capitals.
    The TOML file and `-o` use the name itself.

    Fields:
        parse: converts the text of any source; raises ConfigError.
        default: a text, or a function that returns one; None if the setting may be absent.
        default_shown: the default in the help, if it differs from *default*.
        field: the field of `Config`, if its name differs.
        commands: the commands that have the flag.
        repeatable: the flag may be given several times, and the TOML file may have a list.
        service: a variable of the service's own client with the same meaning.
        letter: a short flag, without its dash.
        empty_counts: an empty *service* variable counts as set.
    """

    name: str
    parse: Callable[[str], Any]
    help: str
    metavar: str = ""
    default: str | Callable[[], str] | None = None
    default_shown: str = ""
    field: str = ""
    commands: frozenset[str] = MOUNT
    repeatable: bool = False
    in_mount_options: bool = True
    service: str = ""
    empty_counts: bool = False
    letter: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether the setting is on or off, so that its flag takes no value."""
        return self.parse is parse_flag

    @property
    def config_field(self) -> str:
        """The name of the field of `Config`."""
        return self.field or self.name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "TASKFS_" + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default in the help."""
        if self.is_flag:
            return "off"
        return self.default_shown or (self.default if isinstance(self.default, str) else "")


# In the order of the help texts.
OPTIONS: Final = (
    Option("api_url", parse_text, "The URL of the task API.", "URL", "https://api.inductiva.ai",
           commands=NETWORK, service="INDUCTIVA_API_URL"),
    Option("api_key_file", parse_path, "The file that holds the API key, and nothing else; "
           "may be a pipe or /dev/stdin.",
           "FILE", default_shown="~/.inductiva/api_key", commands=EVERY),
    Option("insecure_http", parse_flag, "Allow an API that is neither https nor on this machine: "
           "the key then travels in clear text.", commands=NETWORK),
    Option("project", parse_text, "Only the tasks of this project.", "NAME", default_shown="all",
           commands=SCOPED, letter="p"),
    Option("status", parse_words, "Only the tasks with this status; may be given several times.",
           "STATUS", "", default_shown="all", commands=SCOPED,
           repeatable=True),
    Option("last", parse_count, "Only the newest N tasks.", "N", default_shown="all",
           commands=TREE),
    Option("offline", parse_flag, "Send no requests: only the finished tasks, and the bytes "
           "of their files, that are in the cache; needs no key.",
           commands=READ_COMMANDS | {"mount", "list", "info", FSSPEC}),
    Option("read_only", parse_flag, "Refuse also kills, metadata changes and, without "
           "--events on, writes to .taskfs/refresh."),
    Option("allow_other", parse_flag, "Let every user of this machine read your tasks and all "
           "their files, inputs and outputs, while it is mounted; of them only root can kill. "
           "Needs user_allow_other in /etc/fuse.conf unless you are root."),
    Option("allow_root", parse_flag, "Let root, and no other user, read the mount. Needs "
           "user_allow_other in /etc/fuse.conf unless you are root."),
    Option("uid", parse_id, "The owner of the files.", "UID", lambda: str(os.getuid()), "you"),
    Option("gid", parse_id, "The group of the files.", "GID", lambda: str(os.getgid()),
           "your group"),
    Option("umask", parse_umask, "Permission bits (octal) that are removed from 0755 for "
           "directories and 0644 for files.", "BITS", "000"),
    Option("file_mode", parse_mode, "The permission bits (octal) of all files, before the umask.",
           "BITS", default_shown="0644; 0755 for members of archives that are executable"),
    Option("dir_mode", parse_mode, "The permission bits (octal) of all directories, before the "
           "umask.", "BITS", default_shown="0755"),
    Option("fsname", parse_source, "The source in the output of mount(8) and df(1).", "NAME",
           "taskfs", commands=frozenset()),
    Option("noexec", parse_flag, "Forbid the execution of files.", commands=frozenset()),
    Option("engine", one_of(ENGINES, "an engine"), "How to serve the mount: kernel (faster; "
           "Linux), fusepy (needs libfuse 2), or auto: kernel, and fusepy where the kernel "
           "speaks another protocol or the system is not Linux.", "ENGINE", "auto",
           commands=frozenset({"mount", "demo", "doctor"})),
    Option("events", one_of(EVENTS, "a choice of events"), "Whether programs that watch files "
           "(inotify) receive events for changes in the cloud: auto (while one watches the mount), "
           "on (always; also for watches that the daemon cannot see, and with --read-only), off.",
           "WHEN", "auto", commands=frozenset({"mount", "demo"})),
    Option("cache_dir", parse_path, "The directory of the disk cache.", "DIR", _user_cache_dir,
           "~/.cache/taskfs", commands=CACHE),
    Option("cache_size", parse_size, "The maximum size of the disk cache; 0 switches it off.",
           "SIZE", "10G", commands=CACHE),
    Option("dir_cache_time", parse_duration, "The maximum age of a listing.", "TIME", "10s",
           field="dir_cache_time_s", commands=TREE),
    Option("status_cache_time", parse_duration, "The maximum age of the status of an unfinished "
           "task.", "TIME", "2s", field="status_cache_time_s", commands=TREE | {"watch"}),
    Option("attr_timeout", parse_duration, "The time for which the kernel keeps attributes and "
           "names.", "TIME", "1s", field="attr_timeout_s"),
    Option("timeout", parse_positive_duration, "The time after which an operation fails with "
           "ETIMEDOUT.", "TIME", "30s", field="timeout_s", commands=NETWORK - {"wait"}),
    Option("live", parse_switch, "Show the files of running tasks in live/.", "on|off", "on",
           commands=TREE | READ_COMMANDS),
    Option("live_idle_time", parse_positive_duration, "The time for which an unused connection to "
           "a running task's machine is kept.", "TIME", "30s", field="live_idle_time_s",
           commands=frozenset()),
    Option("completion_timeout", parse_positive_duration, "The time for which a shell's completion "
           "waits for the API.", "TIME", "1.5s", field="completion_timeout_s", commands=frozenset(),
           in_mount_options=False),
    Option("output_parent", parse_relative_path,
           "The directory in which each downloaded task gets a directory.", "DIR",
           "inductiva_output", commands=frozenset(), in_mount_options=False,
           service="INDUCTIVA_OUTPUT_DIR", empty_counts=True),
    Option("mountpoint", parse_path, "The directory on which mount, and umount, act without an "
           "argument.", "DIR", default_shown="none", commands=frozenset(), in_mount_options=False),
    Option("demo", parse_flag, "Mount the embedded cloud, whose tasks run and end; needs no key."),
    Option("log_file", parse_path, "Append the log to this file.", "FILE",
           default_shown="standard error; of a mount: ~/.local/state/taskfs/log/MOUNTPOINT.log",
           commands=LOGGED),
    Option("log_level", one_of(LOG_LEVELS, "a log level"), f"One of {', '.join(LOG_LEVELS)}.",
           "LEVEL", "warning", commands=LOGGED),
)  # fmt: skip

BY_NAME: Final = {option.name: option for option in OPTIONS}

# Options of mount(8), fstab(5), systemd and libfuse, which taskfs ignores.
_IGNORED_WORDS: Final = """
    async atime auto auto_unmount blocking comment context default_permissions defaults dev diratime
    dirsync group helper intr iversion lazytime loud mand _netdev noatime noauto nodev
    nodiratime nofail nogroup noiversion nolazytime nomand noowner norelatime nostrictatime
    nosuid nouser nousers owner relatime silent strictatime subtype suid sync uhelper use_ino user
    users
"""
SEE_HELP: Final = ": see `taskfs mount --help`"
_IGNORED: Final = frozenset(_IGNORED_WORDS.split())
_SYNONYMS: Final = {"ro": ("read_only", "true"), "rw": ("read_only", "false"),
                    "exec": ("noexec", "false")}  # fmt: skip


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean X or Y?` for a misspelt *name*, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else ""


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each of *names* that begins with `TASKFS_` but is no setting."""
    known = [option.variable for option in OPTIONS] + ["TASKFS_CONFIG", "TASKFS_API_KEY"]
    prefix = "TASKFS_"  # not compared, because all names share it
    rests = [name.removeprefix(prefix) for name in known]
    for name in sorted(set(names).difference(known)):
        if name.startswith(prefix):
            close = difflib.get_close_matches(name.removeprefix(prefix).upper(), rests, n=1)
            suggestion = f": did you mean {prefix}{close[0]}?" if close else ""
            yield f"{ascii(name)[1:-1]} is no setting{suggestion}"


def split_mount_options(text: str) -> list[str]:
    """Split `a,b=c` into words; a backslash makes a following comma or backslash part of a word."""
    words = re.findall(r"(?:\\.|[^,\\]|\\$)+", text)
    return [re.sub(r"\\([,\\])", r"\1", word) for word in words]


def parse_mount_options(text: str, *, sloppy: bool = False) -> dict[str, str]:
    """Parse the options of `-o` to settings by name; of equal names, the last wins.

    Options for other parts of the system are ignored, and with *sloppy* unknown ones too.

    Raises:
        ConfigError: an unknown or unusable option, or an API key, because command lines are public.
    """
    known = {option.name for option in OPTIONS if option.in_mount_options}
    settings: dict[str, str] = {}
    for word in split_mount_options(text):
        name, equals, value = word.strip().partition("=")
        plain = name.replace("-", "_")
        if name.lower().startswith("x-") or name in _IGNORED or not word.strip():
            continue
        if name in _SYNONYMS and not equals:
            plain, value = _SYNONYMS[name]
        elif plain in {"api_key", "key"}:
            raise ConfigError("-o: a key cannot be an option: use api_key_file=FILE")
        elif plain == "remount":
            raise ConfigError("-o: taskfs cannot be remounted: unmount it, and mount it again")
        elif name in _SYNONYMS:
            raise ConfigError(f"-o: {name} takes no value: write {name}")
        elif plain not in known:
            if sloppy:
                continue
            raise ConfigError(
                f"-o: unknown option {name!r}{near_matches(plain, known) or SEE_HELP}"
            )
        elif not equals and not BY_NAME[plain].is_flag:
            raise ConfigError(f"-o: {name} needs a value: {name}={BY_NAME[plain].metavar}")
        settings[plain] = value if equals or name in _SYNONYMS else "true"
    return settings
