"""The names of members, and the members that are left out."""

import errno
import logging
import zlib

import pytest

from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, text, walk
from tests.zips import UTF8, Entry, build, field


def task_with(fs: FileSystem, *members: Entry) -> str:
    task = fs.cloud.add_task()
    fs.cloud.put_object(f"{task}/output.zip", build(members))
    return task


def shown(fs: FileSystem, *members: Entry) -> dict[str, bytes]:
    """Return what the mount shows of an archive of *members*, and that it can be read."""
    top = f"{task_with(fs, *members)}/outputs"
    return {name: fs.read(f"{top}/{name}") for name in walk(fs, top)}


def named(*names: bytes) -> list[Entry]:
    return [Entry(b"artifacts/" + name, b"%d" % index) for index, name in enumerate(names)]


def test_hostile_names_are_left_out(fs: FileSystem) -> None:
    """N-11: A component `..` or a NUL leaves the member out."""
    hostile = (
        *(b"../up", b"a/../../up", b"a/..", b"./../here", b"a/./../b", b"a//..", b"/../etc/passwd"),
        *(b"nul\0byte", b"a/\0", b"..", b".", b"../"),
    )
    assert shown(fs, *named(b"first", *hostile, b"last")) == {"first": b"0", "last": b"13"}
    outside = [Entry(name, b"?") for name in (b"/artifacts/x", b"../artifacts/x", b"artifactsx")]
    assert shown(fs, *outside, *named(b"only")) == {"only": b"0"}


def test_long_names_are_left_out(fs: FileSystem) -> None:
    """N-12: A component longer than 255 bytes is left out."""
    most, too_long = b"m" * 255, b"n" * 256
    two_bytes_each = "é".encode() * 128
    deep = b"/".join([b"d" * 200] * 5) + b"/f"
    members = named(most, too_long, two_bytes_each, b"d/" + too_long + b"/f", deep, b"d/ok")
    assert set(shown(fs, *members)) == {most.decode(), deep.decode(), "d/ok"}


def test_the_last_of_two_equal_names_wins(fs: FileSystem) -> None:
    """N-13: The last of two equal names wins."""
    members = named(b"twice", b"once", b"twice")
    task = task_with(fs, *members)
    assert sorted(fs.names(f"{task}/outputs")) == ["once", "twice"]
    assert fs.read(f"{task}/outputs/twice") == b"2"
    lines = text(fs, f"{task}/output_files_info").splitlines()
    assert [line.split()[-1] for line in lines[3:]] == ["once", "twice"]


def test_a_file_whose_name_is_a_directorys_is_left_out(fs: FileSystem) -> None:
    """N-14: A file with the name of a directory is left out."""
    assert shown(fs, *named(b"a", b"a/b", b"c/d", b"c", b"e", b"e/")) == {"a/b": b"1", "c/d": b"2"}


def test_control_characters_and_backslashes_stay(fs: FileSystem) -> None:
    r"""N-16, T-5: Control characters and backslashes stay in names, and `output_files_info` writes
    them as `\xNN`."""
    names = [
        b"a\\b",
        b"tab\there",
        b"line\nfeed",
        b"esc\x1b[31m",
        b"del\x7f",
        b"C:\\x",
        b" ",
        b"-rf",
    ]
    task = task_with(fs, *named(*names))
    assert sorted(fs.names(f"{task}/outputs")) == sorted(name.decode() for name in names)
    for index, name in enumerate(names):
        assert fs.read(f"{task}/outputs/{name.decode()}") == b"%d" % index
    table = text(fs, f"{task}/output_files_info")
    listed = [line[28:] for line in table.splitlines()[3:]]
    assert listed == [
        *("a\\b", r"tab\x09here", r"line\x0afeed", r"esc\x1b[31m", r"del\x7f"),
        *("C:\\x", " ", "-rf"),
    ]


def test_encodings(fs: FileSystem) -> None:
    """N-17: Bit 11 and a 0x7075 field are UTF-8; other names UTF-8 where valid, else CP437."""
    plain = b"artifacts/caf\x82"  # é in CP437
    utf8_name = b"\x01" + zlib.crc32(plain).to_bytes(4, "little") + "artifacts/kaffee☕".encode()
    stale = b"\x01" + bytes(4) + b"artifacts/made for another name"
    assert shown(
        fs,
        Entry("artifacts/über".encode(), b"bit 11", flags=UTF8),
        Entry("artifacts/naïve".encode(), b"UTF-8 all the same"),
        Entry(plain, b"CP437"),
        Entry(plain, b"0x7075", extra=field(0x7075, utf8_name)),
        Entry(b"artifacts/plain", b"stale 0x7075", extra=field(0x7075, stale)),
        Entry("artifacts/日本/語".encode(), b"deep", flags=UTF8),
    ) == {
        "über": b"bit 11",
        "naïve": b"UTF-8 all the same",
        "café": b"CP437",
        "kaffee☕": b"0x7075",
        "plain": b"stale 0x7075",
        "日本/語": b"deep",
    }


