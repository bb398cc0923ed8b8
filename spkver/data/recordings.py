"""Recordings of noise and of rooms, to draw random ones from: read once and kept decoded, as far as they may."""

import os
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spkver.data.audio import audio_info, read_audio, wrap_to
from spkver.data.directory import read_path_list
from spkver.data.shards import Location, stamp


class Place(NamedTuple):
    """Samples of a recording that is kept: where they begin among all that are, and how many."""

    begin: int
    length: int


Wave = Place | np.ndarray
"""Samples ``(n_samples,)``, or where they lie."""


class Recordings:
    """The files of a ``utt path`` list, of which some are `read`, and then drawn as a `Place`.

    Which samples are drawn does not depend on that.

    Args:
        list_path: such as a ``wav.scp``; relative paths are relative to its folder.
        sample_rate: Hz.
        crop_samples: length of the crops that are drawn; shorter recordings are repeated. None: they are drawn whole.

    Raises:
        SpkverError: a fault of the list, with ``file:line``; on reading, of a file.
    """

    def __init__(self, list_path: str | os.PathLike[str], sample_rate: int, crop_samples: int | None = None):
        self.paths = list(read_path_list(list_path).values())
        self.sample_rate = sample_rate
        self.crop_samples = crop_samples
        self.kept: dict[int, Place] = {}
        """Where those lie that are kept, by their number in the list."""

    def read(self, megabytes: float) -> Tensor:
        """Read recordings, small files first, until one does not fit any more.

        Returns:
            ``(n,)`` float32, one recording after another, for the caller to keep; a slice as long as any of them can
            begin at each.
        """
        room = megabytes * 1e6 / 4
        pieces: list[np.ndarray] = []
        end = longest = 0
        for index in sorted(range(len(self.paths)), key=lambda index: stamp(self.paths[index])[0]):
            if end + _seconds(self.paths[index]) * self.sample_rate > room:
                break
            recording = read_audio(self.paths[index], self.sample_rate)
            if self.crop_samples is not None:
                recording = wrap_to(recording, max(self.crop_samples, len(recording)))
            longest = max(longest, len(recording))
            if end + len(recording) + longest > room:
                break
            pieces.append(recording)
            self.kept[index] = Place(end, len(recording))
            end += len(recording)
        return torch.from_numpy(np.concatenate([*pieces, np.zeros(longest if pieces else 0, np.float32)]))

    def draw(self, rng: np.random.Generator) -> Wave:
        """A random recording, whole."""
        index = self._index(rng)
        return self.kept.get(index) or read_audio(self.paths[index], self.sample_rate)

    def draw_crop(self, rng: np.random.Generator) -> Wave:
        """A random crop ``(crop_samples,)`` of a random recording."""
        n_samples, rate = self.crop_samples, self.sample_rate
        assert n_samples is not None
        index = self._index(rng)
        path = self.paths[index]
        start = int(rng.integers(max(1, int(_seconds(path) * rate) - n_samples + 1)))
        if index in self.kept:
            return Place(self.kept[index].begin + start, n_samples)
        return wrap_to(read_audio(path, rate, start / rate, n_samples / rate), n_samples)

    def _index(self, rng: np.random.Generator) -> int:
        return int(rng.integers(len(self.paths)))


# One memory for all lists of a process; data workers begin with what is known when they start.
@lru_cache(maxsize=100_000)
def _seconds(path: Location) -> float:
    rate, n_frames, _ = audio_info(path)
    return n_frames / rate
