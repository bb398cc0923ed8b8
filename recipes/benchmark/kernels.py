"""What each kernel in C brings: a training step and extraction without it, beside all of them and none.

``python recipes/benchmark/kernels.py [key=value ...]``; see ``kernels.yaml``. Waveforms are made up, since none of this
depends on what is said. All rows are measured in turns within one process, so that a machine that slows down slows all.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from spkver import native
from spkver.cli.memory import tune_malloc
from spkver.config import load_config
from spkver.config.schema import Count, Section
from spkver.embedding.extractor import Extractor
from spkver.features import fbank
from spkver.heads import build_head, chunked, chunked_loss
from spkver.models import build_encoder, group_norm, position
from spkver.models.group_norm import GroupNormReLU
from spkver.training.step import TrainingStep

SAMPLE_RATE = 16000
# Kernel -> the module that calls it.
CALLERS = {"log_mel": fbank, "group_norm": group_norm, "depthwise": position}
NEVER = SimpleNamespace(usable=lambda *_: False, fits=native.fits, mask_fits=native.mask_fits)


class Sizes(Section):
    measure: Annotated[list[Literal["step", "group_norm", "head", "extraction"]], Field(min_length=1)]
    configurations: Annotated[list[str], Field(min_length=1)]
    precisions: list[Literal["float32", "bfloat16"]]
    threads: Count
    speakers: Count
    head_classes: Count
    rounds: Count
    compile: bool


@contextmanager
def without(*modules) -> Iterator[None]:
    """Let these modules go torch's way."""
    for module in modules:
        module.native = NEVER
    try:
        yield
    finally:
        for module in modules:
            module.native = native


def rows() -> dict[str, tuple]:
    """Title of a row -> the modules whose kernel is not used."""
    return {"all kernels": (), **{f"without {name}": (module,) for name, module in CALLERS.items()}} | {
        "torch alone": tuple(CALLERS.values())
    }


def step_of(name: str, precision: str, sizes: Sizes, compiled: bool) -> Callable[[], object]:
    """One training step of a configuration on a batch of made-up crops."""
    config = load_config(name, ["augment.speed_factors=[1.0]", "augment.formant_factors=[1.0]"])
    torch.manual_seed(1)
    encoder = build_encoder(config.model, config.features.n_mels).train()
    head = build_head(config.head, config.model.embed_dim, sizes.speakers).train()
    step = TrainingStep(config, encoder, head, torch.device("cpu"), getattr(torch, precision), Path("benchmark"))
    if compiled:
        step.encoder = torch.compile(encoder)
    n_items = config.batch.speakers
    waveforms = torch.randn(n_items, round(config.data.crop_seconds * SAMPLE_RATE)) / 10
    batch = waveforms, torch.arange(n_items) % sizes.speakers, torch.zeros(n_items, dtype=torch.int64)
    return lambda: step(batch, 0, 0, 100)


def front_end_norms_of(name: str, precision: str) -> Callable[[], object]:
    """Forward and backward of the front end's GroupNorm and ReLU alone, each on a batch of the size that it sees."""
    config = load_config(name)
    torch.manual_seed(1)
    encoder = build_encoder(config.model, config.features.n_mels)
    layers = [module for module in encoder.front_end.modules() if isinstance(module, GroupNormReLU)]
    shapes: list[torch.Size] = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape[1:]))
    n_frames = round(config.data.crop_seconds / config.features.frame_shift_seconds)
    with torch.no_grad():
        encoder.front_end(torch.zeros(1, n_frames, config.features.n_mels), None)
    given = []
    for shape in shapes:
        x = torch.randn(config.batch.speakers, *shape, dtype=getattr(torch, precision))
        given.append(x.contiguous(memory_format=torch.channels_last))
    norms = [GroupNormReLU(layer.num_groups, layer.num_channels) for layer in layers]

    def once() -> None:
        for norm, x in zip(norms, given):
            x = x.detach().requires_grad_()
            torch.autograd.grad(norm(x), [x, norm.weight, norm.bias], x.detach())

    return once


def extraction_of(name: str) -> Callable[[], object]:
    """Embedding 32 utterances of 3 to 5 s."""
    config = load_config(name)
    torch.manual_seed(1)
    extractor = Extractor(build_encoder(config.model, config.features.n_mels).eval(), config)
    seconds = np.linspace(3, 5, 32)
    generator = np.random.default_rng(1)
    waveforms = [generator.standard_normal(int(each * SAMPLE_RATE)).astype(np.float32) / 10 for each in seconds]
    return lambda: extractor.embed(waveforms)


def chunked_head_of(precision: str, sizes: Sizes) -> Callable[[], object]:
    """Loss and gradients of a batch of 64 with a head that is computed in chunks."""
    config = load_config("base")
    head = build_head(config.head, config.model.embed_dim, sizes.head_classes)
    embeddings = torch.nn.functional.normalize(torch.randn(64, config.model.embed_dim)).requires_grad_()
    labels = torch.arange(64)

    def once() -> None:
        head.zero_grad()
        chunked_loss(head, embeddings, labels, precision)[0].backward()

    return once


def seconds_of(ways: dict[str, tuple[Callable[[], object], tuple]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, all of them once a round; the first round is not counted."""
    taken: dict[str, list[float]] = {title: [] for title in ways}
    for turn in range(rounds + 1):
        for title, (once, off) in ways.items():
            with without(*off):
                start = time.perf_counter()
                once()
                if turn:
                    taken[title].append(time.perf_counter() - start)
    return {title: float(np.median(spent)) for title, spent in taken.items()}


def show(title: str, seconds: dict[str, float]) -> None:
    """A line a way, with its time beside that of the first."""
    first = next(iter(seconds.values()))
    print(f"\n{title}")
    for name, spent in seconds.items():
        print(f"    {name:<22}{1000 * spent:9.1f} ms {spent / first:8.2f} x", flush=True)


def main(overrides: list[str]) -> None:
    sizes = load_config(Path(__file__).with_name("kernels.yaml"), overrides, Sizes)
    torch.set_num_threads(sizes.threads)
    tune_malloc()  # as `spkver train` does
    for precision in sizes.precisions:
        for name in sizes.configurations if "step" in sizes.measure else ():
            step = step_of(name, precision, sizes, compiled=False)
            ways = {title: (step, off) for title, off in rows().items()}
            if sizes.compile:
                ways["torch.compile"] = step_of(name, precision, sizes, compiled=True), tuple(CALLERS.values())
            show(f"a training step of {name}, {precision}", seconds_of(ways, sizes.rounds))
        for name in sizes.configurations if "group_norm" in sizes.measure else ():
            norms = front_end_norms_of(name, precision)
            ways = {"with its kernel": (norms, ()), "torch alone": (norms, (group_norm,))}
            show(f"the front end's norms of {name}, {precision}", seconds_of(ways, sizes.rounds))
        if "head" in sizes.measure:
            head = chunked_head_of(precision, sizes)
            ways = {"with its kernels": (head, ()), "torch alone": (head, (chunked,))}
            show(f"the loss of {sizes.head_classes:,} classes in chunks, {precision}", seconds_of(ways, sizes.rounds))
    for name in sizes.configurations if "extraction" in sizes.measure else ():
        extraction = extraction_of(name)
        ways = {title: (extraction, off) for title, off in rows().items()}
        show(f"extraction of 32 utterances by {name}, float32", seconds_of(ways, sizes.rounds))


if __name__ == "__main__":
    main(sys.argv[1:])
