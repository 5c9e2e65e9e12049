"""`taskfs.archive.index`: the members of an archive; the reference is Python's `zipfile`."""

import calendar
import io
import logging
import random
import struct
import time
import zipfile
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from taskfs.archive import name_sorter
from taskfs.archive.central_directory import NTFS_EPOCH_100NS
from taskfs.archive.end_record import MIN_TAIL, find_end
from taskfs.archive.index import ArchiveIndex, Folder
from taskfs.archive.index_builder import build_index
from taskfs.archive.member import Member
from taskfs.cache.sealed_file import SealedWriter
from taskfs.errors import CorruptData, TaskFSError, Unsupported
from taskfs.model import ObjectVersion
from tests.peaks import peak_bytes, takes_less
from tests.zips import (
    BZIP2,
    DEFLATED,
    DOS_MTIME_S,
    LZMA,
    ROOT,
    STORED,
    Entry,
    build,
    field,
    file,
    flipped,
    folder,
    index_of,
    ntfs_field,
    plain_name,
    timestamp_field,
    unicode_field,
)

SECOND = 10**9
SEARCHING = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def paths(index: ArchiveIndex) -> list[str]:
    return [found.path for found in index.members]


def at(index: ArchiveIndex, path: str) -> Member:
    found = index.lookup(path)
    assert isinstance(found, Member), path
    return found


def folder_at(index: ArchiveIndex, path: str) -> Folder:
    found = index.lookup(path)
    assert isinstance(found, Folder), path
    return found


def mtime_s(**fields: Any) -> float:
    """The time of one file made with *fields*."""
    return at(index_of(build([file("x", **fields)])), "x").mtime_ns / SECOND


# The reference: the names as semantics.md has them, everything else as zipfile has it.


def reference_name(info: zipfile.ZipInfo) -> str:
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    raw_name = info.orig_filename.encode(encoding)
    extra = info.extra
    name = None
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        value, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == 0x7075 and len(value) > 5 and value[0] == 1:
            made_for = int.from_bytes(value[1:5], "little")
            if made_for == zlib.crc32(raw_name):
                try:
                    name = value[5:].decode()
                except UnicodeDecodeError:
                    name = None
    if name is not None:
        return name
    try:
        return raw_name.decode()
    except UnicodeDecodeError:
        return raw_name.decode("cp437")


