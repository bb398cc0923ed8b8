"""What is drawn for a crop: a room, noise or babble, how loud, through what it is recorded.

Nothing here keeps a random state: each call is given a ``numpy.random.Generator``, so that the same generator draws the
same in whatever process. What was drawn is applied to whole batches, see `spkver.data.augment`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from spkver.config.schema import Augment
from spkver.data.codec import Codec
from spkver.data.recordings import Recordings, Wave
from spkver.data.simulated_room import simulated_room
from spkver.errors import SpkverError

DrawVoice = Callable[[np.random.Generator, int, str], np.ndarray]
"""``draw(rng, n_samples, not_speaker) -> (n_samples,)``: speech of some other speaker."""


class Drawn(NamedTuple):
    """What is to be done to a crop; None is nothing."""

    response: Wave | None = None
    """Of a room: which of `AugmentDraws.rooms`, or the impulse response itself."""
    added: Wave | None = None
    """Noise or babble, as long as the crop: a place in `AugmentDraws.noises`, or the samples themselves."""
    snr_db: float = 0.0
    gain_db: float | None = None
    clipped_share: float | None = None
    telephone: bool = False
    codec: Codec | None = None


class AugmentDraws:
    """Draws reverberation, then noise or babble (never both), then a recording's faults, each with its probability.

    Args:
        augment: the ``augment`` section of a configuration. Ranges are ``[low, high]``, both included.
        sample_rate: Hz.
        crop_samples: length of a crop.
        draw_voice: where babble takes its voices from.

    Raises:
        SpkverError: noise without a list, a fault of a list, noise and babble that exceed 1 together.
    """

    def __init__(self, augment: Augment, sample_rate: int, crop_samples: int, draw_voice: DrawVoice):
        noise, babble_, reverb = augment.noise, augment.babble, augment.reverb
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
        self.augment = augment
        self.sample_rate = sample_rate
        self.crop_samples = crop_samples
        self.draw_voice = draw_voice
        self.noises = self.rooms = None
        if noise.probability > 0 and noise.list is not None:
            self.noises = Recordings(noise.list, sample_rate, crop_samples)
        if reverb.probability > 0 and reverb.list is not None:
            self.rooms = Recordings(reverb.list, sample_rate)

    def __call__(self, rng: np.random.Generator, speaker: str) -> Drawn:
        """Draw for a crop of ``speaker``.

        Raises:
            SpkverError: a recording cannot be read.
        """
        augment = self.augment
        response = self._response(rng) if rng.random() < augment.reverb.probability else None
        added, snr_db = self._added(rng, speaker)
        return Drawn(
            response,
            added,
            snr_db,
            gain_db=_sometimes(rng, augment.gain.probability, augment.gain.decibels),
            clipped_share=_sometimes(rng, augment.clipping.probability, augment.clipping.share),
            telephone=rng.random() < augment.telephone.probability,
            codec=self._codec(rng),
        )

    def _response(self, rng: np.random.Generator) -> Wave:
        if self.rooms is not None:
            return self.rooms.draw(rng)
        return simulated_room(rng, _within(rng, self.augment.reverb.rt60_seconds), self.sample_rate)

    def _added(self, rng: np.random.Generator, speaker: str) -> tuple[Wave | None, float]:
        """Noise or babble, and how many decibels the speech is above it."""
        noise, babble_ = self.augment.noise, self.augment.babble
        kind = rng.random()
        if self.noises is not None and kind < noise.probability:
            return self.noises.draw_crop(rng), _within(rng, noise.snr_db)
        if kind < noise.probability + babble_.probability:
            crowd = babble(rng, self.crop_samples, speaker, self.draw_voice, babble_.voices)
            return crowd, _within(rng, babble_.snr_db)
        return None, 0.0

    def _codec(self, rng: np.random.Generator) -> Codec | None:
        codec = self.augment.codec
        name = codec.formats[rng.integers(len(codec.formats))]
        rate = _sometimes(rng, codec.probability, codec.kbit_per_second)
        return None if rate is None else Codec(name, rate)


def _sometimes(rng: np.random.Generator, probability: float, ends: Sequence[float]) -> float | None:
    """A value within ``ends`` with a probability; as many random numbers are used up either way."""
    share, value = rng.random(), _within(rng, ends)
    return value if share < probability else None


def _within(rng: np.random.Generator, ends: Sequence[float]) -> float:
    low, high = ends
    return rng.uniform(low, high)


def babble(
    rng: np.random.Generator, n_samples: int, speaker: str, draw_voice: DrawVoice, voices: Sequence[int]
) -> np.ndarray:
    """The sum ``(n_samples,)`` of ``voices[0]`` to ``voices[1]`` voices that are not ``speaker``'s."""
    count = rng.integers(voices[0], voices[1], endpoint=True)
    return np.stack([draw_voice(rng, n_samples, speaker) for _ in range(count)]).sum(axis=0, dtype=np.float32)
