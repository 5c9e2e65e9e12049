"""The command line of the fuzzer: makes its environment, runs the target there, says what came."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from platformdirs import user_cache_dir

from tests import interrupts
from tests.environments import make_environment, python_of

ROOT: Final = Path(__file__).resolve().parents[2]
CACHE: Final = Path(user_cache_dir("taskfs-fuzz", appauthor=False))
ATHERIS: Final = "atheris==3.0.0"
NEEDED: Final = ("isal", "zlib-ng", "cachetools", "msgspec")  # by the index and the readers


def main() -> int:
    """Fuzz for as long as asked; 1 if an archive was found that is read wrong, 2 if none could."""
    asked = _parse()
    folder = CACHE / "environment"
    CACHE.mkdir(parents=True, exist_ok=True)
    if failure := make_environment(folder, (ATHERIS, *NEEDED)):
        print(f"fuzz: {ATHERIS} cannot be installed: {failure}", file=sys.stderr)
        return 2
    corpus, found = CACHE / "corpus", CACHE / "found"
    for place in (corpus, found):
        place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch, "counts.json")
        options = [
            f"-max_total_time={round(asked.minutes * 60)}",
            f"-seed={asked.seed}",
            f"-artifact_prefix={found}/",
            *(
                "-max_len=6000",
                "-timeout=60",
                "-rss_limit_mb=2048",
                "-len_control=0",
                "-print_final_stats=1",
            ),
        ]
        places = list(map(str, asked.files)) or [*options, str(corpus)]
        done = subprocess.run(
            [str(python_of(folder)), "-m", "tests.fuzz.target", *places],
            cwd=ROOT,
            env=os.environ | {"TASKFS_FUZZ_COUNTS": str(counts)},
            check=False,
        )
        if counts.exists():
            for name, count in sorted(json.loads(counts.read_text()).items()):
                print(f"{count:10d} {name}")
    if done.returncode:
        print(f"fuzz: an archive is read wrong: see above; it lies in {found}", file=sys.stderr)
    return int(done.returncode != 0)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description="Archives made up by atheris, read by taskfs and by Python's zipfile. What is "
        "found lies in the cache directory, and so does the corpus: a later run goes on from it.",
    )
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="[default: 10]")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up archives [random]")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="look at these again")
    return parser.parse_args()


if __name__ == "__main__":
    interrupts.run("fuzz", main)
