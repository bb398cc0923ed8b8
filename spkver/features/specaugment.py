"""SpecAugment: bands of time and of frequency are masked while an encoder trains."""

import torch
from torch import Tensor, nn

from spkver.features.batch_part import drawn


class SpecAugment(nn.Module):
    """Masks bands of time and of frequency, its own for each item, in training mode only.

    D. S. Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech
    Recognition", Interspeech 2019, without time warping. A mask's width is uniform over 0 to the
    maximum, its place uniform over where it fits. Masked values become 0, the mean after
    ``mean_normalise``.

    Args:
        probability: that an item is augmented at all.
        time_masks, time_frames: number of masks over time, and their maximum width in frames.
        freq_masks, freq_bins: number of masks over frequency, and their maximum width in mel bins.
    """

    def __init__(self, probability: float, time_masks: int, time_frames: int, freq_masks: int, freq_bins: int):
        super().__init__()
        self.probability = probability
        self.time_masks = time_masks
        self.time_frames = time_frames
        self.freq_masks = freq_masks
        self.freq_bins = freq_bins

    def forward(self, features: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mask ``features`` (batch, n_frames, n_mels) into a new tensor; in eval mode return it as it is.

        Args:
            generator: draws the masks; the same state gives the same masks.
        """
        if not self.training:
            return features
        batch, n_frames, n_mels = features.shape
        device = features.device if generator is None else generator.device
        chosen = drawn(lambda n: torch.rand(n, 1, 1, generator=generator, device=device), batch) < self.probability
        over_time = _bands(batch, self.time_masks, self.time_frames, n_frames, generator, device)
        over_freq = _bands(batch, self.freq_masks, self.freq_bins, n_mels, generator, device)
        masked = chosen & (over_time[:, :, None] | over_freq[:, None, :])
        return features.masked_fill(masked.to(features.device), 0.0)


def _bands(
    batch: int,
    n_bands: int,
    max_width: int,
    size: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """(batch, size) bool, true in ``n_bands`` random bands an item."""
    both = drawn(lambda n: torch.rand(2, n, n_bands, 1, generator=generator, device=device), batch, dim=1)
    width_draw, start_draw = both
    width = (width_draw * (min(max_width, size) + 1)).floor()
    start = (start_draw * (size - width + 1)).floor()
    position = torch.arange(size, device=device)
    return ((position >= start) & (position < start + width)).any(dim=1)
