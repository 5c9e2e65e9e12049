"""The workloads, with the expected value of each step.

A workload runs its steps on one fresh mount with empty caches; a step may ask for another mount. A
step is one call on a view of `reader.py` and one row of the result. A new workload is a new row of
`WORKLOADS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from tests.large_archives import FIELDS, name_of

from .archives import FILES, MILLION, NEEDLE, Archive
from .content import Content

WINDOW: Final = 4096
CAP: Final = 20_000_000
READERS: Final = 8
STATS: Final = 10_000  # names that `stat` asks for, one after another
WALKED: Final = 20_000  # names of the same on a live mount
LARGE: Final = "results.dat"
STORED: Final = "restart.bin"


@dataclass(frozen=True, slots=True)
class LowerBound:
    """The least that a reader with empty caches must fetch from the store."""

    requests: int
    sent: int


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the result: a call of the reader and the value it must return.

    *inflates*: the lower bound of its time is the time to inflate the large member. *remounts*: the
    step runs on another mount with the caches of the one before, and its time is without the start,
    unless it *includes_start*. *prepare*: a call of the reader before the time begins.
    """

    title: str
    call: tuple[Any, ...]
    expected: Callable[[], Any]
    lower_bound: LowerBound
    inflates: bool = False
    remounts: bool = False
    prepare: tuple[Any, ...] = ()
    includes_start: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """Steps on one fresh mount of one archive; *bandwidth* limits each connection, in bytes/s.

    With *mounts_only*, libraries are not measured. With *peers*, only these and taskfs are.
    """

    name: str
    archive: str
    steps: Callable[[Archive, float], Sequence[Step]]
    bandwidth: int = 0
    mounts_only: bool = False
    peers: tuple[str, ...] = ()


def _content(archive: Archive, scale: float, name: str) -> Content:
    content = FILES[archive.name](scale)[name]
    assert isinstance(content, Content)
    return content


def _windows(content: Content, windows: Sequence[tuple[int, int]]) -> list[str]:
    return [sha256(content.read(offset, size)).hexdigest() for offset, size in windows]


def _find(archive: Archive, scale: float) -> list[Step]:
    count = len(archive.members)
    total = sum(member.size for member in archive.members)
    return [
        Step(
            f"`find -ls` of {count + 1:,} entries",
            ("find",),
            lambda: [count, total],
            LowerBound(2, archive.directory),
        )
    ]


