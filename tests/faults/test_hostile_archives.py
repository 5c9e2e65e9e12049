"""Hostile archives, on a tree and on a mount.

tests/unit/test_index.py and test_archive.py have those that need no tree.
"""

import contextlib
import errno
import os
import stat
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskfs.cache.block import BLOCK
from tests.against_zipfile import compare
from tests.fake_api import FakeCloud
from tests.file_systems import FileSystem, InProcess, assert_same, text, walk
from tests.mounts import Mount
from tests.outputs import LONG_AGO
from tests.zips import (
    BZIP2,
    DEFLATED,
    DOS_MTIME_S,
    LZMA,
    ROOT,
    STORED,
    UINT32_MAX,
    Entry,
    build,
    cheap_bytes,
    deflate,
    field,
    file,
    flipped,
    folder,
    lzma_alone,
    ntfs_field,
    timestamp_field,
    unicode_field,
)

GOOD: Final = file("good", b"as it should be\n")
BODY: Final = cheap_bytes(100_000)
SEARCHING: Final = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def put(cloud: FakeCloud, archive: bytes) -> str:
    """Return the `outputs` of a finished task with this archive."""
    task = cloud.add_task(end_time=LONG_AGO)
    cloud.put_object(f"{task}/output.zip", archive)
    return f"{task}/outputs"


def put_entries(fs: FileSystem, *entries: Entry, **fields: Any) -> str:
    return put(fs.cloud, build(entries, **fields))


def errno_of(call: Callable[[], object]) -> int:
    """Return the error of a call, which must not take long."""
    began = time.monotonic()
    with pytest.raises(OSError) as caught:
        call()
    assert time.monotonic() - began < 20
    return caught.value.errno or 0


def errno_of_read(fs: FileSystem, path: str) -> int:
    """Return what reading a file to its end fails with, however long it says to be."""

    def read() -> None:
        with fs.open(path) as opened:
            at = 0
            while piece := opened.read_at(at, 64 << 10):
                at += len(piece)

    return errno_of(read)


def is_well(fs: FileSystem, top: str) -> None:
    """Fail unless the good member beside the bad ones is there and right."""
    assert fs.read(f"{top}/good") == GOOD.body


# Names


@pytest.mark.parametrize(
    "name",
    [
        *(
            b"../up",
            b"../../../../etc/passwd",
            b"a/../../up",
            b"a/..",
            b"..",
            b"./../x",
            b"a/./../x",
        ),
        *(
            b"/../etc/passwd",
            b"//../x",
            b"a//..//x",
            b"nul\0",
            b"a\0/x",
            b"n" * 256,
            b"d/" + b"n" * 65_000,
        ),
        "é".encode() * 128,
    ],
    ids=lambda name: repr(name[:14])[2:-1],
)
def test_names_that_climb_nul_or_over_long_are_left_out(fs: FileSystem, name: bytes) -> None:
    """N-11, N-12: Names that climb, with NUL or over-long are not shown, whichever field has them;
    the rest is."""
    raw = ROOT.encode() + name
    decoy = Entry(
        ROOT.encode() + b"decoy", b"?", extra=unicode_field(raw, ROOT.encode() + b"decoy")
    )
    top = put_entries(fs, Entry(raw, b"?"), *([decoy] if len(name) < 60_000 else []), GOOD)
    assert list(walk(fs, top)) == ["good"]
    is_well(fs, top)
    for path in ("up", "etc", "etc/passwd", "x", "passwd"):
        with pytest.raises(FileNotFoundError):
            fs.stat(f"{top}/{path}")


def test_duplicate_names_show_the_last_one(fs: FileSystem) -> None:
    """N-13: Of duplicate names one file is shown, and its size and bytes are of the same member."""
    copies = [file("twice", b"%d" % number * (number + 1)) for number in range(5)]
    top = put_entries(fs, *copies, GOOD, file("twice", b"the last"))
    assert sorted(fs.names(top)) == ["good", "twice"]
    assert fs.stat(f"{top}/twice").st_size == len(b"the last")
    assert fs.read(f"{top}/twice") == b"the last"


