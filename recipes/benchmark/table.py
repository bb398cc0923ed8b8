"""What the table of utterances takes at the size of VoxCeleb2: until the first batch, of memory, a step of the sampler.

    python recipes/benchmark/table.py [key=value ...]

Sizes stand in ``table.yaml``. The lists are made up, and name a thousand recordings again and again. Memory is that of
a process and its data workers behind their first batch, less the same for a directory of next to no utterances.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from made_up import make_directory
from memory import mebibytes_with_workers
from pydantic import Field

from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.data.audio_check import keep_usable
from spkver.data.augment import Augmenter
from spkver.data.dataset import SpeakerCrops
from spkver.data.directory import read_data_directory
from spkver.data.sampler import SpeakerBatchSampler
from spkver.experiment.provenance import data_record
from spkver.training.batches import Batches, build_loader

HERE = Path(__file__).resolve().parent


class Training(Section):
    """What reads a data directory in batches."""

    utterances: Count
    speakers: Count
    speeds: Annotated[list[float], Field(min_length=1)]
    workers: Count
    crop_seconds: float
    batches: Annotated[list[Count], Field(min_length=1)]


class Sizes(Training):
    sampler_speakers: list[Count]
    sampler_utterances: Count
    steps: Count


class Seconds:
    """Seconds since this was made: of the cores that this process and its workers had, and of the clock."""

    def __init__(self):
        self._start = self._now()

    def __call__(self) -> list[float]:
        return [now - start for now, start in zip(self._now(), self._start)]

    def _now(self) -> tuple[float, float]:
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(one.ru_utime + one.ru_stime for one in used), time.perf_counter()


def batches_of(folder: Path, sizes: Training, words: list[str]) -> Batches:
    """What a training reads of a data directory, from its lists on."""
    overrides = [f"data.crop_seconds={sizes.crop_seconds}", f"augment.speed_factors={sizes.speeds}", *words]
    config = load_config("base", overrides)
    usable = keep_usable(read_data_directory(folder, check_files=False), config.data.sample_rate)
    dataset = SpeakerCrops(usable, config.data.sample_rate, sizes.crop_seconds, config.augment, config.seed, 0.0)
    sampler = SpeakerBatchSampler(dataset.labels, sizes.batches[0], 1, config.seed)
    loader = build_loader(dataset, sampler, Augmenter(dataset.draws, torch.device("cpu")), sizes.workers, prefetch=2)
    return Batches(loader)


def first_batch(folder: Path, sizes: Sizes) -> dict:
    """What it takes from the lists to the first batch, in a process that has done nothing else."""
    seconds = Seconds()
    with batches_of(folder, sizes, []) as batches:
        next(batches)
        clock = seconds()[1]
        row = {"mebibytes": mebibytes_with_workers()}
    return row | {"core": seconds()[0], "clock": clock}  # the workers' time is known when they have ended


def step_milliseconds(n_speakers: int, batch: int, sizes: Sizes) -> float:
    """Median of a step of the sampler, in milliseconds of this process's time on a core.

    Of the first steps of an epoch, in which every speaker has its utterances put into a new order.
    """
    labels = np.repeat(np.arange(n_speakers, dtype=np.int32), sizes.sampler_utterances)
    steps = iter(SpeakerBatchSampler(labels, batch))
    seconds = []
    for _ in range(sizes.steps):
        start = time.process_time()
        next(steps)
        seconds.append(time.process_time() - start)
    return 1000 * float(np.median(seconds))


def in_a_process(folder: Path, overrides: list[str]) -> dict:
    command = [sys.executable, __file__, "--one", str(folder), *overrides]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main(overrides: list[str]) -> None:
    """Measure all, and print a line for each."""
    sizes = load_config(HERE / "table.yaml", overrides, Sizes)
    with tempfile.TemporaryDirectory() as name:
        folder, few = Path(name) / "data", Path(name) / "few"
        make_directory(folder, sizes.utterances, sizes.speakers)
        make_directory(few, 2 * sizes.batches[0], sizes.batches[0])
        seconds = Seconds()
        read_data_directory(folder, check_files=False)
        print_row("lists read the first time", seconds())
        seconds = Seconds()
        data_record(folder)
        print_row("what the data are, for embeddings and scores", seconds())
        row, base = in_a_process(folder, overrides), in_a_process(few, overrides)
    print_row(f"from the lists to the first batch of {sizes.batches[0]}", [row["core"], row["clock"]])
    print_row("  .. of as good as no utterances", [base["core"], base["clock"]])
    mebibytes = row["mebibytes"] - base["mebibytes"]
    print(f"{f'the table, in a process and {sizes.workers} workers':48} {mebibytes:9.0f} MiB")
    for n_speakers in sizes.sampler_speakers:
        for batch in sizes.batches:
            title = f"a step of the sampler, {n_speakers:,} speakers, batch of {batch}"
            print(f"{title:56} {step_milliseconds(n_speakers, batch, sizes):9.2f} ms of a core", flush=True)


def print_row(title: str, seconds: list[float]) -> None:
    print(f"{title:48} {seconds[0]:9.2f} s of a core, {seconds[1]:.2f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sizes = load_config(HERE / "table.yaml", sys.argv[3:], Sizes)
        print(json.dumps(first_batch(Path(sys.argv[2]), sizes)))
    else:
        main(sys.argv[1:])
