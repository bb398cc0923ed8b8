"""Whether memory grows from batch to batch: that of a process and its data workers, over thousands of batches.

    python recipes/benchmark/batches.py [key=value ...]

Sizes stand in ``batches.yaml``; the recordings are made up. The first rows fill caches, and are no growth.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from made_up import make_directory
from memory import mebibytes_with_workers
from table import Training, batches_of

from spkver.config import load_config
from spkver.config.schema import Count

HERE = Path(__file__).resolve().parent


class Sizes(Training):
    n_batches: Count
    every: Count


def memory_over_batches(folder: Path, sizes: Sizes) -> Iterator[tuple[int, float]]:
    """Batches so far, and MiB of all processes then."""
    with batches_of(folder, sizes, []) as batches:
        for done in range(0, sizes.n_batches, sizes.every):
            for _ in islice(endless(batches), sizes.every):
                pass
            yield done + sizes.every, mebibytes_with_workers()


def endless(batches: Iterator) -> Iterator:
    """The batches of one epoch after another."""
    while True:
        yield from batches


def main(overrides: list[str]) -> None:
    sizes = load_config(HERE / "batches.yaml", overrides, Sizes)
    print(f"{'batches':>9} {'MiB':>9}")
    with tempfile.TemporaryDirectory() as name:
        make_directory(Path(name), sizes.utterances, sizes.speakers)
        for done, mebibytes in memory_over_batches(Path(name), sizes):
            print(f"{done:9,} {mebibytes:9.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
