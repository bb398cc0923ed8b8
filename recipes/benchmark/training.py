"""The race: how low an EER each encoder reaches in the same minutes of training.

``python recipes/benchmark/training.py [key=value ...]``; see ``training.yaml`` and ``training_run.yaml``. Same data,
crops, augmentation, head, optimizer and schedules; learning rate and margin follow the clock, which stands while the
test trials are scored. Each row is a process of its own and leaves ``OUT/ROW.json``, and is not run again.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import torch
from encoders import ENCODERS
from pydantic import Field
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from spkver.config import Config, load_config
from spkver.data.dataset import SpeakerCrops, collate
from spkver.data.directory import read_data_directory
from spkver.data.sampler import SpeakerBatchSampler
from spkver.data.survey import keep_usable
from spkver.errors import SpkverError
from spkver.extraction import Extractor
from spkver.heads import build_head
from spkver.schema import Count, Positive, Section
from spkver.scoring.cosine import cosine_scores
from spkver.scoring.lookup import map_trials
from spkver.scoring.metrics import equal_error_rate
from spkver.scoring.trials import read_trials
from spkver.training.step import TrainingStep
from spkver.whole_file import whole_file

HERE = Path(__file__).parent
# Steps a minute that no machine makes: places within a minute of the schedules.
_PLACES = 10**6


class Race(Section):
    corpus: str
    out: str
    marks_minutes: Annotated[list[Positive], Field(min_length=1)]
    rows: Annotated[list[str], Field(min_length=1)]
    extraction_seconds: Positive
    extraction_utterances: Count
    seed: Count


def run_row(name: str, precision: str, race: Race) -> dict:
    """Train one encoder and measure it."""
    minutes = max(race.marks_minutes)
    overrides = [f"seed={race.seed}", f"training.epochs={round(max(minutes, 1))}", f"training.precision={precision}"]
    config = load_config(HERE / "training_run.yaml", overrides)
    torch.manual_seed(race.seed)
    encoder = ENCODERS[name][1](config)
    row = {
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "multiply_adds": multiply_adds(encoder, config),
    }
    row |= {f"extraction_{n}": times_real_time(encoder, config, race, n) for n in (1, 2)}
    row |= train(encoder, config, race)
    row["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return row


def train(encoder: torch.nn.Module, config: Config, race: Race) -> dict:
    """Train by the clock; EERs on the test trials at the marks."""
    corpus = Path(race.corpus)
    usable = keep_usable(read_data_directory(corpus / "train"), config.data.sample_rate)
    dataset = SpeakerCrops(
        usable,
        config.data.sample_rate,
        config.data.crop_seconds,
        config.augment,
        config.seed,
        config.data.cache_gigabytes,
    )
    sampler = SpeakerBatchSampler(dataset.labels, config.batch.speakers, config.batch.utterances, config.seed)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=config.data.workers, collate_fn=collate)
    encoder.to(memory_format=torch.channels_last)
    head = build_head(config.head, encoder.embed_dim, dataset.n_classes)
    dtype = getattr(torch, config.training.precision)
    step = TrainingStep(config, encoder, head, torch.device("cpu"), dtype, HERE)
    test = Test(corpus / "test", config)

    eers, marks, n_utterances, seconds = {}, sorted(race.marks_minutes), 0, 0.0
    encoder.train()
    for epoch in range(_PLACES):
        sampler.set_epoch(epoch)
        before = time.monotonic()
        for batch in loader:
            if isinstance(batch, SpkverError):
                raise batch
            minute = seconds / 60
            step(batch, int(minute), int(minute % 1 * _PLACES), _PLACES)
            n_utterances += len(batch[1])
            seconds += time.monotonic() - before
            if seconds / 60 >= marks[len(eers)]:
                eers[f"{marks[len(eers)]:g}"] = test.equal_error_rate(encoder)
                print(f"  {seconds / 60:.1f} minutes, EER {list(eers.values())[-1]:.2%}", file=sys.stderr, flush=True)
                encoder.train()
                if len(eers) == len(marks):
                    return {"eer": eers, "utterances_per_second": n_utterances / seconds}
            before = time.monotonic()
    raise AssertionError("time does not pass")


class Test:
    """The test trials, ready to be scored again and again."""

    def __init__(self, folder: Path, config: Config):
        self.config = config
        self.directory = keep_usable(read_data_directory(folder), config.data.sample_rate)
        trials = read_trials(folder / "trials")
        utts = [utterance.id for utterance in self.directory.utterances]
        self.enroll, self.test = map_trials(trials, utts, folder / "trials")
        self.labels = trials.labels

    def equal_error_rate(self, encoder: torch.nn.Module) -> float:
        extractor = Extractor(encoder, self.config)
        embeddings = extractor.embed_utterances(self.directory.utterances, self.directory.durations, "")
        return float(equal_error_rate(cosine_scores(embeddings, self.enroll, self.test), self.labels)[0])


def multiply_adds(encoder: torch.nn.Module, config: Config) -> float:
    """Of the embedding of 2 s."""
    features = torch.randn(1, round(2 / config.features.frame_shift_seconds) - 2, config.features.n_mels)
    encoder.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(features)
    return counter.get_total_flops() / 2


def times_real_time(encoder: torch.nn.Module, config: Config, race: Race, threads: int) -> float:
    """Seconds of audio that are embedded in a second, one utterance after another, in float32."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    extractor = Extractor(encoder, config)
    rng = np.random.default_rng(0)
    n_samples = round(race.extraction_seconds * config.data.sample_rate)
    waveforms = [0.1 * rng.standard_normal(n_samples, dtype=np.float32) for _ in range(race.extraction_utterances)]
    extractor.embed(waveforms[:1])
    start = time.perf_counter()
    for waveform in waveforms:
        extractor.embed([waveform])
    seconds = time.perf_counter() - start
    torch.set_num_threads(before)
    return race.extraction_seconds * race.extraction_utterances / seconds


