"""Samples from one rate to another, so that a part of a recording is resampled bit for bit as the whole.

No library's resampler (soxr, scipy, torchaudio) is used, as none promises that: a crop would not hold the samples of
its file. Two ways, chosen by the ratio of the rates.

- The usual ratios are matrix products, several times as fast as a polyphase filter: so many neighbouring samples of
  the output depend on a window of the input in the same way wherever they lie. The products are always of the same
  size and lie on one grid from the recording's start, as a BLAS may round products of other sizes differently.
- For the rest (22,051 to 16,000 Hz) that matrix would be gigabytes: each output sample is the sum over its own window,
  with weights from a finely sampled filter.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache

import numpy as np
import torch

from spkver.errors import SpkverError

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
"""Sample rates in Hz that are taken: below there is no speech left, above are damaged headers."""

# Of the filter: zero crossings on each side, cut-off relative to the lower Nyquist frequency, Kaiser's beta.
_ZERO_CROSSINGS = 16
_ROLL_OFF = 0.95
_BETA = 6.5
# Of the matrix products: least number of output samples a window, least number of windows and about how many output
# samples a product, and the most weights, which all ratios of the customary rates stay below.
_LEAST_AT_ONCE = 32
_LEAST_ROWS = 16
_OUTPUTS_A_PRODUCT = 2560
_MOST_WEIGHTS = 1 << 19
# Of the other way: points of the filter between two zero crossings (linear interpolation is right to 3e-7), and
# how many weights are laid out at once.
_POINTS = 2048
_WEIGHTS_AT_ONCE = 1 << 18


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample ``(n,)`` from ``from_rate`` to ``to_rate`` Hz: ``(ceil(n to_rate / from_rate),)`` float32.

    Raises:
        SpkverError: ``from_rate`` is not within `LOWEST_RATE` and `HIGHEST_RATE`.
    """
    check_rate(from_rate, "samples")
    return resample_up_down(samples, *resample_ratio(from_rate, to_rate))


def check_rate(rate: float, name: object, error: Callable[[str], SpkverError] = SpkverError) -> None:
    """Raise ``error`` for ``name`` where a sample rate in Hz is none that audio of speech can have."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise error(
            f"{name}: a sample rate of {rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE} Hz, resample or repair it"
        )


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play ``(n_samples,)`` faster by ``factor``: ``n_samples / factor`` samples, pitch and formants higher.

    Speed perturbation (Ko et al., "Audio augmentation for speech recognition", Interspeech 2015) by
    rational resampling; the factor is taken to the nearest fraction with a denominator up to 100.

    Raises:
        ValueError: a factor that is not positive.
    """
    return resample_up_down(samples, *speed_ratio(factor))


@lru_cache(maxsize=64)
def speed_ratio(factor: float) -> tuple[int, int]:
    """The smallest integers ``(up, down)`` by which samples are played faster by ``factor``, see `speed`."""
    ratio = Fraction(factor).limit_denominator(100)
    if ratio <= 0:
        raise ValueError(f"factor must be positive, got {factor}")
    return ratio.denominator, ratio.numerator


def resample_ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    """``(up, down)`` in lowest terms."""
    ratio = Fraction(to_rate, from_rate)
    return ratio.numerator, ratio.denominator


def resample_margin(up: int, down: int) -> int:
    """Frames on either side that a resampled sample depends on."""
    return 0 if up == down else _ZERO_CROSSINGS * max(up, down) // up + 1


def resample_grid(up: int, down: int) -> int:
    """A part that begins at a multiple of so many frames is resampled bit for bit as the whole, but for its edges."""
    if up == down or not _by_products(up, down):
        return down
    return _n_rows(up) * _n_periods(up) * down


