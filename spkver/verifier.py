"""The Python door: ``spkver.load(model)`` gives an object that embeds and compares voices."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.data.audio import check_samples, read_audio, resample
from spkver.errors import SpkverError
from spkver.extraction import Extracted, Extractor
from spkver.model_folder import load_model
from spkver.scoring.backend import Backend
from spkver.scoring.error_rates import bayes_threshold
from spkver.scoring.systems import CALIBRATION, build_system, qualified_voices

Audio = str | os.PathLike | np.ndarray


# Of the systems that were calibrated, the first of these decides.
_DECIDES = ("cosine+asnorm", "cosine", "plda")


class Verification(NamedTuple):
    """Whether two recordings are of one speaker."""

    score: float  # natural log-likelihood ratio of a calibrated model, cosine of the embeddings otherwise
    same_speaker: bool  # score >= threshold
    threshold: float
    calibrated: bool


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
        self._backend = Backend(folder)
        self._calibrated = self._backend.calibrated(_DECIDES)
        self.threshold: float | None = model.run.get("threshold")
        """Of the score: at the EER among held-out training speakers, None when there were none; with a calibration
        the Bayes threshold of its prior. Set your own at will, or a prior by `set_prior`."""
        if self._calibrated is not None:
            self._calibration = self._backend.calibration(self._calibrated)
            self.set_prior(self._calibration.p_target)
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
        return self._extract(audio, sample_rate)[0].embeddings[0]

    def set_prior(self, p_target: float) -> None:
        """Decide for recordings that are of one speaker with this probability before they are heard.

        Raises:
            SpkverError: the model has no calibration, or the probability is not between 0 and 1.
        """
        if self._calibrated is None:
            raise SpkverError(f"{self.folder}: a prior needs calibrated scores; make them by `spkver calibrate`")
        try:
            self.threshold = bayes_threshold(p_target)
        except ValueError as error:
            raise SpkverError(f"prior: {error}") from None

    def _extract(self, audio: Audio, sample_rate: int | None) -> tuple[Extracted, float]:
        """What the encoder makes of a recording, and its seconds."""
        if isinstance(audio, str | os.PathLike):
            name, samples = str(audio), read_audio(audio, self._extractor.sample_rate)
        else:
            name, samples = "samples", _mono(np.asarray(audio))
            if sample_rate is not None:
                samples = resample(samples, sample_rate, self._extractor.sample_rate)
        problem = check_samples(samples)
        if problem:
            raise SpkverError(f"{name}: {problem}; nothing to hear a voice in")
        return self._extractor.extract([samples]), len(samples) / self._extractor.sample_rate

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
        (first, first_seconds), (second, second_seconds) = (self._extract(audio, sample_rate) for audio in (a, b))
        if self._calibrated is None:
            score = float(first.embeddings[0] @ second.embeddings[0])
            return Verification(score, score >= self.threshold, self.threshold, False)
        measures = {
            "duration": np.array([first_seconds, second_seconds]),
            "magnitude": np.concatenate([first.magnitudes, second.magnitudes]),
        }
        voices = qualified_voices(
            np.concatenate([first.embeddings, second.embeddings]),
            measures,
            self._calibration.belongs_to["quality"],
            self._backend,
        )
        system = build_system(f"{self._calibrated}+{CALIBRATION}", voices, voices, self._backend)
        score = float(system(np.array([0]), np.array([1]))[0])
        return Verification(score, score >= self.threshold, self.threshold, True)


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
