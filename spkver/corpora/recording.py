"""What a recording adds to a voice: a room, a microphone, background noise and a level."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve

from spkver.data.simulated_room import simulated_room


def record(speech: np.ndarray, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Make clean speech sound as if recorded somewhere, with some microphone, at random.

    Room: reverberation time 0.1-0.45 s, reflections 4-20 dB under the direct sound.
    Microphone: a smooth gain curve over log frequency (standard deviation 3 dB at 8 points from 60 Hz on).
    Noise: stationary, its spectrum falling by 0-9 dB an octave, 12-32 dB under the speech.
    Level: -34 to -18 dB below full scale (root mean square), less where peaks would clip.

    Args:
        speech: shape ``(n_samples,)``, any level.

    Returns:
        Shape ``(n_samples + 0.3 s,)``: 0.15 s of the background stand before and after the speech; float64 in
        (-1, 1).
    """
    pause = np.zeros(round(0.15 * sample_rate))
    sound = np.concatenate((pause, speech, pause))
    room = simulated_room(rng, rng.uniform(0.1, 0.45), sample_rate, direct_to_reverberant_db=(4, 20))
    sound = fftconvolve(sound, room)[: len(sound)]
    sound = _filtered(sound, sample_rate, _microphone(rng))
    slope = rng.uniform(0, 9)
    noise = _filtered(rng.standard_normal(len(sound)), sample_rate, lambda hz: -slope * np.log2(hz / 60))
    sound = sound / _rms(sound) + 10 ** (-rng.uniform(12, 32) / 20) * noise / _rms(noise)
    sound *= 10 ** (rng.uniform(-34, -18) / 20) / _rms(sound)
    return sound / max(1.0, np.abs(sound).max() / 0.98)


def _microphone(rng: np.random.Generator):
    hz = np.geomspace(60, 8000, 8)
    decibels = rng.normal(0, 3, len(hz))
    return lambda f: np.interp(np.log(f), np.log(hz), decibels)


def _filtered(sound: np.ndarray, sample_rate: int, decibels) -> np.ndarray:
    """Apply a gain in dB that is a function of frequency in Hz; below 30 Hz nothing is left."""
    length = next_fast_len(len(sound), real=True)
    hz = rfftfreq(length, 1 / sample_rate)
    gain = np.where(hz < 30, 0.0, 10 ** (decibels(np.maximum(hz, 30)) / 20))
    return irfft(rfft(sound, length) * gain, length)[: len(sound)]


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound))))