def reference(body: bytes) -> dict[str, tuple[int, int, int, int, int]] | None:
    """Return what zipfile finds beneath the root, by semantics.md; None if it refuses."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            infos = archive.infolist()
    except Exception:  # whatever it meets: it raises more than BadZipFile
        return None
    files: dict[str, tuple[int, int, int, int, int]] = {}
    folders: set[str] = set()
    for info in infos:
        name = plain_name(reference_name(info))
        if not name.startswith(ROOT):
            continue
        path = name[len(ROOT) :]
        parts = path.removesuffix("/").split("/")
        if path and any(
            part in ("", ".", "..") or "\0" in part or len(part.encode()) > 255 for part in parts
        ):
            continue
        if max(info.file_size, info.compress_size) >= 1 << 63:
            continue
        if path.endswith("/") or not path:
            folders.add(path.removesuffix("/"))
            parts.append("")
        else:
            files[path] = (
                info.file_size,
                info.compress_size,
                info.CRC,
                info.compress_type,
                info.header_offset,
            )
        for depth in range(1, len(parts)):
            folders.add("/".join(parts[:depth]))
    return {path: what for path, what in files.items() if path not in folders}


def indexed(body: bytes) -> dict[str, tuple[int, int, int, int, int]]:
    return {
        found.path: (
            found.size,
            found.compressed_size,
            found.crc32,
            found.method,
            found.header_offset,
        )
        for found in index_of(body).members
    }


NAMES = st.one_of(
    st.text("abc/.\\é\n", min_size=0, max_size=6).map(lambda text: (ROOT + text).encode()),
    st.text(min_size=0, max_size=4).map(lambda text: (ROOT + text).encode("utf-8", "replace")),
    st.binary(max_size=6).map(lambda raw: ROOT.encode() + raw),
    st.sampled_from([b"artifacts/", b"artifacts", b"input.json", b"", b"/artifacts/x", b"../x"]),
    st.integers(250, 262).map(lambda length: (ROOT + "n" * length).encode()),
)
EXTRAS = st.lists(
    st.one_of(
        st.integers(-(2**31), 2**31 - 1).map(timestamp_field),
        st.integers(0, 2**64 - 1).map(ntfs_field),
        st.builds(field, st.sampled_from([0x000A, 0x5455, 0x7075, 0x9901]), st.binary(max_size=9)),
    ),
    max_size=3,
).map(b"".join)


@st.composite
def entries(draw: st.DrawFn, *, honest: bool = True) -> Entry:
    name = draw(NAMES)
    extra = draw(EXTRAS)
    if draw(st.integers(0, 5)) == 0:
        extra += unicode_field(ROOT + draw(st.text("äb/", max_size=3)), name)
    return Entry(
        name,
        draw(st.binary(max_size=40)),
        method=draw(st.sampled_from([STORED, DEFLATED])),
        flags=0x800 if draw(st.booleans()) else 0,
        date=draw(st.integers(0, 0xFFFF)),
        time=draw(st.integers(0, 0xFFFF)),
        extra=extra,
        comment=draw(st.binary(max_size=5)),
        zip64=draw(st.booleans()),
        is_streamed=draw(st.booleans()),
        local_extra=draw(EXTRAS),
        size=None if honest else draw(st.none() | st.integers(0, 2**32 - 1)),
        offset=None if honest else draw(st.none() | st.integers(0, 2**32 - 1)),
    )


@st.composite
def archives(draw: st.DrawFn, *, honest: bool = True) -> bytes:
    return build(
        draw(st.lists(entries(honest=honest), max_size=6)),
        prepended=draw(st.binary(max_size=30)),
        shifted=draw(st.booleans()),
        comment=draw(st.binary(max_size=30)),
        zip64=draw(st.booleans()),
    )


@SEARCHING
@given(archives())
def test_where_zipfile_reads_we_index_the_same(body: bytes) -> None:
    """I-8: Where zipfile reads, the index has the same sizes, CRCs and offsets, from the central
    directory only."""
    expected = reference(body)
    if expected is None:  # bit 11 without UTF-8: zipfile gives up, semantics.md does not
        indexed(body)
    else:
        assert indexed(body) == expected


@SEARCHING
@given(
    st.lists(
        st.tuples(
            st.text("abcdé/", min_size=1, max_size=8),
            st.binary(max_size=200),
            st.sampled_from([STORED, DEFLATED, BZIP2, LZMA]),
        ),
        max_size=8,
        unique_by=lambda triple: triple[0],
    ),
    st.binary(max_size=100),
    st.binary(max_size=100),
)
def test_archives_of_zipfile_are_indexed(
    written: list[tuple[str, bytes, int]], comment: bytes, prepended: bytes
) -> None:
    """I-8: Archives made by Python's zipfile are indexed, with what may surround them."""
    stream = io.BytesIO(prepended)
    stream.seek(0, io.SEEK_END)
    with zipfile.ZipFile(stream, "a" if prepended else "w") as archive:
        for name, content, method in written:
            archive.writestr(ROOT + name, content, compress_type=method)
        archive.comment = comment
    body = stream.getvalue()
    expected = reference(body)
    if expected is None:  # the comment holds the magic of an end record
        return
    assert indexed(body) == expected


@settings(SEARCHING, max_examples=300)
@given(
    archives(honest=False),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=4),
    st.integers(0, 60),
)
def test_damage_is_refused_by_name_or_read_as_zipfile_reads_it(
    body: bytes, flips: list[tuple[int, int]], cut: int
) -> None:
    """I-8: Damage is refused by an error of ours or read as zipfile reads it."""
    for place, mask in flips:
        body = flipped(body, -1 - place % len(body), mask)
    body = body[: len(body) - cut] if cut < 30 else body
    expected = reference(body)
    try:
        found = indexed(body)
    except TaskFSError:
        return
    if expected is not None:
        assert found == expected


def test_random_bytes_and_cut_archives_are_refused_by_name() -> None:
    """I-8: Random bytes and truncated archives are refused by an error of ours."""
    rng = random.Random(7)
    whole = build([file(f"f{n}", b"x" * n, zip64=n % 2 == 0) for n in range(9)], zip64=True)
    tails = [whole[:stop] for stop in range(len(whole))]
    tails += [whole[start:] for start in range(len(whole))]
    tails += [rng.randbytes(rng.randrange(200)) + b"PK\x05\x06" + rng.randbytes(18 + n % 9)
              for n in range(300)]  # fmt: skip
    refused = 0
    for body in tails:
        try:
            index_of(body)
        except TaskFSError as exc:
            assert isinstance(exc, CorruptData | Unsupported)
            refused += 1
    assert refused > len(whole)  # every one that was cut at its end


