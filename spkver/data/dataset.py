"""Training speakers as batches of waveform crops.

Notable: speeds and formant factors make new speakers. The labels are variant-major (all speakers as
recorded, then all of the second variant, ...), so a head's first ``n_speakers`` classes are the recorded
voices and fine-tuning without variants just cuts the rest off.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from spkver.data.audio import check_samples, read_audio, speed, wrap_to
from spkver.data.augment import Augmenter
from spkver.data.directory import DataDirectory
from spkver.data.sampler import Draw
from spkver.data.shared_memory import Piped, ready_to_send, shared_zeros
from spkver.errors import SpkverError
from spkver.views import voices_of

_INT16 = 32767.0


class WaveformCache:
    """Decoded utterances as 16-bit samples in memory that all data workers share.

    An utterance is decoded when it is first asked for. Two workers that meet on one write the same
    bytes, so there is no lock; the length is written last and tells that the samples are there.

    Args:
        n_samples: room for each utterance.

    Raises:
        OSError: there is not so much memory.
    """

    def __init__(self, n_samples: Sequence[int]):
        self._starts = np.concatenate([[0], np.cumsum(n_samples)])
        self._samples = shared_zeros(int(self._starts[-1]), torch.int16)
        self._lengths = shared_zeros(len(n_samples), torch.int64)

    def get(self, index: int) -> np.ndarray | None:
        """The utterance's int16 samples, or None when it was not put here yet."""
        length = int(self._lengths[index])
        start = self._starts[index]
        return self._samples[start : start + length].numpy() if length else None

    def put(self, index: int, samples: np.ndarray) -> np.ndarray:
        """Keep float samples of an utterance; returns them as int16, as ``get`` will."""
        start, end = self._starts[index : index + 2]
        samples = np.round(np.clip(samples[: end - start], -1, 1) * _INT16).astype(np.int16)
        self._samples[start : start + len(samples)] = torch.from_numpy(samples)
        self._lengths[index] = len(samples)
        return samples


