"""Every setting of taskfs, as one table.

The flags of the commands, the words of `-o`, the `TASKFS_*` variables and the keys of the TOML
file are all made from `OPTIONS`: a new setting is a new row and a field of `config.Config`.
"""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskfs.errors import ConfigError

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
_DURATION = re.compile(rf"({_NUMBER})(ms|s|m|h|d)")
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgtp]?)(i?b)?", re.IGNORECASE)
_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
ENGINES: Final = ("auto", "kernel", "fusepy")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")


def parse_duration(text: str) -> float:
    """Return *text* in seconds: `10s`, `500ms`, `2m`, `1h`, `1m30s`; a bare number is seconds."""
    text = text.strip().lower()
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        raise ConfigError(f"{text!r} is not a duration: write 10s, 500ms, 2m, 1h or seconds")
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def parse_positive_duration(text: str) -> float:
    """Return *text* in seconds, more than none; the spelling of `parse_duration`."""
    seconds = parse_duration(text)
    if not seconds:
        raise ConfigError(f"{text!r} is no time at all: write a duration above 0")
    return seconds


def parse_size(text: str) -> int:
    """Return *text* in bytes; a bare number is bytes.

    K, M, G, T, P and KiB, MiB, … are powers of 1024, as rclone counts them; KB, MB, … are powers
    of 1000, as this program writes sizes.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is not a size: write 10G, 512M, 100KB or bytes")
    number, unit, suffix = match.groups()
    base = 1000 if unit and (suffix or "").lower() == "b" else 1024
    return int(float(number) * base ** " kmgtp".index(unit.lower() or " "))


def parse_flag(text: str) -> bool:
    """Return what a word such as `yes`, `off` or `1` means."""
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise ConfigError(f"{text!r} is neither yes nor no: write true or false") from None


def parse_text(text: str) -> str:
    """Return *text* as Unicode.

    Python keeps bytes of arguments and variables that the locale cannot decode as surrogates: they
    are read as UTF-8, because the API accepts nothing else.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ConfigError(f"{text!r} is not UTF-8: write it in UTF-8") from None


def parse_words(text: str) -> tuple[str, ...]:
    """Return the words of a list that is separated by commas."""
    return tuple(word for word in (part.strip() for part in parse_text(text).split(",")) if word)


def parse_path(text: str) -> Path:
    """Return *text* as an absolute path; `~` is the user's home. The daemon's directory is `/`."""
    if not text.strip():  # an unset variable of a script; the current directory is written `.`
        raise ConfigError("the path is empty: write one, or . for the current directory")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):  # nobody knows that user, or us and there is no HOME
        raise ConfigError(f"{text!r}: there is no such home directory: write the whole path")
    return Path(os.path.abspath(expanded))


def parse_relative_path(text: str) -> str:
    """Return *text*, a path relative to where the command was started, as it is."""
    return text


def parse_count(text: str) -> int:
    """Return *text* as a whole number from 1."""
    if not re.fullmatch(r"[0-9]{1,18}", text.strip()) or int(text) < 1:
        raise ConfigError(f"{text!r} is not a count: write a whole number from 1")
    return int(text)


def parse_id(text: str) -> int:
    """Return *text* as the number of a user or group."""
    if not re.fullmatch(r"[0-9]{1,10}", text.strip()) or int(text) >= 2**32 - 1:
        raise ConfigError(f"{text!r} is not the number of a user or group: see id(1)")
    return int(text)


def parse_umask(text: str) -> int:
    """Return *text*, octal digits, as permission bits."""
    if not re.fullmatch(r"(?:0o)?[0-7]{1,4}", text.strip()) or int(text, 8) > 0o777:
        raise ConfigError(f"{text!r} is not a umask: write octal digits, such as 022")
    return int(text, 8)


def parse_source(text: str) -> str:
    """Return *text* as what a table of mounts shows as the source of one."""
    if not text or len(text.encode()) > 255 or re.search(r"[\x00-\x1f\x7f,\\]", text):
        raise ConfigError(f"{text!r} is not the name of a source: write letters and digits")
    return text


def one_of(words: Sequence[str], kind: str) -> Callable[[str], str]:
    """Return a function that reads one of *words*; *kind* says what they are, with its article."""

    def parse(text: str) -> str:
        if (word := text.strip().lower()) in words:
            return word
        raise ConfigError(f"{text!r} is not {kind}: write one of {', '.join(words)}")

    return parse