def test_names_with_control_characters_or_not_utf8(fs: FileSystem) -> None:
    """N-16, N-17, T-5: Names with control characters or not UTF-8 are shown and can be read, and
    the table stays one line per file."""
    raw = [
        b"new\nline",
        b"\x1b[31mred",
        b"back\\slash",
        b"caf\x82",
        b"\xff\xfe",
        b"-rf",
        b"a b",
        b"~",
    ]
    top = put_entries(fs, *(Entry(ROOT.encode() + name, name) for name in raw))
    shown = {"new\nline", "\x1b[31mred", "back\\slash", "café", "\xa0■", "-rf", "a b", "~"}
    assert set(fs.names(top)) == shown
    assert sorted(fs.read(f"{top}/{name}") for name in shown) == sorted(raw)
    table = text(fs, f"{Path(top).parent}/output_files_info")
    assert table.count("\n") == 3 + len(raw)
    assert "\x1b" not in table


def test_unicode_path_field_with_a_wrong_crc_names_nothing(fs: FileSystem) -> None:
    """N-17: A 0x7075 field that was made for another name does not count."""
    name = ROOT.encode() + b"true"
    top = put_entries(fs, Entry(name, b"1", extra=unicode_field(ROOT + "false", name, crc=1)))
    assert list(walk(fs, top)) == ["true"]


def test_a_file_that_is_also_a_directory(fs: FileSystem) -> None:
    """N-14: If a file and a directory have one name, the directory is shown, in either order."""
    before = [file("a", b"file"), file("a/b", b"below"), file("c/d", b"below"), file("c", b"file")]
    top = put_entries(fs, *before, file("e", b"file"), folder("e"), GOOD)
    assert sorted(walk(fs, top)) == ["a/b", "c/d", "good"]
    assert fs.names(f"{top}/e") == []


def test_nesting_of_30_000_components(fs: FileSystem) -> None:
    """N-12, Y-6: A name 32,000 directories deep is shown as far as a path reaches, in bounded time,
    and failures there are logged as fast."""
    deep = ROOT.encode() + b"d/" * 32_000 + b"x"
    top = put_entries(fs, Entry(deep, b"?", crc=1), GOOD)
    began = time.monotonic()
    assert sorted(fs.names(top)) == ["d", "good"]
    assert fs.names(top + "/d" * 400) == ["d"]
    assert errno_of(lambda: fs.stat(top + "/d" * 400 + "/x")) == errno.ENOENT
    if isinstance(fs, InProcess):
        assert errno_of_read(fs, top + "/d" * 32_000 + "/x") == errno.EIO
    is_well(fs, top)
    assert time.monotonic() - began < 60  # each failure alone took half a minute once


# Where members lie


@pytest.mark.parametrize("offset", [1 << 20, UINT32_MAX, 1 << 40, (1 << 64) - 1])
def test_an_entry_that_points_outside_the_archive(fs: FileSystem, offset: int) -> None:
    """I-8, X-4: An entry that points outside the archive is listed, and EIO when read."""
    top = put_entries(fs, file("bad", BODY, offset=offset, zip64=True), GOOD)
    assert fs.stat(f"{top}/bad").st_size == len(BODY)
    assert errno_of_read(fs, f"{top}/bad") == errno.EIO
    is_well(fs, top)


