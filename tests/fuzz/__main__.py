"""Command line of the fuzzer: create its environment, run the target there, report."""

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
NEEDED: Final = ("isal", "zlib-ng", "cachetools", "msgspec")  # imported by taskfs.archive


def main() -> int:
    """Run the fuzzer; return 1 if an archive was read wrong, 2 if atheris cannot be installed."""
    arguments = _parse_arguments()
    environment = CACHE / "environment"
    CACHE.mkdir(parents=True, exist_ok=True)
    if failure := make_environment(environment, (ATHERIS, *NEEDED)):
        print(f"fuzz: {ATHERIS} cannot be installed: {failure}", file=sys.stderr)
        return 2
    corpus, found = CACHE / "corpus", CACHE / "found"
    for folder in (corpus, found):
        folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch, "counts.json")
        options = [
            f"-max_total_time={round(arguments.minutes * 60)}",
            f"-seed={arguments.seed}",
            f"-artifact_prefix={found}/",
            *(
                "-max_len=6000",
                "-timeout=60",
                "-rss_limit_mb=2048",
                "-len_control=0",
                "-print_final_stats=1",
            ),
        ]
        inputs = list(map(str, arguments.files)) or [*options, str(corpus)]
        done = subprocess.run(
            [str(python_of(environment)), "-m", "tests.fuzz.target", *inputs],
            cwd=ROOT,
            env=os.environ | {"TASKFS_FUZZ_COUNTS": str(counts)},
            check=False,
        )
        if counts.exists():
            for name, count in sorted(json.loads(counts.read_text()).items()):
                print(f"{count:10d} {name}")
    if done.returncode:
        print(f"fuzz: an archive was read wrong (see above); it is in {found}", file=sys.stderr)
    return int(done.returncode != 0)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fuzz",
        description="Generate archives with atheris, read them with taskfs and with Python's "
        "zipfile, and compare. The corpus and the findings are kept in the cache directory; a "
        "later run continues from that corpus.",
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, metavar="N", help="length of the run [default: 10]"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the generated archives [default: random]"
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE", help="compare these archives only"
    )
    return parser.parse_args()


if __name__ == "__main__":
    interrupts.run("fuzz", main)