def user_dir(kind: str) -> Path | None:
    """Return the user's `cache` or `config` directory of taskfs, None where there is no home."""
    import platformdirs

    try:
        path = Path(getattr(platformdirs, f"user_{kind}_dir")("taskfs"))
    except RuntimeError:  # a user that the password database does not know, without HOME
        return None
    return path if path.is_absolute() else None  # what older releases return then


def _user_cache_dir() -> str:
    path = user_dir("cache")
    if path is None:
        raise ConfigError("there is no home directory for the cache: set TASKFS_CACHE_DIR or HOME")
    return str(path)


FSSPEC: Final = "fsspec"  # no command: the storage options of the fsspec file system
COMMANDS: Final = frozenset(
    {"mount", "list", "watch", "info", "kill", "wait", "download", "doctor"}
)
EVERY: Final = COMMANDS | {FSSPEC}
SCOPED: Final = frozenset({"mount", "list", "watch", FSSPEC})
LOGGED: Final = COMMANDS | {"demo"}
MOUNT: Final = frozenset({"mount"})
TREE: Final = frozenset({"mount", FSSPEC})
# A download keeps its files anyway; `list` and `info` look there with --offline.
CACHE: Final = frozenset({"mount", "doctor", "list", "info", FSSPEC})


class Option(NamedTuple):
    """One setting: its name everywhere, how its text is read, and which commands have the flag.

    The flag is `--` and the name with dashes, the variable `TASKFS_` and the name in capitals; in
    the TOML file and in `-o` the name stands as it is. *service* is a variable of the service's own
    client, where an empty text counts if *empty_counts*.
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

    @property
    def is_flag(self) -> bool:
        """Whether it is on or off and takes no value."""
        return self.parse is parse_flag

    @property
    def config_field(self) -> str:
        """The field of `Config` that it fills."""
        return self.field or self.name

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "TASKFS_" + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as the help shows it."""
        if self.is_flag:
            return "off"
        return self.default_shown or (self.default if isinstance(self.default, str) else "")


# The order is the order of the help texts. A new setting is a new row and a field of Config.
OPTIONS: Final = (
    Option("api_url", parse_text, "Where the task API is.", "URL", "https://api.inductiva.ai",
           commands=EVERY, service="INDUCTIVA_API_URL"),
    Option("api_key_file", parse_path, "The file that holds the API key, and nothing else; "
           "may be a pipe or /dev/stdin.",
           "FILE", default_shown="~/.inductiva/api_key", commands=EVERY),
    Option("insecure_http", parse_flag, "Allow an API that is neither https nor on this machine: "
           "the key then travels in clear text.", commands=EVERY),
    Option("project", parse_text, "Only the tasks of this project.", "NAME", default_shown="all",
           commands=SCOPED),
    Option("status", parse_words, "Only the tasks with this status; may be given several times.",
           "STATUS", "", default_shown="all", commands=SCOPED,
           repeatable=True),
    Option("last", parse_count, "Only the newest N tasks.", "N", default_shown="all",
           commands=TREE),
    Option("offline", parse_flag, "Ask nobody: only the finished tasks, and the bytes of their "
           "files, that are in the cache; needs no key.",
           commands=frozenset({"mount", "list", "info", FSSPEC})),
    Option("read_only", parse_flag, "Refuse kills and metadata changes as well."),
    Option("allow_other", parse_flag, "Let every user of this machine read your tasks and all "
           "their files, inputs and outputs, while it is mounted; they cannot kill. Needs "
           "user_allow_other in /etc/fuse.conf unless you are root."),
    Option("allow_root", parse_flag, "Let root, and nobody else, read the mount. Needs "
           "user_allow_other in /etc/fuse.conf unless you are root."),
    Option("uid", parse_id, "Who owns the files.", "UID", lambda: str(os.getuid()), "you"),
    Option("gid", parse_id, "The group of the files.", "GID", lambda: str(os.getgid()),
           "your group"),
    Option("umask", parse_umask, "Permission bits (octal) taken from 0755 for directories and "
           "0644 for files.", "BITS", "000"),
    Option("fsname", parse_source, "What mount(8) and df(1) show as the source.", "NAME",
           "taskfs", commands=frozenset()),
    Option("noexec", parse_flag, "Let no file be run as a program.", commands=frozenset()),
    Option("engine", one_of(ENGINES, "an engine"), "How to serve the mount: kernel (faster; "
           "Linux), fusepy (needs libfuse 2), or auto: the first that works.", "ENGINE", "auto",
           commands=frozenset({"mount", "demo", "doctor"})),
    Option("cache_dir", parse_path, "Where blocks of archives are kept.", "DIR", _user_cache_dir,
           "~/.cache/taskfs", commands=CACHE),
    Option("cache_size", parse_size, "How much of the disk they may take; 0 keeps none.", "SIZE",
           "10G", commands=CACHE),
    Option("dir_cache_time", parse_duration, "How old a listing may be.", "TIME", "10s",
           field="dir_cache_time_s", commands=TREE),
    Option("status_cache_time", parse_duration, "How old the status of an unfinished task may be.",
           "TIME", "2s", field="status_cache_time_s", commands=TREE | {"watch"}),
    Option("attr_timeout", parse_duration, "How long the kernel keeps attributes and names.",
           "TIME", "1s", field="attr_timeout_s"),
    Option("timeout", parse_positive_duration, "How long an operation may try before it fails "
           "with ETIMEDOUT.", "TIME", "30s", field="timeout_s", commands=EVERY - {"wait"}),
    Option("completion_timeout", parse_positive_duration, "How long a shell's completion may wait "
           "for the API.", "TIME", "1.5s", field="completion_timeout_s", commands=frozenset(),
           in_mount_options=False),
    Option("output_parent", parse_relative_path,
           "The directory that holds a directory per downloaded task.", "DIR", "inductiva_output",
           commands=frozenset(), in_mount_options=False,
           service="INDUCTIVA_OUTPUT_DIR", empty_counts=True),
    Option("demo", parse_flag, "Mount the embedded cloud of living example tasks; needs no key."),
    Option("log_file", parse_path, "Append the log to this file.", "FILE",
           default_shown="standard error; of a mount: ~/.local/state/taskfs/log/MOUNTPOINT.log",
           commands=LOGGED),
    Option("log_level", one_of(LOG_LEVELS, "a log level"), f"One of {', '.join(LOG_LEVELS)}.",
           "LEVEL", "warning", commands=LOGGED),
)  # fmt: skip