def table(rows: dict[str, dict], marks: list[float]) -> str:
    columns = ["parameters", "mult-adds 2 s", "utterances/s", *(f"EER {mark:g} min" for mark in marks)]
    columns += ["x real time", ".. 2 threads", "MiB"]
    lines = [f"{'encoder':<34}{'type':<10}" + "".join(f"{column:>15}" for column in columns)]
    for name, row in rows.items():
        encoder, precision = name.split()
        eers = [f"{row['eer'][f'{mark:g}']:.2%}" for mark in marks]
        values = [f"{row['parameters'] / 1e6:.1f} M", f"{row['multiply_adds'] / 1e6:.0f} M"]
        values += [f"{row['utterances_per_second']:.0f}", *eers]
        values += [f"{row['extraction_1']:.0f}", f"{row['extraction_2']:.0f}", f"{row['peak_mib']:.0f}"]
        lines.append(f"{ENCODERS[encoder][0]:<34}{precision:<10}" + "".join(f"{value:>15}" for value in values))
    return "\n".join(lines)


def draw(rows: dict[str, dict], path: Path) -> None:
    """EER over minutes of training."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, row in rows.items():
        encoder, precision = name.split()
        line = axes.plot([float(mark) for mark in row["eer"]], [100 * eer for eer in row["eer"].values()], "o-")[0]
        line.set(label=f"{ENCODERS[encoder][0]}, {precision}", linestyle="-" if precision == "bfloat16" else ":")
    axes.set(xlabel="minutes of training", ylabel="EER in %", ylim=(0, None))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(overrides: list[str]) -> None:
    """Run the rows that are not there yet, then print the table and draw the figure."""
    race = load_config(HERE / "training.yaml", overrides, Race)
    out, rows = Path(race.out), {}
    for name in race.rows:
        encoder, _, precision = name.partition(" ")
        if encoder not in ENCODERS or precision not in ("float32", "bfloat16"):
            raise SpkverError(f"rows: '{name}' is not one of {', '.join(ENCODERS)} with float32 or bfloat16")
        path = out / f"{name.replace(' ', '_')}.json"
        if not path.exists():
            print(f"{name}: {max(race.marks_minutes):g} minutes", file=sys.stderr, flush=True)
            command = [sys.executable, __file__, "--one", encoder, precision, *overrides]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            with whole_file(path) as file:
                file.write(done)
        row = json.loads(path.read_text(encoding="utf-8"))
        if row is None:
            path.unlink()
            print(f"{name}: its package is not installed", file=sys.stderr)
            continue
        rows[name] = row
    print(table(rows, sorted(race.marks_minutes)))
    draw(rows, out / "eer_over_minutes.png")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["--one"]:
            race = load_config(HERE / "training.yaml", arguments[3:], Race)
            try:
                row = run_row(arguments[1], arguments[2], race)
            except ModuleNotFoundError:
                row = None
            print(json.dumps(row))
        else:
            main(arguments)
    except SpkverError as error:
        sys.exit(str(error))
