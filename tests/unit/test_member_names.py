"""Names that are normalised, and which are not."""

import logging
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskfs.archive.directory_parser import has_windows_separators
from taskfs.archive.index import ArchiveIndex
from taskfs.archive.member_names import is_same_name, normalise
from tests.zips import DOS_MTIME_S, ROOT, Entry, build, file, folder, index_of, timestamp_field

ODD = st.text("ab./\\é", max_size=12)


def paths(index: ArchiveIndex) -> list[str]:
    return [member.path for member in index.members]


def windows(*names: bytes, host: int = 0) -> bytes:
    return build([Entry(name, b"%d" % n, host=host) for n, name in enumerate(names)])


@settings(deadline=None)
@given(ODD)
def test_a_normalised_name_has_no_dot_and_no_empty_component(name: str) -> None:
    """N-25, N-11: Components `.` and empty ones go; `..` and a leading slash stay, so that such a
    name is still left out."""
    plain = normalise(name)
    assert normalise(plain) == plain
    inner = plain.removeprefix("/").removesuffix("/")
    assert not inner or not {"", "."} & set(inner.split("/"))
    assert plain.split("/").count("..") == name.split("/").count("..")
    assert plain.startswith("/") == name.startswith("/")
    assert [c for c in plain.split("/") if c] == [c for c in name.split("/") if c not in ("", ".")]


@settings(deadline=None)
@given(st.lists(ODD, max_size=6), st.sampled_from([0, 3, 10]))
def test_no_name_has_a_component_that_climbs(names: list[str], host: int) -> None:
    """N-11: No name has a component that leaves the tree."""
    entries = [Entry((ROOT + name).encode(), host=host) for name in names]
    entries += [Entry(name.encode(), host=host) for name in names]
    entries += [Entry(f"artifacts\\{name}".encode(), host=host) for name in names]
    for entry in (entries, [e for e in entries if b"/" not in e.name]):
        for path in paths(index_of(build(entry))):
            assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("./artifacts/a/b", "a/b"),
        ("././artifacts/a/b", "a/b"),
        (".//artifacts/a/b", "a/b"),
        ("artifacts/./a/b", "a/b"),
        ("artifacts//a/b", "a/b"),
        ("artifacts/a/././b", "a/b"),
        ("artifacts/a///b", "a/b"),
        ("artifacts/a./b", "a./b"),
        ("artifacts/.a/b", ".a/b"),
        ("artifacts/a/...", "a/..."),
        ("artifacts/a\\.\\b", "a\\.\\b"),
    ],
)
def test_names_that_unzip_and_7_zip_normalise_are_shown(name: str, path: str) -> None:
    """N-25: Names that unzip and 7-Zip normalise are shown."""
    index = index_of(build([Entry(name.encode(), b"1")]))
    assert paths(index) == [path]
    assert index.lookup(path) == index.members[0]


@pytest.mark.parametrize(
    "name", ["artifacts/d/", "artifacts//d//", "./artifacts/d/.", "artifacts/./d/./"]
)
def test_directories_are_normalised_too(name: str) -> None:
    """N-25, A-10: A directory's entry with such a name dates it."""
    index = index_of(build([Entry(name.encode(), extra=timestamp_field(7)), file("d/x", b"1")]))
    assert list(index.root.children) == ["d"]
    assert index.root.children["d"].mtime_ns == 7 * 10**9


@pytest.mark.parametrize("name", ["./", "//", "/", ".", "./."])
def test_an_entry_of_the_root_itself(name: str) -> None:
    """N-25: An entry of the root dates it and shows nothing."""
    index = index_of(build([file("good", b"1"), file(name, extra=timestamp_field(7))]))
    assert list(index.root.children) == ["good"]
    assert index.root.mtime_ns == 7 * 10**9