@pytest.mark.parametrize("tail_length", [MIN_TAIL, None])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("comment_length", [0, 1, 0xFFFF])
def test_the_shortest_tail_holds_every_end_record(
    comment_length: int, zip64: bool, tail_length: int | None
) -> None:
    """R-1: One suffix range finds the directory, whatever the comment's length."""
    body = build(
        [file("x", bytes(1 << 18), level=0), file("y", b"2")],
        comment=b"c" * comment_length,
        zip64=zip64,
    )
    index = index_of(body, tail_length=tail_length)
    assert [(m.path, m.size) for m in index.members] == [("x", 1 << 18), ("y", 1)]


def fake_end(size: int, offset: int, comment: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, offset, comment)


@pytest.mark.parametrize("before", [0, 1, 40])
@pytest.mark.parametrize("behind", [1, 40])
def test_an_end_record_in_a_comment_is_not_used(before: int, behind: int) -> None:
    """I-8: A comment with a faked end record is not believed."""
    comment = b"c" * before + fake_end(46, 0) + b"c" * behind
    assert paths(index_of(build([file("true", b"1")], comment=comment))) == ["true"]


def test_a_comment_that_ends_in_a_faked_end_record_shows_the_true_members_or_is_refused() -> None:
    """I-8: A faked end record that reaches to the end shows the true members or is refused, and
    never an empty directory."""
    for fake in (fake_end(0, 0), fake_end(46, 0), fake_end(60, 3)):
        body = build([file("true", b"1")], comment=b"quoted: " + fake)
        try:
            found = paths(index_of(body))
        except TaskFSError:
            continue
        assert found == ["true"]


def test_a_comment_that_quotes_the_archive_s_own_end_record_is_read_past() -> None:
    """`find_end`: an end record inside a comment is not taken for one."""
    plain = build([file("true", b"1")])
    body = build([file("true", b"1")], comment=b"see " + plain[-22:])
    assert paths(index_of(body)) == ["true"]


@pytest.mark.parametrize("trailing", [b"\0", b"junk" * 10, bytes(60_000)])
@pytest.mark.parametrize("comment", [b"", b"comment"])
@pytest.mark.parametrize("zip64", [False, True])
def test_trailing_data_is_read_past(zip64: bool, comment: bytes, trailing: bytes) -> None:
    """I-8: Trailing data is skipped."""
    body = build([file("x", b"1")], trailing=trailing, comment=comment, zip64=zip64)
    assert paths(index_of(body)) == ["x"]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("zip64", [False, True])
def test_data_before_the_archive_moves_the_members(zip64: bool, shifted: bool) -> None:
    """A self-extractor: offsets may count from either begin; the header is found all the same."""
    body = build(
        [file("x", b"1"), file("y", b"2")], prepended=b"#!/bin/sh\n", shifted=shifted, zip64=zip64
    )
    index = index_of(body)
    for name in ("x", "y"):
        header = at(index, name).header_offset
        assert body[header : header + 4] == b"PK\x03\x04"
        assert body[header + 30 :].startswith((ROOT + name).encode())


@pytest.mark.parametrize(
    "end",
    [{"disk": 1}, {"first_disk": 1}, {"here": 0}, {"entries": 7}, {"disk": 0xFFFF}],
)
def test_split_archives_are_unsupported(end: dict[str, int]) -> None:
    """X-6: An archive feature that cannot be read is EOPNOTSUPP."""
    with pytest.raises(Unsupported, match="split"):
        index_of(build([file("x", b"1")], end=end))


@pytest.mark.parametrize("locator", [{"disk": 1}, {"disks": 2}])
def test_split_zip64_archives_are_unsupported(locator: dict[str, int]) -> None:
    """X-6: An archive feature that cannot be read is EOPNOTSUPP."""
    with pytest.raises(Unsupported, match="split"):
        index_of(build([file("x", b"1")], zip64=True, locator=locator))


def test_zip64_locator_that_counts_no_disks_is_read() -> None:
    """Writers leave 0 for the number of disks; zipfile reads that, so do we."""
    body = build([file("x", b"1")], zip64=True, locator={"disks": 0})
    assert paths(index_of(body)) == ["x"]


def test_zip64_end_record_with_extensible_data_is_found_where_the_locator_says() -> None:
    """APPNOTE 4.3.14: the ZIP64 end record may be longer than its fixed part."""
    body = build([file("x", b"1")], zip64=True, zip64_extensible=b"vendor data")
    assert paths(index_of(body)) == ["x"]


@pytest.mark.parametrize("claimed", [0, 5, 2**63, 2**64 - 1])
def test_zip64_end_record_is_found_before_its_locator_whatever_that_says(claimed: int) -> None:
    """As zipfile does; a locator of an archive that was appended to something is off."""
    body = build([file("x", b"1")], zip64=True, locator={"at": claimed})
    assert paths(index_of(body)) == ["x"]