@pytest.mark.parametrize("size", [1 << 32, 1 << 48, (1 << 63) - 1])
@pytest.mark.parametrize("method", [STORED, DEFLATED])
def test_a_member_that_overlaps_the_directory_whatever_its_length(
    fs: FileSystem, method: int, size: int
) -> None:
    """I-8, X-4: A member of any length that overlaps the directory is EIO at once, and none of its
    bytes is requested."""
    lie = file("bad", BODY, method=method, size=size, compressed_size=size, zip64=True)
    top = put_entries(fs, lie, GOOD)
    assert fs.stat(f"{top}/bad").st_size == size
    fs.cloud.clear_requests()
    assert errno_of_read(fs, f"{top}/bad") == errno.EIO
    is_well(fs, top)
    assert sum(record.bytes_sent for record in fs.cloud.requests) < 1 << 20


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1])
def test_sizes_that_look_negative_are_left_out(fs: FileSystem, size: int) -> None:
    """I-8: A size that no file can have is not shown."""
    top = put_entries(fs, file("bad", b"x", size=size, zip64=True), GOOD)
    assert list(walk(fs, top)) == ["good"]


def test_a_header_that_points_into_another_member(fs: FileSystem) -> None:
    """I-6, I-8: A local header among another member's bytes must name its member, and the bytes
    must match the entry's checksum."""
    inner = build([file("inner", b"of the inner archive")])
    at = build([file("outer", inner, method=STORED)]).index(inner)
    hidden = file("inner", b"of the inner archive", offset=at)
    wrong = file("other", b"of the inner archive", offset=at)
    top = put_entries(fs, file("outer", inner, method=STORED), hidden, wrong)
    assert_same(fs.read(f"{top}/outer"), inner)
    assert fs.read(f"{top}/inner") == b"of the inner archive"
    assert errno_of_read(fs, f"{top}/other") == errno.EIO


# Sizes and bombs


@pytest.mark.parametrize("method", [STORED, DEFLATED, BZIP2, LZMA])
@pytest.mark.parametrize("by", [-1000, -1, 1, 1000, 1 << 40])
def test_wrong_sizes_in_either_direction(fs: FileSystem, by: int, method: int) -> None:
    """I-8, X-9: A size that lies is EIO, never a short file and never bytes beyond it."""
    lie = file("bad", BODY, method=method, size=len(BODY) + by, zip64=True)
    top = put_entries(fs, lie, GOOD)
    assert errno_of_read(fs, f"{top}/bad") == errno.EIO
    is_well(fs, top)


def overlapping_bomb(members: int, kernel: bytes) -> bytes:
    """Return an archive whose members share their bytes, after David Fifield's construction.

    Each begins with its own header; a stored DEFLATE block quotes the next header, so that every
    member goes on with all the ones behind it, down to one *kernel* that they share.
    """
    names = [ROOT.encode() + b"%06d" % number for number in range(members)]
    packed = deflate(kernel, 9)
    body, sums = kernel, [(zlib.crc32(kernel), len(kernel), len(packed))]
    headers: list[bytes] = []
    for name in reversed(names):
        crc, size, length = sums[-1]
        about = struct.pack("<5H3L2H", 20, 0, DEFLATED, 0, 33, crc, length, size, len(name), 0)
        headers.append(b"PK\x03\x04" + about + name)
        quoted = headers[-1]
        body = quoted + body
        sums.append((zlib.crc32(body), len(body), length + 5 + len(quoted)))
    out, directory = b"", b""
    for name, header, (crc, size, length) in zip(
        names, reversed(headers), list(reversed(sums))[1:], strict=True
    ):
        at = len(out)
        directory += b"PK\x01\x02" + struct.pack(
            "<6H3L5H2L",
            *(20, 20, 0, DEFLATED, 0, 33, crc, length, size, len(name), 0, 0, 0, 0, 0, at),
        )
        directory += name
        out += header
        if name != names[-1]:
            out += struct.pack("<BHH", 0, len(header), len(header) ^ 0xFFFF)
    out += packed
    count = min(members, 0xFFFF)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory), len(out), 0)
    return out + directory + end


