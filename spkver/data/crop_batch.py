"""A batch on its way from the data worker that read it to where it is augmented: crops as recorded, and what was drawn.

It goes from process to process and to a GPU, so it is small: 16-bit samples where the files have no more, and places
only of the noises and rooms that are kept where it goes. What one operation needs lies together: which rows of the
batch it changes, and its values for each. Tensors go to the device; numbers and lists steer the process that augments.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spkver.data.augment_draws import Drawn
from spkver.data.recordings import Place, Wave

STEPS = 32768
"""Of 16 bits in full scale: what libsndfile divides integers by."""


class Crop(NamedTuple):
    """An item of a batch: `samples` ``(n_samples,)`` as recorded, as many as the crop needs at its speed.

    They are float32, or int16 steps of 1 / `STEPS`; `formant` says which of the formant factors.
    """

    samples: np.ndarray
    label: int
    formant: int
    speed_factor: float
    drawn: Drawn


class AtSpeed(NamedTuple):
    """Crops ``(n_rows, n_samples)``, float32 or int16, that are played faster by one factor."""

    rows: Tensor
    samples: Tensor
    factor: float


class Kept(NamedTuple):
    """Rows that take samples of a recording that is kept: where each begins among those, and how many ``(n_rows,)``."""

    rows: Tensor
    begins: list[int]
    lengths: Tensor
    longest: int


class Sent(NamedTuple):
    """Rows that take samples ``(n_rows, n_samples)``, and where each of these has its peak."""

    rows: Tensor
    samples: Tensor
    peaks: list[int]


class Clipped(NamedTuple):
    """Rows of which so many samples are clipped, ``(n_rows,)``, and the largest of these numbers."""

    rows: Tensor
    counts: Tensor
    most: int


class CropBatch(NamedTuple):
    labels: Tensor
    formants: Tensor
    speeds: list[AtSpeed]
    rooms: list[Kept | Sent]
    added: list[Kept | Sent]
    snr_db: Tensor
    """``(batch,)``, of the rows that something is added to."""
    gain_db: Tensor | None
    """``(batch,)``."""
    clipped: Clipped | None
    telephone: Tensor | None
    """Rows."""


def joined(crops: Sequence[Crop], n_samples: int) -> CropBatch:
    """The batch of crops that will be ``n_samples`` long."""
    drawn = [crop.drawn for crop in crops]
    gains = [each.gain_db or 0.0 for each in drawn]
    shares = {row: each.clipped_share for row, each in enumerate(drawn) if each.clipped_share}
    counts = [max(1, round(share * n_samples)) for share in shares.values()]
    telephone = [row for row, each in enumerate(drawn) if each.telephone]
    return CropBatch(
        torch.tensor([crop.label for crop in crops]),
        torch.tensor([crop.formant for crop in crops]),
        [_at_speed(crops, factor) for factor in sorted({crop.speed_factor for crop in crops})],
        _waves([each.response for each in drawn]),
        _waves([each.added for each in drawn]),
        torch.tensor([each.snr_db for each in drawn]),
        torch.tensor(gains) if any(gains) else None,
        Clipped(_rows(shares), _rows(counts), max(counts)) if counts else None,
        _rows(telephone) if telephone else None,
    )


def _at_speed(crops: Sequence[Crop], factor: float) -> AtSpeed:
    chosen = {row: crop.samples for row, crop in enumerate(crops) if crop.speed_factor == factor}
    if len({samples.dtype for samples in chosen.values()}) > 1:
        chosen = {row: as_float32(samples) for row, samples in chosen.items()}
    return AtSpeed(_rows(chosen), torch.from_numpy(np.stack(list(chosen.values()))), factor)


def _waves(drawn: Sequence[Wave | None]) -> list[Kept | Sent]:
    kept = {row: wave for row, wave in enumerate(drawn) if isinstance(wave, Place)}
    sent = {row: wave for row, wave in enumerate(drawn) if isinstance(wave, np.ndarray)}
    waves: list[Kept | Sent] = []
    if kept:
        lengths = [place.length for place in kept.values()]
        begins = [place.begin for place in kept.values()]
        waves.append(Kept(_rows(kept), begins, _rows(lengths), max(lengths)))
    if sent:
        samples = np.zeros((len(sent), max(map(len, sent.values()))), np.float32)
        for row, wave in zip(samples, sent.values()):
            row[: len(wave)] = wave
        waves.append(Sent(_rows(sent), torch.from_numpy(samples), np.abs(samples).argmax(1).tolist()))
    return waves


def _rows(numbers) -> Tensor:
    return torch.tensor(list(numbers), dtype=torch.int64)


def as_float32(samples: np.ndarray) -> np.ndarray:
    """Samples as float32; an integer is so many steps of 16 bits."""
    return samples.astype(np.float32) / STEPS if samples.dtype == np.int16 else samples


def as_16_bit(samples: np.ndarray) -> np.ndarray:
    """Samples as int16 where they are whole steps of 16 bits, else as they are."""
    if samples.dtype == np.int16:
        return samples
    steps = samples * STEPS
    integers = np.clip(steps, -STEPS, STEPS - 1).astype(np.int16)
    return integers if np.array_equal(integers, steps) else samples