def test_zip64_end_record_that_is_missing_is_refused() -> None:
    """X-4: A damaged archive is EIO."""
    body = build([file("x", b"1")], zip64=True)
    with pytest.raises(CorruptData, match="ZIP64"):
        index_of(body.replace(b"PK\x06\x06", b"PK\x06\x00"))


@pytest.mark.parametrize(
    ("size", "zip64"),
    [(2**31, False), (0xFFFF_FFFF, False), (2**31, True), (2**63, True), (2**64 - 1, True)],
)
def test_a_directory_larger_than_the_object_is_refused(size: int, zip64: bool) -> None:
    """I-8, R-20: A directory larger than the object is refused before any memory of that size is
    used."""
    claims: Any = {"end64": {"size": size}} if zip64 else {"end": {"size": size}}
    with pytest.raises(CorruptData):
        index_of(build([file("x", b"1")], zip64=zip64, **claims))


def test_a_huge_directory_is_unsupported_before_it_is_fetched() -> None:
    """R-20, R-21: A central directory may be 1 GiB long; a longer one is not fetched."""
    size = (1 << 30) + 1
    tail = build([], end={"size": size, "offset": 0})
    with pytest.raises(Unsupported, match="MiB"):
        find_end(tail, size)


@pytest.mark.parametrize("offset", [0, 100, 0xFFFF_FFFF])
def test_a_directory_that_lies_elsewhere_is_refused(offset: int) -> None:
    """I-8: An end record that points outside the archive or beside the directory is refused."""
    body = build([file("x", b"1")], end={"offset": offset, "size": 70})
    with pytest.raises(TaskFSError):
        index_of(body)


def test_a_digital_signature_may_follow_the_entries() -> None:
    """APPNOTE 4.3.13: the directory may end in a digital signature."""
    signature = struct.pack("<4sH", b"PK\x05\x05", 5) + b"signe"
    plain = build([file("x", b"1")])
    directory = plain[plain.index(b"PK\x01\x02") : -22]
    body = plain[:-22] + signature
    body += fake_end(len(directory) + len(signature), plain.index(b"PK\x01\x02"))
    assert paths(index_of(body)) == ["x"]


def test_an_offset_beyond_64_bits_does_not_hide_the_others() -> None:
    """I-8: A member that data before the archive moves beyond 64 bits hides no other one."""
    far = file("far", b"2", zip64=True, offset=(1 << 64) - 1)
    index = index_of(build([file("x", b"1"), far], prepended=b"#!/bin/sh\n", shifted=True))
    assert paths(index) == ["x", "far"]
    assert at(index, "x").header_offset == 10


def test_a_digital_signature_may_come_in_several_pieces() -> None:
    """APPNOTE 4.3.13: the index is right where a piece of the directory begins in the signature."""
    plain = build([file("x", b"1"), file("d/y", b"22")])
    end = find_end(plain, 0)
    directory = plain[end.start : end.stop] + struct.pack("<4sH", b"PK\x05\x05", 400) + bytes(400)
    pieces = (directory[:-300], directory[-300:])
    end = end._replace(stop=end.start + len(directory))
    index = build_index(SealedWriter(), pieces, ObjectVersion(end.stop, ""), end, ROOT)
    assert paths(index) == ["x", "d/y"]
    assert at(index, "d/y").size == 2


# Names


@pytest.mark.parametrize(
    "name",
    [
        "../x", "..", "./..", "a/../x", "a/.././x", "./../x", "/../x", "//..//x", "a\0b", "\0",
        "a/..", "../", "a/../", "../.", "..//", "n" * 256, "é" * 128, "d/" + "n" * 256,
        "n" * 256 + "/x", "n" * 256 + "/", "x" + "\U0001f600" * 64,
    ],
)  # fmt: skip
def test_names_that_cannot_be_shown_are_left_out_and_logged_once(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """N-11, N-12, N-15: `..`, NUL and over 255 bytes are left out and logged once."""
    body = build([file("good", b"1"), file(name, b"evil", extra=timestamp_field(5))])
    with caplog.at_level(logging.WARNING):
        index = index_of(body)
    assert list(index.root.children) == ["good"]
    assert index.root.mtime_ns == DOS_MTIME_S * SECOND
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "é" * 127, "\U0001f600" * 63, "n" * 255 + "/" + "n" * 255, "...", "..a", "~",
     "a b", "a\\b", "\x01\x1b[2J\n\t\x7f", " ", "C:", "con", "-rf", "*", "a\\..\\b", "\\"],
)  # fmt: skip
def test_other_names_stay_as_they_are(name: str) -> None:
    """N-16, N-26, N-12: Control characters and backslashes stay; 255 bytes are not too long."""
    assert paths(index_of(build([file(name, b"1")]))) == [name]


