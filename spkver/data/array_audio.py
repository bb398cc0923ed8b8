"""Samples in whatever array they come, as mono float32: numpy, torch, lists of floats.

What cannot be told for sure is refused by name: numbers of an unknown full scale (64-bit integers), and shapes whose
channels could be either dimension.
"""

import numbers
import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from spkver.errors import SpkverError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

# Values of full scale and of silence.
_INTEGERS = {"int16": (2.0**15, 0.0), "int32": (2.0**31, 0.0), "uint8": (2.0**7, 2.0**7)}
_MOST_CHANNELS = 64
_LARGEST_RATE = 1e9
_EXPECTED = (
    "expected a path, or samples (n_samples,), (n_samples, n_channels) or (n_channels, n_samples) as an array or a "
    "tensor of floating point, int16, int32 or uint8"
)


def is_path(audio: object) -> "TypeIs[str | os.PathLike[str]]":
    """Whether audio is named by a path rather than given."""
    return isinstance(audio, str | os.PathLike)


def mono_samples(audio) -> np.ndarray:
    """Samples as mono float32, full scale at 1.

    Args:
        audio: a numpy array, a torch tensor on any device, or a list of floats; ``(n_samples,)``,
            ``(n_samples, n_channels)`` or ``(n_channels, n_samples)``: the shorter of two dimensions has the
            channels, which are averaged. Floating point in [-1, 1], or integers of 16 or 32 bits of their full range,
            or of 8 bits without sign, where 128 is silence.

    Returns:
        (n_samples,) float32.

    Raises:
        SpkverError: it is anything else; the message says what.
    """
    samples = _array(audio)
    if samples.dtype.name in _INTEGERS:
        full, silence = _INTEGERS[samples.dtype.name]
        if samples.dtype.name == "int32" and samples.any() and np.abs(samples.astype(np.int64)).max() <= 2**15:
            raise SpkverError("samples of type int32 whose values are those of 16 bits; give them as int16")
        samples = (samples.astype(np.float64) - silence) / full
    elif samples.dtype.kind != "f":
        hint = "; divide by the full scale of the recording" if samples.dtype.kind in "iu" else ""
        raise SpkverError(f"samples of type {samples.dtype}: {_EXPECTED}{hint}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        return _mono(samples).astype(np.float32)


def checked_rate(sample_rate) -> int:
    """A sample rate as an integer.

    Raises:
        SpkverError: it is no whole number of Hz above 0.
    """
    is_number = isinstance(sample_rate, numbers.Real) and not isinstance(sample_rate, bool | np.bool_)
    if not is_number or not 0 < sample_rate < _LARGEST_RATE or sample_rate != int(sample_rate):
        raise SpkverError(f"sample_rate must be a whole number of Hz above 0, got {shown(sample_rate)}")
    return int(sample_rate)


def _array(audio) -> np.ndarray:
    if isinstance(audio, torch.Tensor):
        audio = audio.detach().cpu()
        return (audio.float() if audio.dtype == torch.bfloat16 else audio).resolve_conj().resolve_neg().numpy()
    if isinstance(audio, tuple):
        raise SpkverError(f"a tuple: {_EXPECTED}; the sample rate is an argument of its own, sample_rate")
    if not isinstance(audio, np.ndarray | list) and not hasattr(audio, "__array__"):
        raise SpkverError(f"{shown(audio)}: {_EXPECTED}")
    try:
        return np.asarray(audio)
    except Exception:  # whatever a list of anything, or an object's own conversion, raises
        raise SpkverError(f"a {type(audio).__name__} that makes no array of numbers: {_EXPECTED}") from None


def _mono(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 1 or (samples.ndim == 2 and samples.size == 0):
        return samples.reshape(-1)
    if samples.ndim != 2:
        raise SpkverError(f"samples of shape {samples.shape}: {_EXPECTED}")
    few, many = sorted(samples.shape)
    if few == many or few > _MOST_CHANNELS:
        raise SpkverError(f"samples of shape {samples.shape}: which of the two are channels is not clear; {_EXPECTED}")
    return samples.mean(int(samples.shape[0] > samples.shape[1]), dtype=np.float64)


def shown(value) -> str:
    """A wrong argument in a few characters."""
    kind = type(value).__name__
    if value is None:
        return "None"
    if isinstance(value, str):
        return f"{value[:50]!r} (str)"
    is_number = isinstance(value, numbers.Number)
    is_short = isinstance(value, float) or (is_number and abs(value) < _LARGEST_RATE)
    return f"{value!r} ({kind})" if is_short else f"a {kind}"
