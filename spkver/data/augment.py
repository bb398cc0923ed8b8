"""Waveform augmentation: noise, babble and reverberation, as in the VoxCeleb recipes.

Nothing here keeps a random state: each call is given a ``numpy.random.Generator``, so that the same
generator gives the same crop in whatever process, and whatever was read before. What is kept per
process is audio: at most 256 short files, about 160 MB at 16 kHz.
"""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft

from spkver.config.schema import Augment
from spkver.data.audio import audio_info, read_audio, wrap_to
from spkver.data.directory import read_path_list
from spkver.data.shards import Location
from spkver.errors import SpkverError

DrawVoice = Callable[[np.random.Generator, int, str], np.ndarray]
"""``draw(rng, n_samples, not_speaker) -> (n_samples,)``: speech of some other speaker."""

KEPT_FILES = 256
KEPT_SECONDS = 10.0
"""Longer files (music, street recordings) are not kept: a crop of them is read each time."""

SILENT_POWER = 1e-10
"""Noise below this mean power, a third of a 16-bit step, is silence: scaling it up makes rounding loud."""

DIRECT_TO_REVERBERANT_DB = (0.0, 10.0)
"""Range of the simulated rooms: about half a metre to a few metres from the microphone."""
EARLY_SECONDS = (0.001, 0.05)


class AudioFiles:
    """The files of a ``utt path`` list, to draw random ones from.

    Args:
        list_path: such as a ``wav.scp``; relative paths are relative to its folder.
        sample_rate: Hz.

    Raises:
        SpkverError: a fault of the list, with ``file:line``; on drawing, of a file.
    """

    def __init__(self, list_path: str | os.PathLike[str], sample_rate: int):
        self.paths = list(read_path_list(list_path).values())
        self.sample_rate = sample_rate

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random file, whole: ``(n_samples,)``."""
        return _decoded(self._path(rng), self.sample_rate)

    def draw_crop(self, rng: np.random.Generator, n_samples: int) -> np.ndarray:
        """A random crop ``(n_samples,)`` of a random file, repeated where the file is shorter."""
        path = self._path(rng)
        seconds = _seconds(path)
        start = int(rng.integers(max(1, int(seconds * self.sample_rate) - n_samples + 1)))
        if seconds <= KEPT_SECONDS:
            return wrap_to(_decoded(path, self.sample_rate)[start:], n_samples)
        crop = read_audio(path, self.sample_rate, start / self.sample_rate, n_samples / self.sample_rate)
        return wrap_to(crop, n_samples)

    def _path(self, rng: np.random.Generator) -> Location:
        return self.paths[rng.integers(len(self.paths))]


# One memory for all lists of a process; a member would be lost when a loader sends its object to workers.
@lru_cache(maxsize=KEPT_FILES)
def _decoded(path: Location, sample_rate: int) -> np.ndarray:
    samples = read_audio(path, sample_rate)
    samples.setflags(write=False)
    return samples


@lru_cache(maxsize=100_000)
def _seconds(path: Location) -> float:
    rate, n_frames, _ = audio_info(path)
    return n_frames / rate


def add_at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """``speech + gain * noise``, where the mean power of the speech is ``snr_db`` above that of the noise.

    Both ``(n_samples,)``. Speech comes back as it was when the noise is silent.
    """
    speech_power, noise_power = _power(speech), _power(noise)
    if noise_power < SILENT_POWER:
        return speech
    gain = np.sqrt(speech_power / (noise_power * 10 ** (snr_db / 10)))
    return speech + np.float32(gain) * noise


def babble(
    rng: np.random.Generator, n_samples: int, speaker: str, draw_voice: DrawVoice, voices: Sequence[int]
) -> np.ndarray:
    """The sum ``(n_samples,)`` of ``voices[0]`` to ``voices[1]`` voices that are not ``speaker``'s."""
    count = rng.integers(voices[0], voices[1], endpoint=True)
    return np.stack([draw_voice(rng, n_samples, speaker) for _ in range(count)]).sum(axis=0, dtype=np.float32)