def test_overlapping_entries_read_by_their_own_sums(fs: FileSystem) -> None:
    """I-8, Y-10: A bomb of overlapping members is an archive like any other: reads are right, and
    only what is read is unpacked."""
    archive = overlapping_bomb(40, bytes(200_000))
    top = put(fs.cloud, archive)
    names = sorted(fs.names(top))
    assert len(names) == 40
    sizes = [fs.stat(f"{top}/{name}").st_size for name in names]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) > 1000 * len(archive)
    for name, size in zip(names, sizes, strict=True):
        content = fs.read(f"{top}/{name}")
        assert len(content) == size
        assert content.endswith(bytes(200_000))
    fs.cloud.clear_requests()
    assert sum(record.bytes_sent for record in fs.cloud.requests) <= len(archive)


# The archive's end and its directory


def test_a_comment_that_fakes_an_end_record(fs: FileSystem) -> None:
    """I-8: A comment that fakes or quotes an end record gives the true members, or EIO where both
    are possible."""
    other = build([file("fake", b"?")])
    top = put_entries(fs, GOOD, comment=b"see: " + other + b".")
    assert list(walk(fs, top)) == ["good"]
    whole = build([GOOD], comment=other)
    fake = put(fs.cloud, whole)
    with contextlib.suppress(OSError):
        assert fs.names(fake) == ["good"]


@pytest.mark.parametrize("trailing", [b"\0", b"\n", b"trailing data" * 4000])
def test_trailing_data(fs: FileSystem, trailing: bytes) -> None:
    """I-8: Data behind the end of the archive is skipped."""
    is_well(fs, put_entries(fs, GOOD, trailing=trailing))


@pytest.mark.parametrize("left", [0, 1, 21, 22, 60, 150, -1])
def test_truncated_archives_are_eio(fs: FileSystem, left: int) -> None:
    """X-4, F-15: A truncated archive is EIO and never an empty directory."""
    whole = build([GOOD, file("more", BODY)])
    top = put(fs.cloud, whole[:left])
    assert errno_of(lambda: fs.names(top)) == errno.EIO
    assert errno_of_read(fs, f"{top}/good") == errno.EIO


@pytest.mark.parametrize("shifted", [False, True])
def test_data_before_the_archive(fs: FileSystem, shifted: bool) -> None:
    """I-8: A self-extracting archive is read, whichever start its offsets count from."""
    program = b"#!/bin/sh\nexit 1\n" + b"\x7fELF" * 40_000
    is_well(fs, put_entries(fs, GOOD, prepended=program, shifted=shifted))


@pytest.mark.parametrize("count", [0, 1, 0xFFFE])
def test_a_wrong_count_of_entries(fs: FileSystem, count: int) -> None:
    """I-8: A count of entries that lies is ignored."""
    lie = {"here": count, "entries": count}
    top = put_entries(fs, file("a", b"1"), file("b", b"2"), GOOD, end=lie)
    assert sorted(walk(fs, top)) == ["a", "b", "good"]
    top = put_entries(fs, file("a", b"1"), GOOD, zip64=True, end64=lie)
    assert sorted(walk(fs, top)) == ["a", "good"]


@pytest.mark.parametrize("place", ["size", "offset", "at"])
@pytest.mark.parametrize("value", [0, 1 << 31, 1 << 63, (1 << 64) - 1])
def test_zip64_ends_with_absurd_values(fs: FileSystem, place: str, value: int) -> None:
    """I-8, R-20: Absurd ZIP64 values are refused by name or read right; nothing of that size is
    asked for or allocated."""
    fields = {"locator" if place == "at" else "end64": {place: value}}
    top = put_entries(fs, GOOD, zip64=True, **fields)
    try:
        assert fs.names(top) == ["good"]
        is_well(fs, top)
    except OSError as exc:
        assert exc.errno in (errno.EIO, errno.EOPNOTSUPP)


