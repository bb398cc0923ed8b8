"""A recording as a lossy codec at a low rate leaves it: encoded and decoded in memory, by libsndfile."""

import io
from typing import Literal, NamedTuple

import numpy as np
import soundfile

from spkver.data.resampling import resample_ratio, resample_up_down

_STEPS = 32768
# What libsndfile takes of each, and the rate that others are brought to.
_RATES = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
_NEXT_BEST_RATE = 48000
# LAME's delay and that of a decoder: what an MP3 begins with where its first frame, at the lowest rates, is too small
# to hold the header that has decoders leave it out.
_MP3_DELAY = 576 + 529
# libsndfile refuses the last level of MP3, the lowest rate.
_HIGHEST_LEVEL = 0.99


class Codec(NamedTuple):
    """A format and its rate."""

    name: Literal["opus", "mp3"]
    kbit_per_second: float


def through_codec(samples: np.ndarray, sample_rate: int, codec: Codec) -> np.ndarray:
    """Encode and decode ``(n_samples,)``; length, timing and type (float32, or int16) stay.

    Opus keeps to the rate on average; of MP3, whose rates are fixed (8, 16, 24, 32, .. kbit/s at 16 kHz), the nearest
    is taken. At rates that the codec does not know samples go through it at 48 kHz.
    """
    rate = sample_rate if sample_rate in _RATES[codec.name] else _NEXT_BEST_RATE
    floats = samples / np.float32(_STEPS) if samples.dtype == np.int16 else samples
    floats = resample_up_down(floats, *resample_ratio(sample_rate, rate))
    decoded = _through(np.clip(floats, -1, 1), rate, codec)
    decoded = resample_up_down(decoded, *resample_ratio(rate, sample_rate))[: len(samples)]
    if samples.dtype == np.int16:
        return np.clip(np.rint(decoded * _STEPS), -_STEPS, _STEPS - 1).astype(np.int16)
    return decoded


def _through(samples: np.ndarray, rate: int, codec: Codec) -> np.ndarray:
    file = io.BytesIO()
    if codec.name == "opus":
        soundfile.write(file, samples, rate, "OPUS", format="OGG", compression_level=_level(codec, 6, 256))
    else:
        level = _level(codec, *_mp3_range(rate))
        kind = {"compression_level": level, "bitrate_mode": "CONSTANT"}
        soundfile.write(file, samples, rate, "MPEG_LAYER_III", format="MP3", **kind)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32")
    late = _MP3_DELAY if codec.name == "mp3" and len(decoded) > len(samples) else 0
    return decoded[late : late + len(samples)]


def _level(codec: Codec, lowest: int, highest: int) -> float:
    """libsndfile's compression level, which goes linearly from the highest rate (0) to the lowest (1)."""
    return float(np.clip((highest - codec.kbit_per_second) / (highest - lowest), 0, _HIGHEST_LEVEL))


def _mp3_range(rate: int) -> tuple[int, int]:
    """The rates in kbit/s that libsndfile's levels span for MPEG-1, MPEG-2 and MPEG-2.5."""
    if rate >= 32000:
        return 32, 320
    return (8, 160) if rate >= 16000 else (8, 64)