def resample_up_down(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    """``(n,)`` to ``(ceil(n up / down),)`` by a polyphase filter, float32.

    As ``scipy.signal.resample_poly`` with the taps of `low_pass`.
    """
    if up == down:
        return samples.astype(np.float32, copy=False)
    return _resample_by_products(samples, up, down) if _by_products(up, down) else _resample_by_sums(samples, up, down)


def _by_products(up: int, down: int) -> bool:
    return up * down <= _MOST_WEIGHTS


def _n_periods(up: int) -> int:
    """By how many times ``up`` output samples a window yields."""
    return -(-_LEAST_AT_ONCE // up)


def _n_rows(up: int) -> int:
    """Windows of one matrix product."""
    return max(_OUTPUTS_A_PRODUCT // (up * _n_periods(up)), _LEAST_ROWS)


def _resample_by_products(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    weights, before, step = window_weights(up, down)
    width, at_once = weights.shape
    n, n_out, n_rows = len(samples), -(-len(samples) * up // down), _n_rows(up)
    n_products = -(-n_out // (at_once * n_rows))
    padded = torch.zeros(max((n_products * n_rows - 1) * step + width, before + n))
    padded.numpy()[before : before + n] = samples
    windows = padded.as_strided((n_products, n_rows, width), (n_rows * step, step, 1))
    out = torch.empty(n_products, n_rows, at_once)
    laid_out = torch.empty(n_rows, width)
    for piece, into in zip(windows, out):
        torch.matmul(laid_out.copy_(piece), weights, out=into)
    return out.flatten()[:n_out].numpy()


@lru_cache(maxsize=64)
def window_weights(up: int, down: int) -> tuple[torch.Tensor, int, int]:
    """How ``at_once`` neighbouring output samples depend on the input; kept, as it costs more than a crop's filtering.

    Returns:
        Their weights of a window's samples ``(width, at_once)``; by how many samples the window begins before the first
        one's place; by how many samples the next window begins later.
    """
    periods = _n_periods(up)
    taps = up * low_pass(up, down)
    half = len(taps) // 2
    before = half // up
    width = before + 1 + (half + (up * periods - 1) * down) // up
    tap = half + np.arange(up * periods) * down + (before - np.arange(width)[:, None]) * up
    inside = (tap >= 0) & (tap < len(taps))
    weights = np.where(inside, taps[np.where(inside, tap, 0)], 0.0).astype(np.float32)
    return torch.from_numpy(weights), before, periods * down


def resample_batch(samples: torch.Tensor, up: int, down: int) -> torch.Tensor:
    """Each row of ``(batch, n)`` float32 as `resample_up_down` has it, on its device: ``(batch, ceil(n up / down))``.

    Raises:
        SpkverError: a ratio that takes too large a matrix, see `can_resample_batch`.
    """
    if up == down:
        return samples
    if not can_resample_batch(up, down):
        raise SpkverError(f"batches cannot be resampled by {up}/{down}")
    weights, before, step = _weights_on(samples.device, up, down)
    width, at_once = weights.shape
    n_out = -(-samples.shape[1] * up // down)
    n_windows = -(-n_out // at_once)
    after = (n_windows - 1) * step + width - before - samples.shape[1]
    windows = torch.nn.functional.pad(samples, (before, max(after, 0))).unfold(1, width, step)[:, :n_windows]
    return (windows @ weights).flatten(1)[:, :n_out]


def can_resample_batch(up: int, down: int) -> bool:
    """Whether `resample_batch` takes this ratio: that of customary rates, and any speed."""
    return up == down or _by_products(up, down)


@lru_cache(maxsize=64)
def _weights_on(device: torch.device, up: int, down: int) -> tuple[torch.Tensor, int, int]:
    weights, before, step = window_weights(up, down)
    return weights.to(device), before, step


def low_pass(up: int, down: int) -> np.ndarray:
    """The taps that ``resample_up_down`` filters by: linear-phase Kaiser, about 65 dB of rejection."""
    widest = max(up, down)
    return windowed_sinc(_ZERO_CROSSINGS * widest, _ROLL_OFF / widest).astype(np.float32)


def windowed_sinc(half: int, cutoff: float) -> np.ndarray:
    """(2 * half + 1,) taps of a low-pass filter of gain 1, as of ``scipy.signal.firwin`` with a Kaiser window.

    That module takes a second to import, which every command would wait for.

    Args:
        half: taps on each side of the middle.
        cutoff: as a share of half the sample rate.
    """
    taps = np.sinc(cutoff * np.arange(-half, half + 1)) * np.kaiser(2 * half + 1, _BETA)
    return taps / taps.sum()


def _resample_by_sums(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    weights = _phase_weights(up, down)
    n_taps = weights.shape[1]
    n, n_out = len(samples), -(-len(samples) * up // down)
    padded = np.zeros(n + 2 * n_taps, np.float32)
    padded[n_taps // 2 : n_taps // 2 + n] = samples
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_taps)
    out = np.empty(n_out, np.float32)
    n_rows = max(_WEIGHTS_AT_ONCE // n_taps, 1)
    for first in range(0, n_out, n_rows):
        place, phase = np.divmod(np.arange(first, min(first + n_rows, n_out)) * down, up)
        out[first : first + n_rows] = (windows[place] * weights[phase]).sum(1)
    return out


@lru_cache(maxsize=2)
def _phase_weights(up: int, down: int) -> np.ndarray:
    """For each of the ``up`` places that an output sample can have between two frames, its weights ``(up, n_taps)``."""
    widest = max(up, down)
    half = resample_margin(up, down)
    taps = np.zeros((2 * half + 1) * up, np.float32)
    middle, last = half * up, _ZERO_CROSSINGS * widest
    for first in range(0, last + 1, _WEIGHTS_AT_ONCE):
        away = np.arange(first, min(first + _WEIGHTS_AT_ONCE, last + 1))
        taps[middle + away] = np.interp(away / widest, *_sampled_filter()) * (up / widest)
    taps[middle - last : middle] = taps[middle + last : middle : -1]
    return np.ascontiguousarray(taps.reshape(-1, up)[::-1].T)


@lru_cache(maxsize=1)
def _sampled_filter() -> tuple[np.ndarray, np.ndarray]:
    """The right half of the filter of `low_pass`, of area 1 in all: distances in zero crossings, and heights."""
    n_points = _ZERO_CROSSINGS * _POINTS
    taps = windowed_sinc(n_points, _ROLL_OFF / _POINTS)
    return np.arange(n_points + 1) / _POINTS, _POINTS * taps[n_points:]
