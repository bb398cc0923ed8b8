"""One GPU: its tests, where a training's time goes, encoders beside their peers, heads, and extraction, in one table.

``python recipes/benchmark/gpu.py [key=value ...]``; see ``gpu.yaml``. It needs neither network nor corpus: waveforms
are made up, since none of this depends on what is said. It runs from a plain checkout, too:
``PYTHONPATH=. python recipes/benchmark/gpu.py``. What is not installed (a toolkit, pytest) or does not fit in the
memory is left out, and the table says so.
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from heads import wespeaker
from pydantic import Field

from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.data.directory import DataDirectory, Utterance, write_data_directory
from spkver.embedding.extractor import Extractor
from spkver.embedding.stage import embed_directory
from spkver.errors import SpkverError
from spkver.experiment.model_folder import save_model
from spkver.experiment.paths import Experiment
from spkver.files import atomic_write
from spkver.heads import Head, build_head, chunked_loss
from spkver.models import ImportedEncoder, build_encoder
from spkver.models.device import choose_device, choose_dtype
from spkver.models.encoder_check import checked
from spkver.training.profiling import profile_training
from spkver.training.step import TrainingStep
from spkver.training.trainer import Trainer

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLE_RATE = 16000


class Profile(Section):
    configuration: str
    overrides: list[str]


class Sizes(Section):
    device: str
    out: str
    tests: bool
    profiles: list[Profile]
    profile_steps: Count
    speakers: Count
    utterances: Count
    utterance_seconds: Annotated[float, Field(gt=0)]
    encoders: list[str]
    encoder_batch: Count
    encoder_classes: Count
    encoder_steps: Count
    head_classes: list[Count]
    head_sub_centers: Count
    head_batch: Count
    head_steps: Count
    extraction: list[str]
    extraction_utterances: Count
    extraction_seconds: Annotated[list[float], Field(min_length=2, max_length=2)]


class Table:
    """Rows as they come: printed, and in a file that holds those so far whatever becomes of the run."""

    def __init__(self, path: Path, about: dict):
        self.path, self.about, self.rows = path, about, []
        print("  ".join(f"{key} {value}" for key, value in about.items()), flush=True)

    def add(self, part: str, what: str, **figures: float | str) -> None:
        self.rows.append({"part": part, "what": what, **figures})
        print(
            f"{part:<12}{what:<58}" + "  ".join(f"{key} {_shown(value)}" for key, value in figures.items()), flush=True
        )
        with atomic_write(self.path) as file:
            json.dump({"about": self.about, "rows": self.rows}, file, indent=1)


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@contextmanager
def reported(table: Table, part: str, what: str) -> Iterator[None]:
    """A row that says why there is none, where something is missing or too large."""
    try:
        yield
    except (SpkverError, ImportError, torch.cuda.OutOfMemoryError) as error:
        table.add(part, what, left_out=str(error).splitlines()[0][:100])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(once: Callable[[], object], n: int, device: torch.device) -> tuple[float, float]:
    """Seconds of one of ``n``, and MiB at most beyond what was there before; three go ahead uncounted."""
    for _ in range(3):
        once()
    wait(device)
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    for _ in range(n):
        once()
    wait(device)
    seconds = (time.perf_counter() - start) / n
    highest = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return seconds, (highest - before) / 2**20


def run_tests(table: Table) -> None:
    """Those that need a GPU."""
    if importlib.util.find_spec("pytest") is None:
        table.add("tests", "pytest -m gpu", left_out="pytest is not installed")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", str(ROOT / "tests")]
    environment = os.environ | {"SPKVER_TEST_GPU": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or ["nothing"]
    print("\n".join(line for line in lines if line.startswith(("FAILED", "ERROR"))), flush=True)
    table.add("tests", "pytest -m gpu", result=lines[-1])


def made_up_speakers(folder: Path, sizes: Sizes) -> DataDirectory:
    """Noise, different for each speaker in its colour, as files of 16 bits; also lists of noises and rooms."""
    generator = np.random.default_rng(1)
    n_samples = round(sizes.utterance_seconds * SAMPLE_RATE)
    utterances, durations = [], {}
    for speaker in range(sizes.speakers):
        colour = generator.uniform(0.0, 0.95)
        for number in range(sizes.utterances):
            samples = generator.standard_normal(n_samples).astype(np.float32)
            samples[1:] += colour * samples[:-1]
            utterance = f"s{speaker:04}-{number:03}"
            path = _write(folder / "audio" / f"{utterance}.wav", 0.1 * samples)
            utterances.append(Utterance(utterance, path, f"s{speaker:04}"))
            durations[utterance] = sizes.utterance_seconds
    for kind in ("noises", "rooms"):
        lines = []
        for number in range(50):
            samples = generator.standard_normal(8 * SAMPLE_RATE if kind == "noises" else SAMPLE_RATE // 2)
            if kind == "rooms":
                samples *= np.exp(-np.arange(len(samples)) / 1500)
                samples[0] = 10
            path = _write(folder / kind / f"{number}.wav", 0.05 * samples)
            lines.append(f"{number} {path}\n")
        (folder / f"{kind}.scp").write_text("".join(lines))
    return DataDirectory(folder, utterances, durations=durations)


def _write(path: Path, samples: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")
    return path


def profile(table: Table, directory: DataDirectory, sizes: Sizes, device: torch.device) -> None:
    """Where the time of a training goes, data included."""
    lists = [
        f"augment.noise.list={directory.path / 'noises.scp'}",
        f"augment.reverb.list={directory.path / 'rooms.scp'}",
    ]
    for chosen in sizes.profiles:
        title = " ".join([chosen.configuration, *chosen.overrides])
        with reported(table, "training", title), tempfile.TemporaryDirectory() as exp:
            words = [*lists, *chosen.overrides, "data.held_out_speakers=0", "snapshots.speakers=0"]
            config = load_config(chosen.configuration, [*words, f"training.device={device}"])
            trainer = Trainer(config, directory, Experiment(exp), None)
            print(profile_training(trainer, sizes.profile_steps), flush=True)
            # Once more without waiting at every border, as in a run.
            table.add("training", title, **_rate(trainer, sizes.profile_steps, device))


def _rate(trainer: Trainer, n_steps: int, device: torch.device) -> dict[str, float]:
    n_batches = trainer.sampler.n_batches
    step, warm_up = trainer.training_step, min(5, n_batches // 2)
    step.clock.exact = False
    trainer.sampler.set_epoch(1)
    done = 0
    with trainer.batches() as batches:
        for done, batch in enumerate(batches):
            step.do(batch, 1, done, n_batches)
            if done == warm_up:
                step.read()
                start = time.perf_counter()
            if done == warm_up + n_steps:
                break
        step.read()
        wait(device)
    seconds = (time.perf_counter() - start) / max(done - warm_up, 1)
    return {"ms a step": 1000 * seconds, "crops/s": trainer.sampler.batch_size / seconds}


def train_encoders(table: Table, sizes: Sizes, device: torch.device) -> None:
    """Steps of encoders with crops given: the same batch, loss and optimizer for all."""
    for name in sizes.encoders:
        for compiled in (False, True) if device.type == "cuda" else (False,):
            title = f"{name}, batch {sizes.encoder_batch}{', compiled' * compiled}"
            with reported(table, "encoder", title):
                step, batch = _step_of(name, compiled, sizes, device)
                count = iter(range(10**6))
                seconds, mib = seconds_of(
                    lambda step=step, batch=batch, count=count: step.do(batch, 0, next(count), 10**6),
                    sizes.encoder_steps,
                    device,
                )
                step.read()
                table.add("encoder", title, **{"crops/s": sizes.encoder_batch / seconds, "MiB": mib})


def _step_of(name: str, compiled: bool, sizes: Sizes, device: torch.device) -> tuple[TrainingStep, tuple]:
    words = ["optimizer.name=adamw", "head.name=arc_margin", "augment.formant_factors=[1.0]"]
    config = load_config(name, [*words, f"training.compile={str(compiled).lower()}"])
    torch.manual_seed(1)
    encoder = build_encoder(config.model, config.features.n_mels)
    if isinstance(encoder, ImportedEncoder):
        checked(config, encoder)  # how many dimensions its embeddings have
    encoder.to(device, memory_format=torch.channels_last).train()
    head = build_head(config.head, encoder.embed_dim, sizes.encoder_classes).to(device)
    step = TrainingStep(config, encoder, head, device, choose_dtype("auto", device), HERE)
    n = sizes.encoder_batch
    waveforms = torch.randn(n, round(config.data.crop_seconds * SAMPLE_RATE), device=device) / 10
    labels = torch.randint(sizes.encoder_classes, (n,), device=device)
    return step, (waveforms, labels, torch.zeros(n, dtype=torch.int64, device=device))


def heads(table: Table, sizes: Sizes, device: torch.device) -> None:
    """Loss and gradients of a batch, with all logits at once, in chunks, and by another toolkit."""
    for classes in sizes.head_classes:
        for how in ("spkver, all logits", "spkver, in chunks", "WeSpeaker"):
            title = f"{how}, {classes:,} x {sizes.head_sub_centers}"
            with reported(table, "head", title):
                once = _head_of(how, classes, sizes, device)
                seconds, mib = seconds_of(once, sizes.head_steps, device)
                table.add("head", title, ms=1000 * seconds, MiB=mib)


def _head_of(how: str, classes: int, sizes: Sizes, device: torch.device) -> Callable[[], object]:
    config = load_config("base", ["head.name=intertopk_subcenter", f"head.K={sizes.head_sub_centers}"])
    dimensions = config.model.embed_dim
    embeddings = F.normalize(torch.randn(sizes.head_batch, dimensions, device=device)).requires_grad_()
    labels = torch.randint(classes, (sizes.head_batch,), device=device)
    with device:
        if how == "WeSpeaker":
            head, loss_of = wespeaker(dimensions, classes, sizes.head_sub_centers)
        else:
            head = build_head(config.head, dimensions, classes)
            loss_of = _chunked if how.endswith("chunks") else _plain
            loss_of = loss_of(head)

    def once() -> None:
        # Weights and their gradients are there for every way; what it takes beside them is what is compared.
        for parameter in (embeddings, *head.parameters()):
            if parameter.grad is not None:
                parameter.grad.zero_()
        loss_of(embeddings, labels).backward()

    return once


def _plain(head: Head) -> Callable:
    return lambda embeddings, labels: F.cross_entropy(head(embeddings, labels), labels)


def _chunked(head: Head) -> Callable:
    return lambda embeddings, labels: chunked_loss(head, embeddings, labels)[0]


def extraction(table: Table, sizes: Sizes, device: torch.device) -> None:
    """From files to stored embeddings, as ``spkver embed --device`` does it."""
    with tempfile.TemporaryDirectory() as folder:
        directory = _utterances_of_many_lengths(Path(folder), sizes)
        seconds = sum(directory.durations.values())
        for name in sizes.extraction:
            with reported(table, "extraction", name), tempfile.TemporaryDirectory() as exp:
                config = load_config(name)
                encoder = build_encoder(config.model, config.features.n_mels).eval()
                model = Path(exp) / "model"
                save_model(
                    model,
                    config,
                    {},
                    encoder.state_dict(),
                    build_head(config.head, encoder.embed_dim, 2).state_dict(),
                    ["a", "b"],
                )
                start = time.perf_counter()
                extractor = Extractor(encoder.to(device), config)
                said = embed_directory(directory, Path(exp), extractor, model, model / "model.safetensors")
                took = time.perf_counter() - start
                table.add("extraction", name, **{"times real time": seconds / took, "seconds": took})
                print(said, flush=True)


def _utterances_of_many_lengths(folder: Path, sizes: Sizes) -> DataDirectory:
    generator = np.random.default_rng(2)
    utterances, durations = [], {}
    lengths = np.linspace(*sizes.extraction_seconds, sizes.extraction_utterances)
    for number, seconds in enumerate(generator.permutation(lengths)):
        # Bursts, as syllables are: steady noise is refused as no speech.
        at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        samples = 0.1 * generator.standard_normal(len(at)) * (0.02 + np.clip(np.sin(2 * np.pi * 3 * at), 0, 1))
        path = _write(folder / "audio" / f"{number:05}.wav", samples)
        utterances.append(Utterance(f"{number:05}", path, "someone"))
        durations[f"{number:05}"] = len(at) / SAMPLE_RATE
    write_data_directory(folder, utterances)
    return DataDirectory(folder, utterances, durations=durations)


def about(device: torch.device) -> dict[str, str]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    return {"device": name, "cores": str(len(os.sched_getaffinity(0))), "torch": torch.__version__}


def main(overrides: list[str]) -> None:
    """Measure every part and print the table."""
    sizes = load_config(HERE / "gpu.yaml", overrides, Sizes)
    device = choose_device(sizes.device, "device")
    table = Table(Path(sizes.out), about(device))
    if sizes.tests:
        run_tests(table)
    with tempfile.TemporaryDirectory() as folder:
        if sizes.profiles:
            profile(table, made_up_speakers(Path(folder), sizes), sizes, device)
    train_encoders(table, sizes, device)
    heads(table, sizes, device)
    extraction(table, sizes, device)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SpkverError as error:
        sys.exit(str(error))