class SpeakerCrops(Dataset):
    """Random crops of utterances with augmentation; an item is an utterance in a variant.

    A variant is a speed and a formant factor; the features apply the latter. Item ``i`` is utterance
    ``i % n_utterances`` in variant ``i // n_utterances``. What ``dataset[draw]``
    gives depends only on the seed and on the draw's (item, epoch, step, slot).

    Args:
        directory: usable training utterances with their durations.
        sample_rate: Hz.
        crop_seconds: length of every crop; shorter utterances are repeated.
        augment: the configuration's section (``speed_factors``, ``formant_factors``, ``noise``, ...).
        seed: of crops and augmentation.
        cache_gigabytes: decoded audio is kept in memory where all of it fits in this.
    """

    def __init__(
        self,
        directory: DataDirectory,
        sample_rate: int,
        crop_seconds: float,
        augment,
        seed: int,
        cache_gigabytes: float,
    ):
        self.utterances = directory.utterances
        self.speakers = directory.speakers
        self.sample_rate = sample_rate
        self.crop_samples = round(crop_seconds * sample_rate)
        # (speed, which of the formant factors); the first is the voice as recorded.
        places = {formant_factor: place for place, formant_factor in enumerate(augment.formant_factors)}
        self.variants = [(factor, places[formant_factor]) for factor, formant_factor in voices_of(augment)]
        self.seed = seed
        self._speaker_index = {speaker: index for index, speaker in enumerate(self.speakers)}
        self._durations = [directory.durations[utterance.id] for utterance in self.utterances]
        # Resampling may round a length up; a sample more is room enough.
        room = [int(np.ceil(duration * sample_rate)) + 1 for duration in self._durations]
        self._cache = _cache_of(room, cache_gigabytes)
        if augment.babble.probability > 0 and len(self.speakers) < 2:
            raise SpkverError(
                f"{directory.path}: babble is speech of other training speakers, and there is only one, "
                f"'{self.speakers[0]}'; set augment.babble.probability=0, or add speakers"
            )
        self._augmenter = Augmenter(augment, sample_rate, self._draw_voice)

    @property
    def labels(self) -> np.ndarray:
        """Speaker index of each item; variant-major."""
        of_utterances = np.array([self._speaker_index[utterance.speaker] for utterance in self.utterances])
        return np.concatenate([of_utterances + turn * len(self.speakers) for turn in range(len(self.variants))])

    @property
    def n_classes(self) -> int:
        """Speakers, each variant counted as speakers of its own."""
        return len(self.speakers) * len(self.variants)

    def __len__(self) -> int:
        return len(self.utterances) * len(self.variants)

    def __getitem__(self, draw: Draw) -> tuple[np.ndarray, int, int] | SpkverError:
        """The crop ``(n_samples,)`` float32, its label, and the place of its formant factor.

        A file that fails is returned as the error: one raised in a worker process would reach the
        user as a traceback. A crop that is not finite counts as such: no step could use its batch.
        """
        rng = np.random.default_rng([self.seed, draw.epoch, draw.step, draw.slot])
        turn, index = divmod(draw.item, len(self.utterances))
        utterance = self.utterances[index]
        speaker = utterance.speaker
        try:
            factor, formant = self.variants[turn]
            with np.errstate(over="ignore", invalid="ignore"):  # looked for below
                samples = self._crop(index, factor, rng)
                samples = self._augmenter(samples, rng, speaker).astype(np.float32, copy=False)
        except SpkverError as error:
            return error
        except OSError as error:
            return SpkverError(f"{error.filename or utterance.path}: cannot be read ({error.strerror or error})")
        except MemoryError:
            return SpkverError(
                f"{utterance.path}: no memory is left to read it; lower data.workers or data.cache_gigabytes"
            )
        if check_samples(samples) == "non-finite":
            return SpkverError(
                f"{utterance.path}: augmented samples of utterance '{utterance.id}' are not finite: it, or the "
                "noise or room, is far beyond full scale; leave it out"
            )
        label = self._speaker_index[speaker] + turn * len(self.speakers)
        return samples, label, formant

    def _crop(self, index: int, factor: float, rng: np.random.Generator) -> np.ndarray:
        """A random crop at a speed, exactly ``crop_samples`` long."""
        wanted = int(np.ceil(self.crop_samples * factor)) + 1
        samples = self._read(index, wanted, rng.random())
        if factor != 1.0:
            samples = speed(samples, factor)
        return wrap_to(samples, self.crop_samples)

    def _read(self, index: int, n_samples: int, position: float) -> np.ndarray:
        """At most ``n_samples`` of an utterance; ``position`` in [0, 1) says where."""
        path = self.utterances[index].path
        if self._cache is None:
            free = max(self._durations[index] - n_samples / self.sample_rate, 0.0)
            return read_audio(path, self.sample_rate, position * free, n_samples / self.sample_rate)
        samples = self._cache.get(index)
        if samples is None:
            samples = self._cache.put(index, read_audio(path, self.sample_rate))
        start = int(position * max(len(samples) - n_samples + 1, 1))
        return samples[start : start + n_samples].astype(np.float32) / _INT16

    def _draw_voice(self, rng: np.random.Generator, n_samples: int, not_speaker: str) -> np.ndarray:
        """A crop of another speaker, for babble."""
        while True:
            index = int(rng.integers(len(self.utterances)))
            if self.utterances[index].speaker != not_speaker:
                return wrap_to(self._read(index, n_samples, rng.random()), n_samples)


def _cache_of(n_samples: list[int], gigabytes: float) -> WaveformCache | None:
    if 2 * sum(n_samples) > gigabytes * 1e9:
        return None
    try:
        return WaveformCache(n_samples)
    except OSError as error:
        needed = f"{2 * sum(n_samples) / 1e9:.1f} GB of memory for decoded audio"
        print(f"{needed} are not there ({error}): every crop is read from its file, which is slower", file=sys.stderr)
        return None


def collate(items: list) -> tuple[Tensor, Tensor, Tensor] | Piped | SpkverError:
    """Waveforms ``(batch, n_samples)``, labels and formants ``(batch,)``, or the first error among the items.

    A data worker's are ready to be sent to the training process.
    """
    for item in items:
        if isinstance(item, SpkverError):
            return item
    waveforms, labels, formants = zip(*items)
    batch = torch.from_numpy(np.stack(waveforms)), torch.tensor(labels), torch.tensor(formants)
    return batch if get_worker_info() is None else ready_to_send(batch)