def test_many_bad_names_log_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    """N-15: Members that are left out are logged once, however many they are."""
    bad = [file(f"../{n}", b"") for n in range(500)]
    clashing = [file(f"d{n}", b"") for n in range(500)] + [folder(f"d{n}") for n in range(500)]
    with caplog.at_level(logging.WARNING):
        index_of(build(bad))
        index_of(build(clashing))
    assert len(caplog.records) <= 40


@pytest.mark.parametrize("name", ["artifacts", "input.json", "artifactsx/y", "Artifacts/x", "x"])
def test_members_outside_of_the_root_are_not_shown(name: str) -> None:
    """N-4: `outputs/` shows the files under artifacts/, but no file of that name."""
    body = build([Entry(name.encode(), b"1"), file("x", b"22")])
    index = index_of(body)
    assert [(m.path, m.size) for m in index.members] == [("x", 2)]
    assert list(index.root.children) == ["x"]


def test_other_roots_and_none() -> None:
    """N-4: `inputs/` shows the files under sim_dir/; an archive without members is no error."""
    body = build([Entry(b"sim_dir/x", b"1"), file("y", b"2")])
    assert paths(index_of(body, "sim_dir/")) == ["x"]
    assert paths(index_of(build([]))) == []
    assert index_of(build([])).root.mtime_ns is None
    assert index_of(build([])).root.children == {}


def test_the_last_of_two_equal_names_wins() -> None:
    """N-13: The last of two equal names wins, at its own position in the archive."""
    index = index_of(build([file("x", b"1"), file("y", b"22"), file("x", b"333")]))
    assert [(m.path, m.size) for m in index.members] == [("y", 2), ("x", 3)]
    assert at(index, "x").size == 3


def test_an_earlier_member_does_not_replace_one_that_is_left_out() -> None:
    """N-13: The last of two equal names wins, also if it is then left out."""
    liar = file("x", b"333", size=1 << 63, zip64=True)
    index = index_of(build([file("x", b"1"), file("y", b"22"), liar]))
    assert paths(index) == ["y"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("directory", [folder("x"), file("x/y", b"1"), file("x/y/z", b"1")])
def test_a_file_whose_name_is_also_a_directory_s_is_left_out(
    directory: Entry, order: tuple[int, int]
) -> None:
    """N-14: A file whose name is also that of a directory is left out."""
    two = (file("x", b"evil"), directory)
    index = index_of(build([two[order[0]], two[order[1]]]))
    assert isinstance(index.lookup("x"), Folder)
    assert "x" not in paths(index)


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
def test_names_are_found_in_any_order(order: str) -> None:
    """N-4: A member is found by its name whichever was looked for before, and so are those that
    follow it in its folder."""
    names = [f"{'ab'[number // 40]}/f{number:03}" for number in range(80)]
    entries = [file(name, b"x" * number) for number, name in enumerate(names)]
    index = index_of(build([*entries[:60], folder("c"), *entries[60:], *entries[10:12]]))
    wanted = [*names, *[f"{name}?" for name in names[::7]]]
    if order == "random":
        random.Random(3).shuffle(wanted)
    for path in wanted if order != "backward" else reversed(wanted):
        inner, _, name = path.partition("/")
        children = folder_at(index, inner).children
        found = children.get(name)
        if name.endswith("?"):
            assert found is None
            continue
        assert isinstance(found, Member) and (found.path, found.size) == (path, int(name[1:]))
        rows = children.rows_after(found.number)
        following = [each for each in index.members if each.number > found.number]
        expected = [each for each in following if each.path.startswith(f"{inner}/")]
        assert [(row.name, row.number, row.size) for row in rows] == [
            (each.path.partition("/")[2], each.number, each.size) for each in expected[: len(rows)]
        ]
        assert rows or not expected or expected[0] is not following[0]


def test_lookup_beneath_a_file_finds_nothing() -> None:
    """X-1: A path beneath a file does not exist."""
    index = index_of(build([file("d/x", b"1")]))
    assert index.lookup("") is index.root
    for path in ("d/x/y", "d/y", "y", "d/", "/", "d//x"):
        assert index.lookup(path) is None


@pytest.mark.parametrize(
    ("raw", "flags", "name"),
    [
        (b"caf\xc3\xa9", 0x800, "café"),
        (b"caf\xc3\xa9", 0, "café"),
        (b"caf\x82", 0, "café"),
        (b"caf\x82", 0x800, "café"),  # a broken promise
        (b"\xb0\xb1", 0, "░▒"),
        (b"\xff", 0, "\u00a0"),
        (b"\xed\xa0\x80", 0x800, "φáÇ"),  # a lone surrogate is not UTF-8
        (b"\xc0\xaf", 0x800, "└»"),  # an overlong slash is not UTF-8
        (b"\xc0\xae\xc0\xae/x", 0x800, "└«└«/x"),
    ],
)
def test_names_are_utf8_where_valid_else_cp437(raw: bytes, flags: int, name: str) -> None:
    """N-17: With bit 11 a name is UTF-8; otherwise UTF-8 if it is valid, else CP437."""
    assert paths(index_of(build([Entry(ROOT.encode() + raw, flags=flags)]))) == [name]


RAW = ROOT.encode() + b"caf\x82"


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (unicode_field(ROOT + "ж.txt", RAW), "ж.txt"),
        (unicode_field(ROOT + "old.txt", RAW, crc=1), "café"),  # made for another name
        (unicode_field(b"", RAW), "café"),
        (unicode_field(b"artifacts/\xff", RAW), "café"),
        (field(0x7075, b"\1"), "café"),
        (field(0x7075, struct.pack("<BL", 2, zlib.crc32(RAW)) + b"artifacts/v2"), "café"),
    ],
)
def test_unicode_path_fields_name_the_member(extra: bytes, name: str) -> None:
    """N-17: A 0x7075 field is UTF-8, if it was made for this name."""
    assert paths(index_of(build([Entry(RAW, extra=extra)]))) == [name]


