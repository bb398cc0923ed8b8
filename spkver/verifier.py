"""The Python door: ``spkver.load(model)`` gives an object that embeds and compares voices."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.data.audio import check_samples, resample
from spkver.data.audio_blocks import audio_blocks
from spkver.errors import SpkverError
from spkver.extraction import Extractor
from spkver.model_folder import load_model
from spkver.scoring.backend import Backend
from spkver.scoring.enrolment import Models
from spkver.scoring.error_rates import bayes_threshold
from spkver.scoring.systems import CALIBRATION, Voices, build_system, enrolled_voices, qualified_voices
from spkver.speech_detection import BLOCK_SECONDS, SpeechWindow, speech_windows

Audio = str | os.PathLike | np.ndarray


# Of the systems that were calibrated, the first of these decides.
_DECIDES = ("cosine+asnorm", "cosine", "plda")


class Verification(NamedTuple):
    """Whether two recordings are of one speaker."""

    score: float  # natural log-likelihood ratio of a calibrated model, cosine of the embeddings otherwise
    same_speaker: bool  # score >= threshold
    threshold: float
    calibrated: bool


class Heard(NamedTuple):
    """What the encoder made of recordings, or of windows of one: all that comparing them needs."""

    embeddings: np.ndarray  # (n, embed_dim) float32, of unit length
    durations: np.ndarray  # (n,) seconds that were embedded
    magnitudes: np.ndarray  # (n,) of the embeddings before they were normalised

    @classmethod
    def together(cls, *several: "Heard") -> "Heard":
        """One after another."""
        return cls(*(np.concatenate(column) for column in zip(*several)))


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

    @property
    def calibrated(self) -> bool:
        """Whether scores are natural log-likelihood ratios; they are cosines otherwise."""
        return self._calibrated is not None

    @property
    def embed_dim(self) -> int:
        """Numbers of an embedding, those of all views together."""
        return self._extractor.embed_dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of what else an embedding depends on (`spkver.model_fingerprint`): embeddings of
        models that differ in it cannot be compared."""
        return self._backend.digest

    def embed(self, audio: Audio, sample_rate: int | None = None) -> np.ndarray:
        """The embedding ``(embed_dim,)`` of a recording: float32, of unit length.

        Args:
            audio: a path, or samples ``(n_samples,)`` or ``(n_samples, n_channels)``: floating point in
                [-1, 1], or integers of their full range.
            sample_rate: of samples, in Hz; None: the model's. A file knows its own.

        Raises:
            SpkverError: the audio is missing, unreadable, empty, silent, without speech, or not finite.
        """
        return self.listen(audio, sample_rate).embeddings[0]

    def listen(self, audio: Audio, sample_rate: int | None = None) -> Heard:
        """The same, with what else a score depends on."""
        if _is_path(audio):
            chosen = self._extractor.read(audio)
        else:
            chosen = self._extractor.choose(self._samples(audio, sample_rate), _name(audio))
        extracted = self._extractor.extract([chosen.samples])
        return Heard(extracted.embeddings, extracted.seconds, extracted.magnitudes)

    def embed_windows(
        self, audio: Audio, window_seconds: float = 3.0, hop_seconds: float = 1.5, sample_rate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings along a recording of any length, of its speech only.

        The recording is read in pieces, so hours of it need no more memory than half a minute.

        Args:
            audio: as in `embed`.
            window_seconds: of audio that an embedding is made from; what is no speech in it
                (`spkver.speech_detection`) is left out, and a window that has speech in less than a third is skipped.
            hop_seconds: from the start of a window to that of the next.
            sample_rate: as in `embed`.

        Returns:
            ``(times, embeddings)``: (n, 2) start and end of each window in seconds, and (n, embed_dim) float32 of
            unit length. ``n`` is 0 where there is no speech.

        Raises:
            SpkverError: as `embed`, or a window or hop that is too short.
        """
        times, heard = self.listen_along(audio, window_seconds, hop_seconds, sample_rate)
        return times[:, :2], heard.embeddings

    def listen_along(
        self, audio: Audio, window_seconds: float = 3.0, hop_seconds: float = 1.5, sample_rate: int | None = None
    ) -> tuple[np.ndarray, Heard]:
        """The same, with where the speech in each window begins and ends, and what else a score depends on.

        Returns:
            ``(times, heard)``: (n, 4) start and end of each window and of the speech in it, in seconds; durations
            are those of the speech.
        """
        limit = self.config.scoring.batch_seconds
        blocks = self._blocks(audio, sample_rate)
        times, heard, waiting = [], [Heard(np.zeros((0, self._extractor.embed_dim), np.float32), *np.zeros((2, 0)))], []

        def embed_waiting() -> None:
            if waiting:
                extracted = self._extractor.extract([window.speech for window in waiting])
                heard.append(Heard(extracted.embeddings, extracted.seconds, extracted.magnitudes))
                waiting.clear()

        window: SpeechWindow
        for window in speech_windows(blocks, self._extractor.fbank, window_seconds, hop_seconds):
            times.append(window[:4])
            waiting.append(window)
            if len(waiting) * window_seconds >= limit:
                embed_waiting()
        embed_waiting()
        return np.array(times, np.float64).reshape(-1, 4), Heard.together(*heard)

    def set_prior(self, p_target: float) -> None:
        """Decide for recordings that are of one speaker with this probability before they are heard.

        Raises:
            SpkverError: the model has no calibration, or the probability is not between 0 and 1.
        """
        if not self.calibrated:
            raise SpkverError(f"{self.folder}: a prior needs calibrated scores; make them by `spkver calibrate`")
        try:
            self.threshold = bayes_threshold(p_target)
        except ValueError as error:
            raise SpkverError(f"prior: {error}") from None

    def known_threshold(self) -> float:
        """The threshold.

        Raises:
            SpkverError: there is none.
        """
        if self.threshold is None:
            raise SpkverError(
                f"{self.folder}: has no threshold, as it was trained without held-out speakers "
                "(data.held_out_speakers); set .threshold, or --threshold in the shell"
            )
        return self.threshold

    def verify(self, a: Audio, b: Audio, sample_rate: int | None = None) -> Verification:
        """Compare two recordings (paths, or samples as in ``embed``).

        Raises:
            SpkverError: as ``embed``, or the model has no threshold.
        """
        threshold = self.known_threshold()
        one = Models(["a"], np.array([0]), np.array([0, 1]))
        score = float(self.scores(self.listen(a, sample_rate), one, self.listen(b, sample_rate))[0, 0])
        return Verification(score, score >= threshold, threshold, self.calibrated)

    def scores(self, enrolled: Heard, models: Models, tests: Heard) -> np.ndarray:
        """The score of each model, of one recording or several, with each test: (n_models, n_tests) float32."""
        name = f"{self._calibrated}+{CALIBRATION}" if self.calibrated else "cosine"
        enroll = enrolled_voices(self._voices(enrolled), models)
        score = build_system(name, enroll, self._voices(tests), self._backend)
        shape = len(models.names), len(tests.embeddings)
        enroll_index, test_index = np.indices(shape).reshape(2, -1)
        return score(enroll_index, test_index).reshape(shape)

    def _voices(self, heard: Heard) -> Voices:
        quality = self._calibration.belongs_to["quality"] if self.calibrated else []
        measures = {"duration": heard.durations, "magnitude": heard.magnitudes}
        return qualified_voices(heard.embeddings, measures, quality, self._backend)

    def _samples(self, audio: np.ndarray, sample_rate: int | None) -> np.ndarray:
        """Samples of any kind, mono at the model's rate."""
        samples = _mono(np.asarray(audio))
        return samples if sample_rate is None else resample(samples, sample_rate, self._extractor.sample_rate)

    def _blocks(self, audio: Audio, sample_rate: int | None) -> Iterator[np.ndarray]:
        """A recording in pieces."""
        rate = self._extractor.sample_rate
        if _is_path(audio):
            yield from audio_blocks(audio, rate, BLOCK_SECONDS)
            return
        samples = self._samples(audio, sample_rate)
        problem = check_samples(samples)
        if problem in ("empty", "non-finite"):
            raise SpkverError(f"{_name(audio)}: {problem}; nothing to hear a voice in")
        block = round(BLOCK_SECONDS * rate)
        for start in range(0, len(samples), block):
            yield samples[start : start + block]


def load(model_dir: str | os.PathLike) -> Verifier:
    """Load a trained model, such as ``exp/mini/model``.

    >>> voice = spkver.load("exp/mini/model")                      # doctest: +SKIP
    >>> voice.verify("anna1.wav", "bob.wav").same_speaker          # doctest: +SKIP
    False
    """
    return Verifier(model_dir)


def _is_path(audio: Audio) -> bool:
    return isinstance(audio, str | os.PathLike)


def _name(audio: Audio) -> str:
    return str(audio) if _is_path(audio) else "samples"


def _mono(samples: np.ndarray) -> np.ndarray:
    """Samples of any type as mono float32 in [-1, 1]."""
    if samples.ndim not in (1, 2):
        raise SpkverError(f"samples: expected (n_samples,) or (n_samples, n_channels), got {samples.shape}")
    if np.issubdtype(samples.dtype, np.integer):
        samples = samples / -float(np.iinfo(samples.dtype).min or -1)
    samples = samples.astype(np.float32)
    return samples.mean(1) if samples.ndim == 2 else samples
