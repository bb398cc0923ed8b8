"""What the table of utterances takes at the size of VoxCeleb2: seconds, memory of all processes, a step of the sampler.

    python recipes/benchmark/table.py [--utterances 1100000] [--speakers 6000] [--workers 8]

The lists are made up, the audio is not read. Memory is the proportional set size that comes to this process and its
workers with the table: what they share counts once.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np

from spkver.data.directory import read_data_directory
from spkver.data.sampler import SpeakerBatchSampler

STEPS = 50


def make_lists(folder: Path, n: int, n_speakers: int) -> None:
    """Lists of a directory of shards: ids of VoxCeleb's length, as many utterances of each speaker."""
    with (folder / "wav.scp").open("w") as audio, (folder / "utt2spk").open("w") as speakers:
        for index in range(n):
            speaker = f"id{index * n_speakers // n:05d}"
            name = f"{speaker}/{index % 150_000:011d}/{index % 300:05d}.wav"
            audio.write(f"{name}-{index} shards/shard-{index // 1000:06d}.tar:{index % 1000 * 130_000}:129000\n")
            speakers.write(f"{name}-{index} {speaker}\n")
    with (folder / "utt2dur").open("w") as durations, (folder / "wav.scp").open() as audio:
        durations.writelines(f"{line.split()[0]} 7.8\n" for line in audio)


def proportional_mebibytes() -> float:
    """The proportional set size of this process."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def memory(workers: int, hold: bool, folder: Path) -> float:
    """MiB of this process and its workers; with the directory, of which each has looked at many utterances."""
    directory = read_data_directory(folder, check_files=False) if hold else None
    barrier, context = multiprocessing.Barrier(workers + 1), multiprocessing.get_context("fork")
    sizes = context.SimpleQueue()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for place in rng.integers(len(directory.utterances), size=100_000) if directory else ():
            _ = directory.utterances[int(place)].path
        barrier.wait()
        sizes.put(proportional_mebibytes())
        barrier.wait()

    others = [context.Process(target=work, args=(seed,)) for seed in range(workers)]
    for one in others:
        one.start()
    barrier.wait()
    total = proportional_mebibytes()
    total += sum(sizes.get() for _ in others)
    barrier.wait()
    for one in others:
        one.join()
    return total


def step_milliseconds(n_speakers: int, utterances_each: int, batch: int) -> float:
    """Median of a step of the sampler, in milliseconds of this process's time on a core."""
    steps = iter(SpeakerBatchSampler(np.repeat(np.arange(n_speakers, dtype=np.int32), utterances_each), batch))
    seconds = []
    for _ in range(STEPS):
        start = time.process_time()
        next(steps)
        seconds.append(time.process_time() - start)
    return 1000 * float(np.median(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=1_100_000)
    parser.add_argument("--speakers", type=int, default=6_000)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_lists(folder, options.utterances, options.speakers)
        for title in ("lists read", "kept table mapped"):
            start = time.process_time(), time.perf_counter()
            read_data_directory(folder, check_files=False)
            seconds = time.process_time() - start[0], time.perf_counter() - start[1]
            print(f"{title:24} {seconds[0]:7.2f} s of a core, {seconds[1]:.2f} s")
        without = memory(options.workers, False, folder)
        print(f"table, {options.workers} workers {memory(options.workers, True, folder) - without:15.0f} MiB")
    for n_speakers, each in ((100_000, 11), (1_000_000, 3)):
        print(f"step, {n_speakers:9,} speakers {step_milliseconds(n_speakers, each, 64):9.2f} ms, batch of 64")


if __name__ == "__main__":
    main()