@pytest.mark.parametrize("name", ["../x", "a\0", "n" * 256, "a//../b", "./..", ".."])
def test_unicode_path_fields_do_not_climb(name: str) -> None:
    """N-11, N-17: A name in a 0x7075 field is left out by the same rules."""
    body = build([file("y", b"1", extra=unicode_field(ROOT + name, b"artifacts/y"))])
    assert paths(index_of(body)) == []


def test_unicode_path_fields_may_move_a_member_out_of_the_root() -> None:
    """The tree shows what lies under artifacts/ by the name that counts."""
    body = build([file("y", b"1", extra=unicode_field("elsewhere/y", b"artifacts/y"))])
    assert paths(index_of(body)) == []


# Times


@pytest.mark.parametrize("seconds", [0, 1, -1, -(2**31), 2**31 - 1, 1_700_000_000, -86400 * 365])
def test_extended_timestamps_count_seconds_since_1970(seconds: int) -> None:
    """A-8: The extended timestamp (0x5455) comes first, also before 1970."""
    extra = ntfs_field(NTFS_EPOCH_100NS + 5) + timestamp_field(seconds)
    assert mtime_s(extra=extra) == seconds


@pytest.mark.parametrize(
    "extra",
    [
        timestamp_field(5, flags=0),
        timestamp_field(5, flags=2),
        field(0x5455, b""),
        field(0x5455, b"\1\0\0\0"),
        field(0x5455, b"\1"),
        b"\x55\x54\xff\xff\1\0\0\0\0",
        b"\x55",
        ntfs_field(0),
        field(0x000A, b""),
        field(0x000A, bytes(4)),
        field(0x000A, bytes(4) + field(1, bytes(7))),
        field(0x000A, bytes(4) + field(2, bytes(24))),
        field(0x000A, bytes(4) + b"\1\0\xff\xff" + bytes(24)),
    ],
)
def test_fields_without_a_time_leave_the_dos_time(extra: bytes) -> None:
    """A-8: Without an extended field the DOS time counts, as UTC."""
    assert mtime_s(extra=extra) == DOS_MTIME_S


def test_a_timestamp_field_without_a_time_leaves_the_ntfs_one() -> None:
    """A-8: The extended timestamp comes before the NTFS time."""
    extra = timestamp_field(5, flags=2) + ntfs_field(NTFS_EPOCH_100NS + 70_000_000)
    assert mtime_s(extra=extra) == 7


@pytest.mark.parametrize(
    ("stamp", "nanoseconds"),
    [
        (NTFS_EPOCH_100NS, 0),
        (NTFS_EPOCH_100NS + 1, 100),
        (NTFS_EPOCH_100NS - 1, -100),
        (NTFS_EPOCH_100NS - 10_000_000 * 86400, -86400 * SECOND),
        (133_536_836_960_000_007, 1_709_210_096_000_000_700),
    ],
)
def test_ntfs_times_count_100_ns_since_1601(stamp: int, nanoseconds: int) -> None:
    """A-8: NTFS times (0x000a) are exact to 100 ns, also before 1970."""
    assert at(index_of(build([file("x", extra=ntfs_field(stamp))])), "x").mtime_ns == nanoseconds


