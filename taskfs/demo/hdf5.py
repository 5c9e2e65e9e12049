"""A small HDF5 file, made without the HDF5 library: one dataset in one contiguous piece.

The header below is what h5py writes for a little-endian float32 dataset `pressure` of
`ROWS` by `COLUMNS` (`libver="latest"`, no times). Its checksums cover the header alone, so any
values may follow it.
"""

from __future__ import annotations

import base64
import math
import sys
import zlib
from array import array
from random import Random
from typing import Final

ROWS: Final = 20
COLUMNS: Final = 40
_HEADER: Final = zlib.decompress(
    base64.b85decode(
        b"c-rgqaB<`1lHy|K;9!7(|4?Ah2jLq)#glB?{rx>$f|wX8n1qlO!T=W&10w?in=k{A;wUIeEiNuCO5F@I"
        b"){%j7uzu$uHLw#H85kK=7#NtC7#T&NavD$?ozE=7z$mC7&%graDKLn0Fo@R!S*$?UGIMbNeZtJRpAn+A"
        b"fd{H-0mGmN8S_O&0E)&cj{"
    )
)


def pressure_history(random: Random, frames: int) -> bytes:
    """Return the file: one row per frame, the pressure along a line of probes.

    Rows from *frames* on are NaN, because the simulation ended before them.
    """
    phase = random.uniform(0, math.pi)
    values = array("f")
    for frame in range(ROWS):
        for probe in range(COLUMNS):
            wave = math.sin(phase + 0.3 * frame + 0.2 * probe)
            values.append(101_325 + 40 * wave if frame < frames else math.nan)
    if sys.byteorder == "big":
        values.byteswap()
    return _HEADER + values.tobytes()