def test_only_what_lies_beneath_the_root_is_shown(fs: FileSystem) -> None:
    """N-4: Only the members under `artifacts/` are shown."""
    beside = [Entry(name, b"?") for name in (b"meta.json", b"artifacts.txt", b"sim_dir/x", b"x/y")]
    assert shown(fs, *beside, *named(b"stdout.txt")) == {"stdout.txt": b"0"}


def test_directories_may_lack_an_entry_or_hold_nothing(fs: FileSystem) -> None:
    """N-4: Directories without an entry of their own, and empty ones, are shown."""
    task = task_with(fs, Entry(b"artifacts/"), Entry(b"artifacts/empty/"), *named(b"a/b/c"))
    assert sorted(fs.names(f"{task}/outputs")) == ["a", "empty"]
    assert fs.names(f"{task}/outputs/empty") == []
    assert fs.names(f"{task}/outputs/a") == ["b"]


def test_what_unzip_normalises_is_shown(fs: FileSystem) -> None:
    """N-25, N-13: Components `.` and empty ones do not count, and the last of equal names wins."""
    files = named(b"./here", b"a/./b", b"a//c", b"/etc/passwd", b"twice", b"./twice", b"d/.")
    root = Entry(b"./artifacts/root", b"r")
    shown_files = shown(fs, *files, root)
    assert shown_files.keys() == {"here", "a/b", "a/c", "etc/passwd", "twice", "d", "root"} - {"d"}
    assert shown_files["twice"] == b"5"


def test_backslashes_of_windows_separate(fs: FileSystem) -> None:
    """N-26: A backslash separates where the archive was made on Windows and no name has a `/`."""
    names = (b"artifacts\\a", b"artifacts\\d\\b", b"artifacts\\..\\up", b"input.json")
    entries = [Entry(name, name, host=0) for name in names]
    task = fs.cloud.add_task(end_time="2025-06-11T08:00:00+00:00")
    fs.cloud.put_object(f"{task}/output.zip", build(entries))
    assert sorted(walk(fs, f"{task}/outputs")) == ["a", "d/b"]
    assert fs.read(f"{task}/outputs/d/b") == names[1]
    assert text(fs, f"{task}/output_files_info").endswith(" d/b\n")


def test_local_headers_that_say_the_name_in_another_way(fs: FileSystem) -> None:
    """I-6: A local header that says the same name in another way is read; another name is EIO."""
    pairs = {
        "café": ("café".encode(), "café".encode("cp437")),
        "thé": ("thé".encode("cp437"), "thé".encode()),
        "d/x": (b"d/x", b"d\\x"),
        "other": (b"other", b"another"),
    }
    entries = [
        Entry(b"artifacts/" + listed, listed, local_name=b"artifacts/" + local)
        for listed, local in pairs.values()
    ]
    task = fs.cloud.add_task(end_time="2025-06-11T08:00:00+00:00")
    fs.cloud.put_object(f"{task}/output.zip", build(entries))
    for name in ("café", "thé", "d/x"):
        assert fs.read(f"{task}/outputs/{name}") == pairs[name][0]
    with pytest.raises(OSError) as caught:
        fs.read(f"{task}/outputs/other")
    assert caught.value.errno == errno.EIO


def test_what_is_left_out_is_logged_once(
    tree: FileSystem, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """N-15: Members that are left out are logged once, with the path of their archive."""
    hostile = named(b"../up", b"a//../b", b"n" * 256, b"fine", b"c", b"c/d")
    task = cloud.add_task()
    cloud.put_object(f"{task}/output.zip", build(hostile))
    for _ in range(3):
        assert sorted(walk(tree, f"{task}/outputs")) == ["c/d", "fine"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 4
    assert all(warning.startswith(f"{task}/output.zip: ") for warning in warnings)
    for sign in ("../up", "a/../b", "nnn", "also directories"):
        assert sum(sign in warning for warning in warnings) == 1
