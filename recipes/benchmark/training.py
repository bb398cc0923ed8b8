"""The race: how low an EER each encoder reaches in the same minutes of training.

``python recipes/benchmark/training.py [key=value ...]``; see ``training.yaml`` and ``training_run.yaml``. Same data,
crops, augmentation, head, optimizer and schedules; a row is a training of spkver with ``training.minutes``, so learning
rate and margin follow the clock, and its epochs end at the marks. Each row is a process of its own with cores of its
own, leaves ``OUT/ROW.json``, and is not run again; one that was stopped goes on. Speed of extraction is measured when
no row runs any more.
"""

import contextlib
import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from encoders import ENCODERS, is_installed, model_of, untrained
from pydantic import Field
from rows import measure, measure_side_by_side
from torch.utils.flop_counter import FlopCounterMode

from spkver.config import Config, load_config
from spkver.config.schema import Count, Positive, Section
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.data.trials import map_trials, read_trials
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.paths import Experiment, describe_run
from spkver.models.device import choose_dtype
from spkver.scoring.backends.cosine import cosine_scores
from spkver.scoring.metrics import equal_error_rate
from spkver.training.checkpoint import average, epochs_kept
from spkver.training.trainer import Trainer

HERE = Path(__file__).parent


class Race(Section):
    corpus: str
    out: str
    marks_minutes: Annotated[list[Positive], Field(min_length=1)]
    epochs: Count
    rows: Annotated[list[str], Field(min_length=1)]
    cores: Count
    batch_speakers: Count
    extraction_seconds: Positive
    extraction_utterances: Count
    seed: Count


def configuration(name: str, precision: str, race: Race) -> Config:
    """That of a row's training: the same for all but for the encoder, and for V3 its own optimizer in some rows."""
    minutes = max(race.marks_minutes)
    words = [f"seed={race.seed}", f"batch.speakers={race.batch_speakers}", f"training.precision={precision}"]
    words += [f"training.minutes={minutes}", f"training.epochs={race.epochs}", f"training.keep_last={race.epochs}"]
    words += [f"training.threads={race.cores}", f"training.average_last={min(race.epochs, 5)}"]
    config = load_config(HERE / "training_run.yaml", [*words, *ENCODERS[name].training])
    return config.model_copy(update={"model": model_of(name)})