def test_an_encrypted_directory_is_eopnotsupp(fs: FileSystem) -> None:
    """X-6: An encrypted directory (APPNOTE 7.3) is EOPNOTSUPP, not damage."""
    archive = bytearray(build([GOOD], zip64=True, end64={"needed": 62}))
    at = archive.index(b"PK\x01\x02")
    archive[at : at + 46] = os.urandom(46)
    top = put(fs.cloud, bytes(archive))
    assert errno_of(lambda: fs.names(top)) == errno.EOPNOTSUPP


@pytest.mark.parametrize("flags", [0x0001, 0x0041, 0x2001])
def test_encrypted_members_are_eopnotsupp(fs: FileSystem, flags: int) -> None:
    """X-6: An encrypted member is listed with its size and EOPNOTSUPP when opened; the others are
    read."""
    top = put_entries(fs, file("secret", b"?" * 50, flags=flags), GOOD)
    assert fs.stat(f"{top}/secret").st_size == 50
    assert errno_of_read(fs, f"{top}/secret") == errno.EOPNOTSUPP
    is_well(fs, top)


@pytest.mark.parametrize("method", [1, 6, 9, 10, 19, 97, 98, 99, 65_535])
def test_unknown_methods_are_eopnotsupp(fs: FileSystem, method: int) -> None:
    """X-6, R-22: Deflate64, PPMd and unknown methods are EOPNOTSUPP; the other members are read."""
    top = put_entries(fs, file("odd", b"?" * 50, method=method), GOOD)
    assert errno_of_read(fs, f"{top}/odd") == errno.EOPNOTSUPP
    is_well(fs, top)


def test_a_giant_lzma_dictionary_is_eopnotsupp(fs: FileSystem) -> None:
    """R-22: An LZMA header that asks for 4 GB is refused each time."""
    packed = bytearray(lzma_alone(BODY))
    packed[5:9] = b"\xff\xff\xff\xff"
    top = put_entries(fs, file("giant", BODY, method=LZMA, packed=bytes(packed)), GOOD)
    for _ in range(3):
        assert errno_of_read(fs, f"{top}/giant") == errno.EOPNOTSUPP
    is_well(fs, top)


@pytest.mark.parametrize("mode", [0o104755, 0o102755, 0o120777, 0o060644, 0o020644, 0o010644])
def test_set_uid_bits_links_and_devices_are_plain_files(fs: FileSystem, mode: int) -> None:
    """N-18: A member with any Unix mode is a plain file, without set-uid bits.

    Only the execute bits of a regular file count (A-23).
    """
    archive = bytearray(build([file("odd", b"/etc/passwd", method=STORED), GOOD]))
    struct.pack_into("<L", archive, archive.index(b"PK\x01\x02") + 38, mode << 16)
    top = put(fs.cloud, bytes(archive))
    shown = fs.stat(f"{top}/odd")
    assert stat.S_ISREG(shown.st_mode)
    assert stat.S_IMODE(shown.st_mode) == (0o755 if stat.S_ISREG(mode) else 0o644)
    assert fs.read(f"{top}/odd") == b"/etc/passwd"


# Extra fields and times