def _million(archive: Archive, scale: float) -> list[Step]:
    members = archive.members
    count, directory = len(members), LowerBound(2, archive.directory)
    top = len({name_of(number).partition("/")[0] for number in range(0, count, FIELDS)})
    middle = members[count // 2]
    return [
        Step(f"the first `ls` of {count:,} members", ("ls",), lambda: top, directory),
        Step(
            "- `find -ls`",
            ("find",),
            lambda: [count, sum(member.size for member in members)],
            LowerBound(0, 0),
        ),
        Step(
            "- `cat` of a file in the middle",
            ("cat", middle.name),
            lambda: [middle.size, middle.crc],
            LowerBound(1, middle.compressed),
        ),
        Step(
            "- `ls` on a later mount, with its start",
            ("ls",),
            lambda: top,
            LowerBound(0, 0),
            remounts=True,
            includes_start=True,
        ),
    ]


def _stat(archive: Archive, scale: float) -> list[Step]:
    members = archive.members[:STATS]
    names = [member.name for member in members]
    total = sum(member.size for member in members)
    call = ("stat", names)
    title = f"`stat` of {len(names):,} names, none listed before"
    return [
        Step(title, call, lambda: total, LowerBound(2, archive.directory)),
        Step("- again, at once", call, lambda: total, LowerBound(0, 0)),
    ]


def _walks(archive: Archive, scale: float) -> list[Step]:
    """On a live mount: all steps but the first are without its start."""
    count, none = len(archive.members), LowerBound(0, 0)
    total = sum(member.size for member in archive.members)
    members = archive.members[:WALKED]
    names = [member.name for member in members]
    matching = sum(isinstance(content, bytes) for content in FILES[archive.name](scale).values())
    dropped = ("drop_names",)
    return [
        Step("`ls`", ("ls",), lambda: count, LowerBound(2, archive.directory)),
        Step(
            f"`stat` of {len(names):,} names, dropped from the kernel",
            ("stat", names),
            lambda: sum(member.size for member in members),
            none,
            prepare=dropped,
        ),
        Step("`find -ls`", ("find",), lambda: [count, total], none, prepare=dropped),
        # A walk comes back after the lifetime of names that the kernel may not keep.
        Step("- again", ("find",), lambda: [count, total], none, prepare=("sleep", 1.2)),
        Step(
            f"`rg -j2` over {count:,} files",
            ("ripgrep", NEEDLE),
            lambda: matching,
            LowerBound(2, archive.size),
        ),
        Step("- again, warm", ("ripgrep", NEEDLE), lambda: matching, none),
    ]


def _ls(archive: Archive, scale: float) -> list[Step]:
    count = len(archive.members)
    return [Step("`ls`", ("ls",), lambda: count, LowerBound(2, archive.directory))]


def _head(archive: Archive, scale: float) -> list[Step]:
    content = _content(archive, scale, "run.log")
    lines = content.read(0, content.size).splitlines(keepends=True)[:10]
    return [
        Step(
            "`head` of one small file",
            ("head", "run.log"),
            lambda: sha256(b"".join(lines)).hexdigest(),
            LowerBound(2, archive.directory + archive.member("run.log").compressed),
        )
    ]


def _stored(archive: Archive, scale: float) -> list[Step]:
    content = _content(archive, scale, STORED)
    windows = [(content.size // 2, WINDOW)]
    return [
        Step(
            "4 KiB in the middle of the stored member",
            ("read", STORED, windows, False),
            lambda: _windows(content, windows),
            LowerBound(2, archive.directory + WINDOW),
        )
    ]


def _random(archive: Archive, scale: float) -> list[Step]:
    content = _content(archive, scale, LARGE)
    needed = int(archive.member(LARGE).compressed * 0.9) + archive.directory

    def at(*percents: int) -> list[tuple[int, int]]:
        return [(content.size * percent // 100, WINDOW) for percent in percents]

    def step(title: str, lower_bound: LowerBound, reopen: bool, *percents: int) -> Step:
        windows = at(*percents)
        call = ("read", LARGE, windows, reopen)
        return Step(title, call, lambda: _windows(content, windows), lower_bound)

    none = LowerBound(0, 0)
    return [
        step(
            "4 KiB at 50, 90, 25, 50 % of the deflated one",
            LowerBound(2, needed),
            False,
            50,
            90,
            25,
            50,
        ),
        step("- then backwards, at 40 %", none, False, 40),
        step("- then reopened, at 70 %", none, True, 70),
    ]


def _cat(archive: Archive, scale: float) -> list[Step]:
    member = archive.member(LARGE)
    expected = [member.size, member.crc]
    lower_bound = LowerBound(2, member.compressed + archive.directory)
    size = f"{member.size / (1 << 30):.2g} GiB"
    call = ("cat", LARGE)
    return [
        Step(
            f"`cat` of the deflated one ({size})",
            call,
            lambda: expected,
            lower_bound,
            inflates=True,
        ),
        Step("- again, warm", call, lambda: expected, LowerBound(0, 0)),
    ]


def _remount(archive: Archive, scale: float) -> list[Step]:
    member, content = archive.member(LARGE), _content(archive, scale, LARGE)
    expected = [member.size, member.crc]
    lower_bound = LowerBound(2, member.compressed + archive.directory)
    size = f"{member.size / (1 << 30):.2g} GiB"

    def jump(percent: int) -> Step:
        windows = [(content.size * percent // 100, WINDOW)]
        return Step(
            f"- 4 KiB of it at {percent} % after a remount",
            ("read", LARGE, windows, False),
            lambda: _windows(content, windows),
            LowerBound(0, 0),
            remounts=True,
        )

    cat = ("cat", LARGE)
    return [
        Step(
            f"`cat` of the deflated one ({size}), to be read again",
            cat,
            lambda: expected,
            lower_bound,
        ),
        jump(90),
        Step("- `cat` after a remount", cat, lambda: expected, LowerBound(0, 0), remounts=True),
    ]


def _capped(archive: Archive, scale: float) -> list[Step]:
    member = archive.member(LARGE)
    lower_bound = LowerBound(2, member.compressed + archive.directory)
    title = f"`cat`, each connection capped at {CAP // 1_000_000} MB/s"
    return [Step(title, ("cat", LARGE), lambda: [member.size, member.crc], lower_bound)]


def _each(archive: Archive, scale: float) -> list[Step]:
    names = [member.name for member in archive.members]
    compressed = sum(member.compressed for member in archive.members)
    return [
        Step(
            f"{len(names)} files, {READERS} readers at once",
            ("each", names, READERS),
            lambda: [[member.size, member.crc] for member in archive.members],
            LowerBound(2, compressed + archive.directory),
        )
    ]


def _starts(archive: Archive, scale: float) -> list[Step]:
    files = FILES[archive.name](scale)
    names = [member.name for member in archive.members]
    # The compressed size of the first 4 KiB of each file, with one request per file.
    ratio = sum(m.compressed for m in archive.members) / sum(m.size for m in archive.members)
    needed = int(len(names) * WINDOW * ratio) + archive.directory

    def expected() -> list[str]:
        contents = [_content(archive, scale, name) for name in names]
        return [_windows(content, [(0, WINDOW)])[0] for content in contents]

    assert files.keys() == set(names)
    return [
        Step(
            f"the first 4 KiB of each of {len(names)} files",
            ("starts", names, WINDOW),
            expected,
            LowerBound(len(names) + 2, needed),
        )
    ]


def _grep(archive: Archive, scale: float) -> list[Step]:
    matching = sum(isinstance(content, bytes) for content in FILES[archive.name](scale).values())
    return [
        Step(
            f"`grep -r` over {len(archive.members):,} files",
            ("grep", NEEDLE),
            lambda: matching,
            LowerBound(2, archive.size),
        )
    ]


WORKLOADS: Final = (
    Workload("find", "many", _find),
    Workload("stat", "many", _stat),
    Workload("walks", "many", _walks, mounts_only=True),
    Workload("ls", "big", _ls),
    Workload("head", "big", _head),
    Workload("stored", "big", _stored),
    Workload("random", "big", _random),
    Workload("cat", "big", _cat),
    Workload("remount", "big", _remount),
    Workload("parallel", "mixed", _each),
    Workload("starts", "mixed", _starts),
    Workload("grep", "many", _grep),
    Workload("capped", "big", _capped, bandwidth=CAP),
    Workload("million", MILLION, _million, peers=("ratarmount", "remotezip", "fuse-zip")),
)