def run_row(name: str, precision: str, race: Race) -> dict:
    """Train one encoder and measure it as it was at the marks."""
    config = configuration(name, precision, race)
    experiment = Experiment(_kept_in(Path(race.out), f"{name} {precision}").with_suffix(""))
    usable = keep_usable(read_data_directory(Path(race.corpus) / "train"), config.data.sample_rate)
    # A row that was stopped goes on.
    trainer = Trainer(config, usable, experiment, None, resume=experiment.log_file.exists())
    with contextlib.redirect_stdout(sys.stderr):  # what is printed here is the row
        trainer.run(describe_run(experiment, Path(race.corpus) / "train", None))
    n_steps = len(read_log(experiment.log_file, "step"))
    eers = at_the_marks(trainer, experiment, race, f"{name} {precision}")
    shutil.rmtree(experiment.checkpoints)
    return {
        "eer": eers,
        "utterances_per_second": n_steps * race.batch_speakers / trainer.seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def at_the_marks(trainer: Trainer, experiment: Experiment, race: Race, title: str) -> dict[str, float]:
    """EERs on the test trials of the epochs that end at the marks."""
    test = Test(Path(race.corpus) / "test", trainer.config)
    kept, eers = epochs_kept(experiment.checkpoints), {}
    for mark in sorted(race.marks_minutes):
        weights, _ = average([kept[epoch_at(mark, race)]])
        trainer.encoder.load_state_dict(weights)
        eers[f"{mark:g}"] = test.equal_error_rate(trainer.encoder)
        print(f"{title}: {mark:g} minutes, EER {eers[f'{mark:g}']:.2%}", file=sys.stderr, flush=True)
    return eers


def epoch_at(mark: float, race: Race) -> int:
    """The epoch that ends so many minutes after the beginning."""
    epoch = mark / max(race.marks_minutes) * race.epochs
    if abs(epoch - round(epoch)) > 1e-6 or round(epoch) < 1:
        raise SpkverError(f"marks_minutes: {mark:g} is not at the end of one of the {race.epochs} epochs")
    return round(epoch)


def run_speed(name: str, race: Race) -> dict:
    """Size of an encoder, and how fast it embeds; what it has learnt does not matter."""
    config = configuration(name, "float32", race)
    encoder = untrained(config)
    return {
        "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
        "multiply_adds": multiply_adds(encoder, config),
        "extraction_1": times_real_time(encoder, config, race, 1),
        "extraction_2": times_real_time(encoder, config, race, 2),
    }


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
        # The faster precision whatever the training's was: peers take longer for the trials than for the training.
        with torch.autocast("cpu", torch.bfloat16, enabled=_bfloat16()):
            embeddings = extractor.embed_utterances(self.directory.utterances, "")
        return float(equal_error_rate(cosine_scores(embeddings, self.enroll, self.test), self.labels)[0])


def multiply_adds(encoder: torch.nn.Module, config: Config) -> float:
    """Of the embedding of 2 s."""
    features = torch.randn(1, round(2 / config.features.frame_shift_seconds) - 2, config.features.n_mels)
    encoder.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(features, average=features[:, 0])
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
        eers = [f"{row['eer'][f'{mark:g}']:.2%}" if f"{mark:g}" in row["eer"] else "-" for mark in marks]
        values = [f"{row['parameters'] / 1e6:.1f} M", f"{row['multiply_adds'] / 1e6:.0f} M"]
        values += [f"{row['utterances_per_second']:.0f}", *eers]
        values += [f"{row['extraction_1']:.0f}", f"{row['extraction_2']:.0f}", f"{row['peak_mib']:.0f}"]
        lines.append(f"{ENCODERS[encoder].title:<34}{precision:<10}" + "".join(f"{value:>15}" for value in values))
    return "\n".join(lines)


def draw(rows: dict[str, dict], path: Path) -> None:
    """EER over minutes of training."""
    import matplotlib.pyplot as plt  # here: a row's process has no need of it

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, row in rows.items():
        encoder, precision = name.split()
        line = axes.plot([float(mark) for mark in row["eer"]], [100 * eer for eer in row["eer"].values()], "o-")[0]
        line.set(label=f"{ENCODERS[encoder].title}, {precision}", linestyle="-" if precision == "bfloat16" else ":")
    axes.set(xlabel="minutes of training", ylabel="EER in %", ylim=(0, None))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(overrides: list[str]) -> None:
    """Run the rows that are not there yet, then print the table and draw the figure."""
    race = load_config(HERE / "training.yaml", overrides, Race)
    out = Path(race.out)
    for mark in race.marks_minutes:
        epoch_at(mark, race)
    for name in race.rows:
        encoder, _, precision = name.partition(" ")
        if encoder not in ENCODERS or precision not in ("float32", "bfloat16"):
            raise SpkverError(f"rows: '{name}' is not one of {', '.join(ENCODERS)} with float32 or bfloat16")
    names = [name for name in race.rows if _kept_in(out, name).exists() or not name.endswith("bfloat16") or _bfloat16()]
    if len(names) < len(race.rows):
        print("rows in bfloat16 are left out: this machine has to emulate it, which is slow", file=sys.stderr)
    tasks = {_kept_in(out, name): ["--row", *name.split(), *overrides] for name in names}
    trainings = dict(zip(names, measure_side_by_side(tasks, race.cores)))
    rows, cores = {}, sorted(os.sched_getaffinity(0))
    for name, row in trainings.items():
        encoder = name.split()[0]
        speed = row and measure(out / f"{encoder}_speed.json", ["--speed", encoder, *overrides], cores)
        if speed is None:
            print(f"{name}: its package is not installed", file=sys.stderr)
        else:
            rows[name] = row | speed
    if not rows:
        raise SpkverError("no row could be run here")
    print(table(rows, sorted({float(mark) for row in rows.values() for mark in row["eer"]})))
    draw(rows, out / "eer_over_minutes.png")


def _kept_in(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '_')}.json"


def _bfloat16() -> bool:
    """Whether this machine multiplies it."""
    return choose_dtype("auto", torch.device("cpu")) == torch.bfloat16


def one_task(kind: str, arguments: list[str]) -> dict | None:
    """The work of a process of `measure`."""
    n_words = 2 if kind == "--row" else 1
    race = load_config(HERE / "training.yaml", arguments[n_words:], Race)
    if not is_installed(arguments[0]):
        return None
    return run_row(*arguments[:2], race) if kind == "--row" else run_speed(arguments[0], race)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        if arguments[:1] in (["--row"], ["--speed"]):
            print(json.dumps(one_task(arguments[0], arguments[1:])))
        else:
            main(arguments)
    except SpkverError as error:
        sys.exit(str(error))