@pytest.mark.parametrize("stamp", [1, 2**63 - 1, 2**63, 2**64 - 1])
def test_ntfs_times_that_no_file_can_have_stay_within_64_bits(stamp: int) -> None:
    """A time is kept as signed 64-bit nanoseconds, as os.utime, a kernel and an index on disk."""
    index = index_of(build([file("d/x", extra=ntfs_field(stamp))]))
    assert -(2**63) <= at(index, "d/x").mtime_ns < 2**63
    assert folder_at(index, "d").mtime_ns == at(index, "d/x").mtime_ns


@pytest.mark.parametrize(
    ("date", "time_", "moment"),
    [
        (0, 0, (1980, 1, 1, 0, 0, 0)),
        (0x21, 0, (1980, 1, 1, 0, 0, 0)),
        (127 << 9 | 12 << 5 | 31, 23 << 11 | 59 << 5 | 29, (2107, 12, 31, 23, 59, 58)),
        (44 << 9 | 0 << 5 | 1, 0, (1980, 1, 1, 0, 0, 0)),
        (44 << 9 | 13 << 5 | 1, 0, (1980, 1, 1, 0, 0, 0)),
        (44 << 9 | 1 << 5 | 0, 0, (1980, 1, 1, 0, 0, 0)),
    ],
)
def test_dos_times_are_utc_and_invalid_ones_the_first_of_1980(
    date: int, time_: int, moment: tuple[int, ...]
) -> None:
    """A-8: The DOS time is read as UTC in any time zone of the machine."""
    assert mtime_s(date=date, time=time_) == calendar.timegm((*moment, 0, 0, 0))


def test_every_dos_date_and_time_is_some_time() -> None:
    """A-8: Every DOS date, February 31 included, becomes a nearby time."""
    dates = [file(f"d{date:x}", date=date) for date in range(0, 0x10000, 7)]
    times = [file(f"t{clock:x}", time=clock) for clock in range(0, 0x10000, 13)]
    first = calendar.timegm((1980, 1, 1, 0, 0, 0))
    last = calendar.timegm((2108, 1, 5, 0, 0, 0))
    for found in index_of(build(dates + times)).members:
        assert first <= found.mtime_ns / SECOND <= last


def test_folders_have_their_own_time_else_the_newest_beneath() -> None:
    """A-10: A directory without an entry of its own has the newest time beneath it."""
    index = index_of(
        build(
            [
                file("a/b/c/deep", extra=timestamp_field(500)),
                file("a/near", extra=timestamp_field(300)),
                file("a/b/old", extra=timestamp_field(100)),
                folder("own", extra=timestamp_field(50)),
                file("own/newer", extra=timestamp_field(400)),
                folder("own/empty", extra=timestamp_field(450)),
                file("before/1970", extra=timestamp_field(-9)),
            ]
        )
    )
    times = {"a": 500, "a/b": 500, "a/b/c": 500, "own": 50, "own/empty": 450, "before": -9}
    for path, seconds in times.items():
        assert folder_at(index, path).mtime_ns == seconds * SECOND, path
    assert index.root.mtime_ns == 500 * SECOND


def test_the_root_may_have_an_entry_of_its_own() -> None:
    """A-10: `outputs/` has the time of the archive's entry for it."""
    index = index_of(
        build([folder("", extra=timestamp_field(7)), file("x", extra=timestamp_field(9))])
    )
    assert index.root.mtime_ns == 7 * SECOND


def test_times_of_members_that_are_left_out_are_ignored() -> None:
    """A file that a directory hides, or whose name is refused, moves no folder's time."""
    index = index_of(
        build(
            [
                file("d/x", extra=timestamp_field(900)),
                file("d/x/y", extra=timestamp_field(5)),
                file("d/../e", extra=timestamp_field(901)),
                Entry(b"outside", extra=timestamp_field(902)),
            ]
        )
    )
    assert folder_at(index, "d").mtime_ns == 5 * SECOND
    assert index.root.mtime_ns == 5 * SECOND


# Sizes and cost


