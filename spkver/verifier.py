"""The Python door: ``spkver.load(model)`` gives an object that embeds and compares voices."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.data.audio import check_samples, read_audio, resample
from spkver.errors import SpkverError
from spkver.extraction import Extractor
from spkver.model_folder import load_model

Audio = str | os.PathLike | np.ndarray


class Verification(NamedTuple):
    """Whether two recordings are of one speaker."""

    score: float  # cosine of the embeddings
    same_speaker: bool  # score >= threshold
    threshold: float


class Verifier:
    """A model that embeds recordings and compares them.

    Args:
        folder: a model folder, such as ``exp/mini/model``.

    Raises:
        SpkverError: there is no model in it.
    """

    def __init__(self, folder: str | os.PathLike):
        model = load_model(folder)
        self.folder = Path(folder)
        self.config = model.config
        self.threshold: float | None = model.run.get("threshold")
        """At the EER among held-out training speakers; None when there were none. Set your own at will."""
        self._extractor = Extractor(model.encoder, model.config)

    def embed(self, audio: Audio, sample_rate: int | None = None) -> np.ndarray:
        """The embedding ``(embed_dim,)`` of a recording: float32, of unit length.

        Args:
            audio: a path, or samples ``(n_samples,)`` or ``(n_samples, n_channels)``: floating point in
                [-1, 1], or integers of their full range.
            sample_rate: of samples, in Hz; None: the model's. A file knows its own.

        Raises:
            SpkverError: the audio is missing, unreadable, empty, silent or not finite.
        """
        if isinstance(audio, str | os.PathLike):
            name, samples = str(audio), read_audio(audio, self._extractor.sample_rate)
        else:
            name, samples = "samples", _mono(np.asarray(audio))
            if sample_rate is not None:
                samples = resample(samples, sample_rate, self._extractor.sample_rate)
        problem = check_samples(samples)
        if problem:
            raise SpkverError(f"{name}: {problem}; nothing to hear a voice in")
        return self._extractor.embed([samples])[0]

    def verify(self, a: Audio, b: Audio, sample_rate: int | None = None) -> Verification:
        """Compare two recordings (paths, or samples as in ``embed``).

        Raises:
            SpkverError: as ``embed``, or the model has no threshold.
        """
        if self.threshold is None:
            raise SpkverError(
                f"{self.folder}: has no threshold, as it was trained without held-out speakers "
                "(data.held_out_speakers); set .threshold, or --threshold in the shell"
            )
        score = float(self.embed(a, sample_rate) @ self.embed(b, sample_rate))
        return Verification(score, score >= self.threshold, self.threshold)


def load(model_dir: str | os.PathLike) -> Verifier:
    """Load a trained model, such as ``exp/mini/model``.

    >>> voice = spkver.load("exp/mini/model")                      # doctest: +SKIP
    >>> voice.verify("anna1.wav", "bob.wav").same_speaker          # doctest: +SKIP
    False
    """
    return Verifier(model_dir)


def _mono(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as mono float32 in [-1, 1]."""
    if samples.ndim not in (1, 2):
        raise SpkverError(f"samples: expected (n_samples,) or (n_samples, n_channels), got {samples.shape}")
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min or -1)
    samples = samples.astype(np.float32)
    return samples.mean(1) if samples.ndim == 2 else samples