@pytest.mark.parametrize(
    "extra",
    [
        struct.pack("<HH", 0x5455, 60_000) + b"\1",
        struct.pack("<HH", 1, 0xFFFF),
        b"\1",
        field(0x5455, b""),
        field(0x000A, bytes(4) + struct.pack("<HH", 1, 0xFFFF)),
        field(0x7075, b"\1"),
        field(0x9901, bytes(7)) * 1000,
    ],
)
def test_extra_fields_with_a_wrong_length(fs: FileSystem, extra: bytes) -> None:
    """I-8: Extra fields with a wrong length are ignored; the member and those behind it are not."""
    top = put_entries(fs, file("odd", b"fine", extra=extra, local_extra=extra), GOOD)
    assert fs.read(f"{top}/odd") == b"fine"
    assert fs.stat(f"{top}/odd").st_mtime_ns == DOS_MTIME_S * 10**9
    is_well(fs, top)


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"date": 0, "time": 0}, 315_532_800),  # month 0, day 0
        ({"date": 15 << 5 | 1, "time": 0}, 315_532_800),  # month 15
        ({"date": 0xFFFF, "time": 0xFFFF}, None),
        ({"date": 45 << 9 | 2 << 5 | 31, "time": 31 << 11 | 63 << 5 | 31}, None),
        ({"extra": timestamp_field(-(2**31))}, -(2**31)),
        ({"extra": timestamp_field(2**31 - 1)}, 2**31 - 1),
        ({"extra": ntfs_field(2**64 - 1)}, None),
        ({"extra": ntfs_field(2**63)}, None),
        ({"extra": ntfs_field(1)}, None),
    ],
)
def test_dates_out_of_range(fs: FileSystem, fields: dict[str, Any], seconds: int | None) -> None:
    """A-8: Dates out of range, and 64-bit times, become a time that a file can have."""
    top = put_entries(fs, file("odd", b"fine", **fields))
    shown = fs.stat(f"{top}/odd").st_mtime_ns
    assert -(2**63) <= shown < 2**63
    assert seconds is None or shown == seconds * 10**9
    assert fs.read(f"{top}/odd") == b"fine"


# Fuzzed: `scripts/fuzz` looks longer


@st.composite
def lying_entries(draw: st.DrawFn) -> Entry:
    wide = st.sampled_from([0, 1, 30, 100, 2**16, 2**31, 2**32 - 1])
    method = draw(st.sampled_from([STORED, DEFLATED, BZIP2, LZMA, 9, 99]))
    lies = draw(st.integers(0, 3)) == 0
    return file(
        draw(st.sampled_from(["a", "b", "a/b", "a/", "../c", "c\\d", "é"])),
        draw(st.binary(max_size=30)) * draw(st.sampled_from([1, 50, 3000])),
        method=method,
        flags=draw(st.sampled_from([0, 0, 1, 2, 8, 0x800])),
        is_streamed=draw(st.booleans()),
        zip64=draw(st.booleans()),
        extra=draw(st.binary(max_size=12)) if lies else b"",
        size=draw(st.none() | wide) if lies else None,
        compressed_size=draw(st.none() | wide) if lies else None,
        offset=draw(st.none() | wide) if lies else None,
        crc=draw(st.none() | st.just(1)) if lies else None,
    )


@SEARCHING
@given(
    st.lists(lying_entries(), max_size=5),
    st.binary(max_size=30),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), max_size=2),
)
def test_where_zipfile_reads_we_read_the_same_or_refuse_by_name(
    entries: Sequence[Entry], comment: bytes, zip64: bool, flips: Sequence[tuple[int, int]]
) -> None:
    """I-8: Fuzzed archives read as zipfile reads them or are refused by an error of ours."""
    body = build(entries, comment=comment, zip64=zip64)
    for place, mask in flips:
        body = flipped(body, place % len(body), mask)
    compare(body)


@SEARCHING
@given(st.binary(max_size=200), st.integers(0, 80))
def test_any_bytes_are_refused_by_name(noise: bytes, cut: int) -> None:
    """I-8: Truncated and made-up data are refused by an error of ours."""
    whole = build([GOOD, file("b", noise)], comment=noise[:5])
    compare(noise)
    compare(noise + whole[cut:])
    compare(whole[: len(whole) - cut] + noise)


# On a real mount: memory, disk and the programs that people use