def test_the_last_of_two_names_that_are_equal_once_normalised_wins() -> None:
    """N-25, N-13, N-14: Of names that are equal once normalised the last wins; a file with a
    directory's name is left out."""
    equal = [file("a", b"1"), file("./a", b"22"), Entry(b"./artifacts//a", b"333")]
    for entries in (equal, equal[::-1]):
        (member,) = index_of(build(entries)).members
        assert (member.path, member.size) == ("a", len(entries[-1].body))
    index = index_of(build([file("d", b"1"), folder("./d/."), file("good", b"")]))
    assert paths(index) == ["good"]


@pytest.mark.parametrize("host", [0, 10, 14])
def test_backslashes_of_windows_separate(host: int) -> None:
    """N-26: A backslash separates where the archive was made on Windows and no name has a `/`."""
    body = windows(b"artifacts\\", b"artifacts\\d\\", b"artifacts\\d\\x", b"artifacts\\y", b"z",
                   b"artifacts\\..\\up", b"\\artifacts\\abs", b"artifacts\\.\\w",
                   host=host)  # fmt: skip
    index = index_of(body)
    assert paths(index) == ["d/x", "y", "w"]
    assert index.members[0].raw_name == b"artifacts\\d\\x"
    assert set(index.root.children) == {"d", "y", "w"}
    assert index.root.mtime_ns == DOS_MTIME_S * 10**9


@pytest.mark.parametrize(
    "body",
    [
        windows(b"artifacts\\x", host=3),
        windows(b"artifacts\\x", host=19),
        windows(b"artifacts\\x", b"input/y"),
        build([Entry(b"artifacts\\x", host=0), Entry(b"y", host=3)]),
    ],
)
def test_backslashes_of_others_stay(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """N-26, N-15: Other backslashes stay; an archive of which nothing is then shown is logged."""
    with caplog.at_level(logging.WARNING):
        assert paths(index_of(body)) == []
    (record,) = caplog.records
    assert "artifacts" in record.getMessage() and "x" in record.getMessage()


def test_an_archive_of_which_nothing_is_shown_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """N-15: An archive of which nothing is shown is logged, with the reason."""
    with caplog.at_level(logging.WARNING):
        assert paths(index_of(build([file("../x", b"1"), file("../y", b"2")]))) == []
    assert any("every member" in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert paths(index_of(build([]))) == []
        assert paths(index_of(build([folder(""), Entry(b"input.json", b"{}")]))) == []
    assert caplog.records == []


@pytest.mark.parametrize("prefix", ["", "./", "artifacts\\", "a//"])
def test_100_000_odd_names_cost_no_more_than_their_length(prefix: str) -> None:
    """R-20: 100,000 odd names cost time in proportion to their length."""
    began = time.process_time()
    header = build([Entry(b"@" * 40, host=0)])
    at = header.index(b"PK\x01\x02")
    record = header[at : at + 46]
    directory = b"".join(
        record + f"{prefix}artifacts/{n:06}".encode()[:40].ljust(40, b"x") for n in range(100_000)
    )
    has_windows_separators([directory])
    for n in range(100_000):
        normalise(f"{prefix}artifacts//{n}")
    normalise("./" * 30_000 + "x")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("cut", range(0, 120, 7))
def test_a_cut_directory_is_no_reason_to_fail(cut: int) -> None:
    """I-8: The search for separators in a damaged directory ends."""
    body = windows(b"artifacts\\x", b"artifacts\\y")
    start = body.index(b"PK\x01\x02")
    directory = body[start : len(body) - 22 - cut]
    assert has_windows_separators([directory]) in (True, False)


@settings(deadline=None)
@given(st.text("aé\\/.", min_size=1, max_size=8), st.text("aé\\/.", min_size=1, max_size=8))
def test_names_are_the_same_where_they_say_the_same(one: str, other: str) -> None:
    """I-6: Two headers name one member in any encoding and with any separator; another name is
    another one."""
    plain = [normalise(text.replace("\\", "/")) for text in (one, other)]
    for raw in (one.encode(), one.encode("cp437")):
        for other_raw in (other.encode(), other.encode("cp437")):
            same = is_same_name(raw, other_raw, "another")
            assert same or plain[0] != plain[1]
            if plain[0].isascii() and plain[1].isascii() and any(plain):
                assert same == (plain[0] == plain[1])
