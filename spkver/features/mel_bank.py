"""The triangles of a mel filterbank, of the recorded vocal tract or another, and smoothing over its bands."""

import torch
from torch import Tensor

from spkver.errors import SpkverError

# The part of the band that a formant factor stretches evenly: all formants of a voice lie in it.
STRETCHED_SHARE = 0.85


def mel_bank(sample_rate: int, n_fft: int, n_mels: int, low_hz: float, high_hz: float, factor: float) -> Tensor:
    """(n_fft // 2 + 1, n_mels) triangles that are linear in mel (1127 ln(1 + f/700)), as in Kaldi.

    What is recorded at f counts as ``factor * f``.

    Raises:
        SpkverError: edges or a number of bands that give no filterbank.
    """
    if not 0 <= low_hz < high_hz <= sample_rate / 2 or n_mels < 1:
        raise SpkverError(
            f"no filterbank of {n_mels} bins from {low_hz} to {high_hz} Hz at {sample_rate} Hz: "
            f"the edges must rise within 0 to {sample_rate / 2:g} Hz"
        )
    bin_hz = torch.arange(n_fft // 2 + 1, dtype=torch.float64) * (sample_rate / n_fft)
    centres, width = _centres(n_mels, low_hz, high_hz)
    bank = (1 - (_mel(_stretched(bin_hz, factor))[:, None] - centres).abs() / width).clamp_min(0.0)
    return bank.float()


def band_smoothing(n_mels: int, low_hz: float, high_hz: float, deviation_hz: float) -> Tensor:
    """(n_mels, n_mels): values of bands times this are their Gaussian means, each band counting by its width.

    The standard deviation is in Hz, so that it covers many of the narrow low bands and few of the wide high ones.
    """
    hz = 700.0 * torch.expm1(_centres(n_mels, low_hz, high_hz)[0] / 1127.0)
    widths = torch.gradient(hz)[0] if n_mels > 1 else torch.ones_like(hz)
    near = torch.exp(-0.5 * ((hz[:, None] - hz) / deviation_hz).square()) * widths[:, None]
    return (near / near.sum(0)).float()


def _mel(hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(hz / 700.0)


def _centres(n_mels: int, low_hz: float, high_hz: float) -> tuple[Tensor, float]:
    """The peaks of the triangles (n_mels,) and the distance from one to the next, in mel."""
    low, high = _mel(torch.tensor([low_hz, high_hz], dtype=torch.float64)).tolist()
    width = (high - low) / (n_mels + 1)
    return low + width * torch.arange(1, n_mels + 1, dtype=torch.float64), width


def _stretched(hz: Tensor, factor: float) -> Tensor:
    """Frequencies times ``factor``; near the end of the band the axis bends so that the end stays where it is."""
    nyquist = hz[-1]
    bend = STRETCHED_SHARE * nyquist / max(factor, 1.0)
    beyond = factor * bend + (nyquist - factor * bend) / (nyquist - bend) * (hz - bend)
    return torch.where(hz <= bend, factor * hz, beyond)