BY_NAME: Final = {option.name: option for option in OPTIONS}

# What mount(8), fstab, systemd and libfuse put among the options and taskfs has no use for.
_FOREIGN_WORDS: Final = """
    async atime auto auto_unmount blocking comment context default_permissions defaults dev diratime
    dirsync group helper intr iversion lazytime loud mand _netdev noatime noauto nodev
    nodiratime nofail nogroup noiversion nolazytime nomand noowner norelatime nostrictatime
    nosuid nouser nousers owner relatime silent strictatime subtype suid sync uhelper use_ino user
    users
"""
_IGNORED: Final = frozenset(_FOREIGN_WORDS.split())
_SYNONYMS: Final = {"ro": ("read_only", "true"), "rw": ("read_only", "false"),
                    "exec": ("noexec", "false")}  # fmt: skip


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return `: did you mean X or Y?` for a misspelt *name*, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f": did you mean {' or '.join(close)}?" if close else ""


def unknown_variables(names: Iterable[str]) -> Iterator[str]:
    """Yield a text for each of the environment's *names* that begins like a setting and is none."""
    known = [option.variable for option in OPTIONS] + ["TASKFS_CONFIG", "TASKFS_API_KEY"]
    prefix = "TASKFS_"  # it is common to all, so it tells nothing of what is near
    rests = [name.removeprefix(prefix) for name in known]
    for name in sorted(set(names).difference(known)):
        if name.startswith(prefix):
            close = difflib.get_close_matches(name.removeprefix(prefix).upper(), rests, n=1)
            suggestion = f": did you mean {prefix}{close[0]}?" if close else ""
            yield f"{ascii(name)[1:-1]} is no setting{suggestion}"


def split_mount_options(text: str) -> list[str]:
    """Return the words of `a,b=c`; a comma or backslash after a backslash belongs to the word."""
    words = re.findall(r"(?:\\.|[^,\\]|\\$)+", text)
    return [re.sub(r"\\([,\\])", r"\1", word) for word in words]


def parse_mount_options(text: str, *, sloppy: bool = False) -> dict[str, str]:
    """Return the settings among the options of `-o`, by name; later words win.

    What other parts of the system read is left out. An unknown word is a ConfigError unless
    *sloppy*; a key is one always: command lines are public.
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
            raise ConfigError("-o: taskfs cannot be remounted: unmount it, and mount it anew")
        elif name in _SYNONYMS:
            raise ConfigError(f"-o: {name} takes no value: write {name}")
        elif plain not in known:
            if sloppy:
                continue
            raise ConfigError(f"-o: unknown option {name!r}{near_matches(plain, known)}")
        elif not equals and not BY_NAME[plain].is_flag:
            raise ConfigError(f"-o: {name} needs a value: {name}={BY_NAME[plain].metavar}")
        settings[plain] = value if equals or name in _SYNONYMS else "true"
    return settings
