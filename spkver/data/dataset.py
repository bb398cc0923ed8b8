"""Training speakers as batches of waveform crops, read by data workers.

Speeds and formant factors make new speakers. The labels are variant-major (all speakers as
recorded, then all of the second variant, ...), so a head's first ``n_speakers`` classes are the recorded
voices and fine-tuning without variants just cuts the rest off.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from spkver.config.schema import Augment
from spkver.data.audio import AudioError, is_16_bit_audio, read_audio, wrap_to
from spkver.data.augment_draws import AugmentDraws
from spkver.data.codec import through_codec
from spkver.data.crop_batch import Crop, CropBatch, as_16_bit, as_float32, joined
from spkver.data.directory import DataDirectory
from spkver.data.machine import one_torch_thread
from spkver.data.sampler import Draw
from spkver.data.shared_memory import pack, shared_zeros
from spkver.data.variants import variants_of
from spkver.errors import SpkverError


class WaveformCache:
    """Decoded utterances in memory that all data workers share, each sample bit for bit as it was read.

    An utterance is decoded when it is first asked for. Two workers that meet on one write the same
    bytes, so there is no lock; that it is there is written last.

    Args:
        n_samples: of each utterance.
        is_16_bit: of each, whether its samples are whole steps of 16 bits, which need half of the memory.

    Raises:
        OSError: there is not so much memory.
    """

    def __init__(self, n_samples: Sequence[int], is_16_bit: Sequence[bool]):
        self._n_samples, self._is_16_bit = n_samples, is_16_bit
        self._starts = np.concatenate([[0], np.cumsum([*map(_room, n_samples, is_16_bit)])])
        self._bytes = shared_zeros(int(self._starts[-1]), torch.uint8)
        self._is_there = shared_zeros(len(n_samples), torch.bool)

    def get(self, index: int, start: int, end: int) -> np.ndarray | None:
        """Samples ``start`` to ``end`` of an utterance, int16 or float32, or None when it was not put here yet."""
        return self._samples(index)[start:end] if self._is_there[index] else None

    def put(self, index: int, samples: np.ndarray) -> None:
        """Keep an utterance ``(n_samples,)``; one that cannot be given back exactly is not kept."""
        if len(samples) != self._n_samples[index]:
            return
        if self._is_16_bit[index]:
            samples = as_16_bit(samples)
            if samples.dtype != np.int16:
                return
        self._samples(index)[:] = samples
        self._is_there[index] = True

    def _samples(self, index: int) -> np.ndarray:
        start = int(self._starts[index])
        kind = np.int16 if self._is_16_bit[index] else np.float32
        n_bytes = self._n_samples[index] * np.dtype(kind).itemsize
        return self._bytes[start : start + n_bytes].numpy().view(kind)


def _room(n_samples: int, is_16_bit: bool) -> int:
    """Bytes that an utterance takes in the cache: whole float32 samples, as those must lie at multiples of 4."""
    return -(-n_samples // 2) * 4 if is_16_bit else n_samples * 4


class SpeakerCrops(Dataset):
    """Random crops of utterances with augmentation; an item is an utterance in a variant.

    A variant is a speed and a formant factor; `spkver.data.augment` applies the former, the features the latter. Item
    ``i`` is utterance ``i % n_utterances`` in variant ``i // n_utterances``. What ``dataset[draw]`` gives depends only
    on the seed and on the draw's (item, epoch, step, slot).

    Args:
        directory: usable training utterances with their durations.
        sample_rate: Hz.
        crop_seconds: length of every crop; shorter utterances are repeated.
        augment: the configuration's section (``speed_factors``, ``formant_factors``, ``noise``, ...).
        seed: of crops and augmentation.
        cache_gigabytes: decoded audio is kept in memory where all of it fits in this. Files of 16 bits at
            ``sample_rate`` with one channel take 2 bytes a sample, others 4. Crops do not depend on it.
    """

    def __init__(
        self,
        directory: DataDirectory,
        sample_rate: int,
        crop_seconds: float,
        augment: Augment,
        seed: int,
        cache_gigabytes: float,
    ):
        self.utterances = directory.utterances
        self.speakers = directory.speakers
        self.sample_rate = sample_rate
        self.crop_samples = round(crop_seconds * sample_rate)
        # (speed, which of the formant factors); the first is the voice as recorded.
        places = {formant_factor: place for place, formant_factor in enumerate(augment.formant_factors)}
        self.variants = [(factor, places[formant_factor]) for factor, formant_factor in variants_of(augment)]
        self.seed = seed
        self._speaker_index = self.utterances.speaker_index
        # Where a crop starts follows from these, with the cache and without it.
        self._n_samples = np.rint(self.utterances.seconds * sample_rate).astype(np.int64)
        self._cache = self._build_cache(cache_gigabytes * 1e9)
        if augment.babble.probability > 0 and len(self.speakers) < 2:
            raise SpkverError(
                f"{directory.path}: babble is speech of other training speakers, and there is only one, "
                f"'{self.speakers[0]}'; set augment.babble.probability=0, or add speakers"
            )
        self.draws = AugmentDraws(augment, sample_rate, self.crop_samples, self._draw_voice)

    @property
    def labels(self) -> np.ndarray:
        """Speaker index of each item, int32; variant-major."""
        return np.concatenate([self._speaker_index + turn * len(self.speakers) for turn in range(len(self.variants))])

    @property
    def n_classes(self) -> int:
        """Speakers, each variant counted as speakers of its own."""
        return len(self.speakers) * len(self.variants)

    def __len__(self) -> int:
        return len(self.utterances) * len(self.variants)

    def __getitem__(self, draw: Draw) -> Crop | SpkverError:
        """What the crop is cut from, and all that was drawn for it.

        A file that fails is returned as the error: one raised in a worker process would reach the user as a traceback.
        """
        rng = np.random.default_rng([self.seed, draw.epoch, draw.step, draw.slot])
        turn, index = divmod(draw.item, len(self.utterances))
        utterance = self.utterances[index]
        try:
            factor, formant = self.variants[turn]
            wanted = int(np.ceil(self.crop_samples * factor)) + 1
            samples = wrap_to(self._read(index, wanted, rng.random()), wanted)
            drawn = self.draws(rng, utterance.speaker)
            if drawn.codec is not None:
                samples = through_codec(samples, self.sample_rate, drawn.codec)
        except SpkverError as error:
            return error
        except OSError as error:
            return SpkverError(f"{error.filename or utterance.path}: cannot be read ({error.strerror or error})")
        except MemoryError:
            return SpkverError(
                f"{utterance.path}: no memory is left to read it; lower data.workers or data.cache_gigabytes"
            )
        label = int(self._speaker_index[index]) + turn * len(self.speakers)
        return Crop(samples, label, formant, factor, drawn)

    def _build_cache(self, max_bytes: float) -> WaveformCache | None:
        """The cache, if all audio fits in it and in the memory."""
        if 2 * int(self._n_samples.sum()) > max_bytes:
            return None  # so much it takes at least; the files need not be asked
        is_16_bit = [is_16_bit_audio(utterance.path, self.sample_rate) for utterance in self.utterances]
        n_bytes = sum(map(_room, self._n_samples, is_16_bit))
        if n_bytes > max_bytes:
            return None
        try:
            return WaveformCache(self._n_samples, is_16_bit)
        except OSError as error:
            print(
                f"{n_bytes / 1e9:.1f} GB of memory for decoded audio are not there ({error}): every crop is read from "
                "its file, which is slower",
                file=sys.stderr,
            )
            return None

    def _read(self, index: int, n_samples: int, position: float) -> np.ndarray:
        """At most ``n_samples`` of an utterance; ``position`` in [0, 1) says where."""
        path, rate = self.utterances[index].path, self.sample_rate
        start = int(position * max(int(self._n_samples[index]) - n_samples + 1, 1))
        if self._cache is None:
            return read_audio(path, rate, start / rate, n_samples / rate)
        samples = self._cache.get(index, start, start + n_samples)
        if samples is not None:
            return samples
        whole = read_audio(path, rate)
        self._cache.put(index, whole)
        if start >= len(whole):
            raise AudioError(f"{path}: shorter than when the data was surveyed; delete utt2dur beside wav.scp", "empty")
        return whole[start : start + n_samples]

    def _draw_voice(self, rng: np.random.Generator, n_samples: int, not_speaker: str) -> np.ndarray:
        """A crop of another speaker, for babble."""
        while True:
            index = int(rng.integers(len(self.utterances)))
            if self.utterances[index].speaker != not_speaker:
                return wrap_to(as_float32(self._read(index, n_samples, rng.random())), n_samples)


class Collate:
    """Makes a batch of items, or gives back the first error among them.

    What a data worker sends, or what goes to another device, is packed.

    Args:
        crop_samples: length of the crops.
        augmenter: applied here, by one thread; None: it will be elsewhere, and the batch is a `CropBatch`.
    """

    def __init__(self, crop_samples: int, augmenter: Callable[[CropBatch], Any] | None):
        self.crop_samples = crop_samples
        self.augmenter = augmenter

    def __call__(self, items: Sequence[Crop | SpkverError]) -> Any:
        crops = []
        for item in items:
            if isinstance(item, SpkverError):
                return item
            crops.append(item)
        if self.augmenter is None:
            return pack(joined([crop._replace(samples=as_16_bit(crop.samples)) for crop in crops], self.crop_samples))
        with one_torch_thread():  # as in a data worker: sums by several threads may round otherwise
            batch = self.augmenter(joined(crops, self.crop_samples))
        return batch if get_worker_info() is None else pack(batch)