def daemon_kb(mount: Mount, name: str) -> int:
    """Return a value of the daemon's memory, such as VmRSS, in KB."""
    for line in Path(f"/proc/{mount.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise AssertionError(name)


def disk_use(place: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in place.rglob("*") if path.is_file())


@pytest.mark.mount
def test_bombs_leave_memory_and_disk_bounded(
    new_mount: Callable[..., Mount], cloud: FakeCloud, tmp_path: Path
) -> None:
    """Y-10, R-20: Deflate, bzip2 and LZMA bombs, read whole and in part, eight at once, keep the
    daemon within its bounds and the disk within the archive's size."""
    zeros = bytes(60 << 20)
    noisy = os.urandom(BLOCK + 1000) + bytes(40 << 20)
    giant = bytearray(lzma_alone(noisy, preset=0))
    giant[5:9] = struct.pack("<L", 64 << 20)  # the largest dictionary that is not refused
    entries = [
        file("deflate", zeros, level=9),
        file("bzip2", zeros, method=BZIP2, level=9),
        *(file(f"lzma-{n}", noisy, method=LZMA, packed=bytes(giant)) for n in range(8)),
    ]
    archive = build(entries)
    mount = new_mount(cache_dir=str(tmp_path / "cache"))
    top = mount.path / put(cloud, archive)
    assert len(os.listdir(top)) == len(entries)
    before = daemon_kb(mount, "VmRSS")

    def check(name: str, size: int) -> None:
        with open(top / name, "rb", buffering=0) as opened:
            seen = 0
            while seen < size and (piece := opened.read(1 << 20)):
                seen += len(piece)
            assert seen >= size

    readers = [threading.Thread(target=check, args=(n, 60 << 20)) for n in ("deflate", "bzip2")]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    for number in range(8):
        check(f"lzma-{number}", 39 << 20)  # not to its end: the decoder stays where it is
    assert daemon_kb(mount, "VmRSS") - before < 250 << 10
    assert disk_use(tmp_path / "cache") < len(archive) + (8 << 20)


@pytest.mark.mount
def test_300_000_entries_in_a_small_archive(
    new_mount: Callable[..., Mount], cloud: FakeCloud
) -> None:
    """R-21, R-27, Y-10: 300,000 entries in a tiny archive are listed, then those of another one.
    Apart from the names that the kernel keeps, 0.1 KB each, the daemon's private memory stays
    small."""
    mount = new_mount()
    header = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0
    )
    for count in (300_000, 100_000):
        directory = b"".join(header + b"artifacts/%06x" % number for number in range(count))
        end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, len(directory), 0, 0)
        top = mount.path / put(cloud, directory + end)
        assert len(os.listdir(top)) == count
        assert daemon_kb(mount, "RssAnon") < 100 << 10


@pytest.mark.mount
def test_tools_walk_and_copy_odd_archives(
    shared_mnt: Path, shared_cloud: FakeCloud, tmp_path: Path
) -> None:
    """I-8, N-11: On a mount of all of these `ls -lR`, `find`, `du`, `tar` and `cp -r` end; an
    unreadable file is an error of its own, and nothing lands outside the copy."""
    bad = [
        *(file("../out", b"?"), file("/etc/out", b"?"), file("d", b"file"), file("d/e", b"below")),
        *(
            file("n\nl", b"1"),
            Entry(b"artifacts/\xff", b"2"),
            file("-rf", b"3"),
            file("$(id)", b"4"),
        ),
        *(file("crc", BODY, crc=1), file("short", BODY, size=9), file("secret", b"?", flags=1)),
        file("odd", b"?", method=98),
        file("dates", b"5", date=0, time=0xFFFF),
    ]
    top = shared_mnt / put(shared_cloud, build([*bad, GOOD]))
    for command in (["ls", "-lR"], ["find", "-ls"], ["du", "-a"], ["stat", "good"]):
        done = subprocess.run(command, cwd=top, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
    copy = tmp_path / "deep" / "copy"
    copy.parent.mkdir()
    done = subprocess.run(["cp", "-r", top, copy], capture_output=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 4  # one line each: crc, short, secret, odd
    copied = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    wanted = {"d/e", "n\nl", "\xa0", "-rf", "$(id)", "dates", "good"}
    assert wanted <= copied
    assert (copy / "good").read_bytes() == GOOD.body
    assert sorted(os.listdir(tmp_path)) == ["deep"] and os.listdir(copy.parent) == ["copy"]