@pytest.mark.parametrize("is_streamed", [False, True])
def test_zip64_fields_widen_saturated_values_only(is_streamed: bool) -> None:
    """APPNOTE 4.5.3: only the saturated places stand in the field, in their order."""
    wide = struct.pack("<Q", 5 << 32)
    body = build([file("x", b"1", size=0xFFFF_FFFF, extra=field(1, wide), is_streamed=is_streamed)])
    assert at(index_of(body), "x").size == 5 << 32
    assert at(index_of(body), "x").compressed_size == 3
    body = build([file("x", b"1", compressed_size=0xFFFF_FFFF, extra=field(1, wide))])
    assert at(index_of(body), "x").compressed_size == 5 << 32
    assert at(index_of(body), "x").size == 1


def test_a_zip64_field_without_its_values_is_refused() -> None:
    """X-4: A damaged archive is EIO."""
    for extra in (field(1, b""), field(1, bytes(7))):
        with pytest.raises(CorruptData, match="ZIP64"):
            index_of(build([file("x", b"1", size=0xFFFF_FFFF, extra=extra)]))


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_sizes_that_no_file_can_have_are_not_shown(size: int) -> None:
    """A-12: A size beyond the 63 bits of off_t is refused."""
    try:
        index = index_of(build([file("x", b"1", size=size, zip64=True), file("y", b"1")]))
    except TaskFSError:
        return
    assert all(found.size < 2**63 for found in index.members)


def many_files(count: int) -> bytes:
    return build(
        [
            file(f"d{n // 1000}/file-{n:06}.vtk", packed=b"", extra=timestamp_field(n))
            for n in range(count)
        ],
        zip64=True,
    )


def test_a_hundred_thousand_members_in_linear_time() -> None:
    """R-21: The time to read an index grows linearly with its members."""

    def cost_s(body: bytes, count: int) -> float:
        began = time.perf_counter()
        assert len(index_of(body).members) == count
        return time.perf_counter() - began

    few = many_files(10_000)
    cost_s(few, 10_000)
    few_s = min(cost_s(few, 10_000) for _ in range(3))
    many_s = cost_s(many_files(100_000), 100_000)
    assert many_s < max(60 * few_s, 20.0)  # a busy machine; quadratic would be 100 times


def test_an_index_costs_less_than_a_kilobyte_a_member() -> None:
    """R-21: 100,000 members take less than a kilobyte of memory each."""
    body = many_files(10_000)
    assert takes_less(lambda: index_of(body), 10_000 * 1000)


def test_equal_names_take_no_more_memory_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """R-21: The rows of equal names, whose hashes are equal, are never in memory together."""
    monkeypatch.setattr(name_sorter, "MAX_ROWS", 1 << 12)
    others = build([file(f"{n:05}", packed=b"") for n in range(60_000)], zip64=True)
    equal = build([file("00000", packed=b"")] * 60_000, zip64=True)
    assert paths(index_of(equal)) == ["00000"]
    assert takes_less(lambda: index_of(equal), 1.2 * peak_bytes(lambda: index_of(others)))


def test_a_deep_path_costs_no_more_than_its_length() -> None:
    """R-20: A name of 64 KB does not take two GB of memory."""
    body = build([file("a/" * 5_000 + f"{n}", b"") for n in range(5)])

    def read() -> None:
        try:
            index_of(body)
        except TaskFSError:
            return  # refusing it by name is as good

    assert takes_less(read, 200 * len(body))


def count_folders(folder: Folder) -> int:
    todo, count = [folder], 0
    while todo:
        count += 1
        todo += [child for child in todo.pop().children.values() if isinstance(child, Folder)]
    return count


def test_folders_without_number_are_refused() -> None:
    """R-21: A few MB of names do not become a GB of directories."""
    names = [f"{n}/" + "a/" * 10_000 for n in range(60)]
    body = build([file(name + "x", packed=b"") for name in names])
    try:
        index = index_of(body)
    except TaskFSError:
        return
    assert count_folders(index.root) <= 500_000 + len(names)


@example(0)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_the_index_is_the_tree_and_the_list_of_the_same_members(seed: int) -> None:
    """N-4: The tree and the list have the same members."""
    rng = random.Random(seed)
    names = ["/".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(30)]
    index = index_of(build([rng.choice([file, folder])(name) for name in names]))

    def walk(node: Folder, path: str) -> list[tuple[str, Member]]:
        found: list[tuple[str, Member]] = []
        for name, child in node.children.items():
            inner = f"{path}/{name}" if path else name
            if isinstance(child, Folder):
                found += walk(child, inner)
            else:
                found.append((inner, child))
        return found

    walked = walk(index.root, "")
    assert {path: found for path, found in walked} == {m.path: m for m in index.members}
    assert len(walked) == len(index.members)
    assert all(index.lookup(m.path) == m for m in index.members)