def simulated_room(rng: np.random.Generator, rt60_seconds: float, sample_rate: int) -> np.ndarray:
    """A random room impulse response of ``rt60_seconds``, float32, direct path first with amplitude 1.

    Polack's statistical model ("La transmission de l'énergie sonore dans les salles", 1988): Gaussian
    noise under ``exp(-3 ln(10) t / RT60)``, which is 60 dB down after RT60. It holds once reflections
    overlap, here after 50 ms; before that the same envelope weighs 6 to 12 single reflections of random
    delay and sign, and lets the noise rise linearly. The reverberant energy is scaled to a
    direct-to-reverberant ratio drawn from ``DIRECT_TO_REVERBERANT_DB``; as that is never below 0 dB, the
    direct path is the peak.
    """
    n_samples = max(2, round(rt60_seconds * sample_rate))
    seconds = np.arange(n_samples, dtype=np.float32) / np.float32(sample_rate)
    envelope = np.exp(np.float32(-3 * np.log(10) / rt60_seconds) * seconds)
    late = rng.standard_normal(n_samples, dtype=np.float32) * np.minimum(seconds / EARLY_SECONDS[1], 1)

    n_early = rng.integers(6, 12, endpoint=True)
    delays = (rng.uniform(*EARLY_SECONDS, n_early) * sample_rate).astype(int)
    # A single reflection stands out of the dense ones that follow it.
    strengths = rng.uniform(1.0, 4.0, n_early) * rng.choice([-1.0, 1.0], n_early)
    inside = delays < n_samples
    np.add.at(late, delays[inside], strengths[inside].astype(np.float32))

    response = late * envelope
    response[0] = 0
    ratio = 10 ** (rng.uniform(*DIRECT_TO_REVERBERANT_DB) / 10)
    response *= np.float32(1 / np.sqrt(ratio * max(float(response @ response), 1e-20)))
    response[0] = 1
    return response


def reverberate(speech: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Convolve ``(n_samples,)`` with a room impulse response; length, timing and mean power stay.

    The response's peak, its direct path, is time 0: what comes before it arrives earlier.
    """
    peak = int(np.argmax(np.abs(response)))
    n = next_fast_len(len(speech) + len(response) - 1, real=True)
    wet = irfft(rfft(speech, n) * rfft(response, n), n)[peak : peak + len(speech)]
    power = _power(wet)
    if power < SILENT_POWER:
        return speech
    return (wet * np.sqrt(_power(speech) / power)).astype(np.float32, copy=False)


class Augmenter:
    """Reverberation, then noise or babble (never both), each with its own probability.

    Args:
        augment_config: the ``augment`` section of a configuration: ``noise.probability``, ``noise.list``,
            ``noise.snr_db``; ``babble.probability``, ``babble.voices``, ``babble.snr_db``;
            ``reverb.probability``, ``reverb.list`` (None: rooms are simulated), ``reverb.rt60_seconds``.
            Ranges are ``[low, high]``, both included.
        sample_rate: Hz.
        draw_voice: where babble takes its voices from.

    Raises:
        SpkverError: noise without a list, a fault of a list, noise and babble that exceed 1 together.
        ValueError: babble without ``draw_voice``.
    """

    def __init__(self, augment_config: Augment, sample_rate: int, draw_voice: DrawVoice | None = None):
        noise, babble_, reverb = augment_config.noise, augment_config.babble, augment_config.reverb
        if noise.probability > 0 and noise.list is None:
            raise SpkverError(
                f"augment.noise.probability is {noise.probability:g} but augment.noise.list names no list; "
                "give a `utt path` list of noise files, or set the probability to 0"
            )
        if noise.probability + babble_.probability > 1:
            raise SpkverError(
                f"augment.noise.probability {noise.probability:g} and augment.babble.probability "
                f"{babble_.probability:g} exceed 1 together; a crop gets one of them at most"
            )
        if babble_.probability > 0 and draw_voice is None:
            raise ValueError("draw_voice is needed where babble.probability is above 0")
        self.config = augment_config
        self.sample_rate = sample_rate
        self.draw_voice = draw_voice
        self.noises = AudioFiles(noise.list, sample_rate) if noise.probability > 0 and noise.list is not None else None
        self.rooms = AudioFiles(reverb.list, sample_rate) if reverb.probability > 0 and reverb.list else None

    def __call__(self, samples: np.ndarray, rng: np.random.Generator, speaker: str) -> np.ndarray:
        """Augment a crop ``(n_samples,)`` float32 of ``speaker``; the input is not changed."""
        noise, babble_, reverb = self.config.noise, self.config.babble, self.config.reverb
        if rng.random() < reverb.probability:
            samples = reverberate(samples, self._room(rng))
        kind = rng.random()
        if self.noises is not None and kind < noise.probability:
            crop = self.noises.draw_crop(rng, len(samples))
            return add_at_snr(samples, crop, _within(noise.snr_db, rng))
        if self.draw_voice is not None and kind < noise.probability + babble_.probability:
            crowd = babble(rng, len(samples), speaker, self.draw_voice, babble_.voices)
            return add_at_snr(samples, crowd, _within(babble_.snr_db, rng))
        return samples

    def _room(self, rng: np.random.Generator) -> np.ndarray:
        if self.rooms is not None:
            return self.rooms.draw(rng)
        return simulated_room(rng, _within(self.config.reverb.rt60_seconds, rng), self.sample_rate)


def _within(ends: Sequence[float], rng: np.random.Generator) -> float:
    low, high = ends
    return rng.uniform(low, high)


def _power(samples: np.ndarray) -> float:
    """Mean power, summed in float64: a long crop's float32 sum loses digits."""
    return float(np.mean(np.square(samples, dtype=np.float64)))
