"""Training of an encoder by a benchmark: no experiment's files, and an end that the benchmark chooses."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import torch
from schedule_free import ScheduleFree

from spkver.config import Config
from spkver.data.augment import Augmenter
from spkver.data.dataset import SpeakerCrops
from spkver.data.directory import DataDirectory
from spkver.data.sampler import SpeakerBatchSampler
from spkver.heads import build_head
from spkver.training.batches import Batches, build_loader
from spkver.training.finetune import start_from
from spkver.training.step import TrainingStep

# Parts of an epoch of the schedules: more than any run has steps in one.
_PARTS = 10**6


def train_on(
    encoder: torch.nn.Module,
    config: Config,
    directory: DataDirectory,
    place: Callable[[int], float],
    schedule_free: bool = False,
    init: Path | None = None,
) -> Iterator[tuple[int, float, dict]]:
    """Train ``encoder`` for as long as the caller asks for more.

    Args:
        encoder: changed in place.
        config: its ``training.precision`` is a dtype's name.
        directory: usable utterances with durations.
        place: steps so far -> the place in the schedules, in epochs.
        schedule_free: around the configuration's optimizer, which should have no momentum and a constant rate.
        init: the folder of a model to start from, encoder and head.

    Yields:
        After each step: steps and seconds so far (what the caller does in between does not count), and the
        step's record.

    Raises:
        SpkverError: too few speakers for a batch, audio that cannot be read, steps that are not finite, a model
            that does not fit the configuration.
    """
    dataset = SpeakerCrops(
        directory,
        config.data.sample_rate,
        config.data.crop_seconds,
        config.augment,
        config.seed,
        config.data.cache_gigabytes,
    )
    sampler = SpeakerBatchSampler(dataset.labels, config.batch.speakers, config.batch.utterances, config.seed)
    cpu = torch.device("cpu")
    loader = build_loader(dataset, sampler, Augmenter(dataset.draws, cpu), workers=1, prefetch=2)
    encoder.to(memory_format=torch.channels_last)
    head = build_head(config.head, encoder.embed_dim, dataset.n_classes)
    if init is not None:
        start_from(init, encoder, head, directory, config)
    dtype = getattr(torch, config.training.precision)
    step = TrainingStep(config, encoder, head, cpu, dtype, Path(__file__).parent)
    if schedule_free:
        step.optimizer = ScheduleFree(step.optimizer)
    n_steps, seconds = 0, 0.0
    before = time.monotonic()
    with Batches(loader) as batches:
        for epoch in count():
            sampler.set_epoch(epoch)
            for batch in batches:
                at = place(n_steps)
                encoder.train()
                record = step(batch, int(at), int(at % 1 * _PARTS), _PARTS)
                n_steps += 1
                seconds += time.monotonic() - before
                with step.optimizer.mean_in_place() if schedule_free else nullcontext():
                    yield n_steps, seconds, record
                before = time.monotonic()
