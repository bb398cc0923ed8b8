"""The Python interface: ``spkver.load(model)`` gives an object that embeds and compares speakers."""

import numbers
import os
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spkver.data.array_audio import checked_rate, is_path, mono_samples, shown
from spkver.data.audio import check_samples
from spkver.data.resampling import resample
from spkver.data.streaming import audio_blocks
from spkver.data.vad import BLOCK_SECONDS, SpeechWindow, speech_windows
from spkver.embedding.extractor import Extracted, Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import GENERAL, load_model, model_folder
from spkver.models.device import choose_device
from spkver.scoring.backend_folder import Backend
from spkver.scoring.backends.enrolment import Models
from spkver.scoring.metrics.polyline import bayes_threshold
from spkver.scoring.stored_threshold import EQUAL_ERROR, Threshold, prior_source
from spkver.scoring.systems import (
    CALIBRATION,
    EQUAL_ERROR_THRESHOLD,
    EmbeddingSet,
    build_system,
    check_can_decide,
    deciding_system,
    enrolled_embeddings,
    parse_system,
    rated_embeddings,
)

Audio = str | os.PathLike[str] | ArrayLike


class Verification(NamedTuple):
    """Whether two recordings are of one speaker."""

    score: float  # natural log-likelihood ratio of a calibrated system, cosine of the embeddings otherwise
    same_speaker: bool  # score >= threshold
    threshold: float
    calibrated: bool
    system: str  # that made the score
    threshold_source: str  # where the threshold comes from, in words


class EmbeddedAudio(NamedTuple):
    """What the encoder made of recordings, or of windows of one: all that comparing them needs."""

    embeddings: np.ndarray  # (n, embed_dim) float32, of unit length
    durations: np.ndarray  # (n,) seconds that were embedded
    magnitudes: np.ndarray  # (n,) of the embeddings before they were normalised

    @classmethod
    def together(cls, *several: "EmbeddedAudio") -> "EmbeddedAudio":
        """One after another."""
        return cls(*(np.concatenate(column) for column in zip(*several)))


class Verifier:
    """A model that embeds recordings and compares them.

    Args:
        folder: a model folder, such as ``exp/mini/model``, or the experiment that has it, ``exp/mini``.
        system: whose scores decide, such as ``cosine``, ``cosine+asnorm+calibration``, ``plda``; None: the first of
            cosine+asnorm, cosine and plda that the model was calibrated for, else the cosine.
        device: where the encoder computes: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``, a GPU where there is one. A GPU
            takes longer to start than a few recordings take without it.

    Raises:
        SpkverError: there is no model in it, or it lacks what the system needs.
    """

    def __init__(self, folder: str | os.PathLike[str], system: str | None = None, device: str = "cpu"):
        if not is_path(folder):
            raise SpkverError(f"expected the path of a model folder, such as exp/mini/model, got {shown(folder)}")
        if system is not None and not isinstance(system, str):
            raise SpkverError(f"expected the name of a system, such as cosine+asnorm, got {shown(system)}")
        folder = model_folder(folder)
        model = load_model(folder, choose_device(device, "the device"))
        self.folder = folder
        self.config = model.config
        self._backend = Backend(folder)
        self.system = deciding_system(self._backend) if system is None else system
        """The name of the system whose scores decide."""
        check_can_decide(self.system)
        self._calibration = None
        if self.calibrated:
            self._calibration = self._backend.calibration(self.system.removesuffix(f"+{CALIBRATION}"))
        self._trained_threshold = model.run.get("threshold")
        self._threshold: Threshold | None = None  # what was set
        self._extractor = Extractor(model.encoder, model.config)

    @property
    def calibrated(self) -> bool:
        """Whether scores are natural log-likelihood ratios; they are cosines otherwise."""
        return parse_system(self.system)[2]

    @property
    def threshold(self) -> float | None:
        """From this score on it is the same speaker; None where nothing says which.

        The first of these: what was set here, or by `set_prior`; what ``spkver threshold --save`` has kept; with a
        calibration, the Bayes threshold of its prior; for the cosine, the EER's among held-out training speakers.

        Raises:
            SpkverError: the one that was saved is damaged, or of other scores.
        """
        known = self._known_threshold()
        return None if known is None else known.value

    @threshold.setter
    def threshold(self, value: float) -> None:
        self.set_threshold(value)

    @property
    def threshold_source(self) -> str | None:
        """Where the threshold comes from, in words; None where there is none."""
        known = self._known_threshold()
        return None if known is None else known.source

    def set_threshold(self, value: float, source: str = "as it was set") -> None:
        """Decide by a threshold of your own.

        Raises:
            SpkverError: it is no finite number.
        """
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = np.nan
        if not np.isfinite(number):
            raise SpkverError(f"the threshold must be a finite number, got {shown(value)}")
        self._threshold = Threshold(number, source)

    @property
    def likeness_threshold(self) -> Threshold | None:
        """Which score tells like from unlike where neither is rarer: at equal error, whatever the prior."""
        if self._calibration is not None:
            known = self._calibration.belongs_to.get(EQUAL_ERROR_THRESHOLD)
            return Threshold(known, EQUAL_ERROR) if isinstance(known, float) else Threshold(0.0, prior_source(0.5))
        if self.system == "cosine":
            return self._threshold_of_training()
        return self._known_threshold()

    def _known_threshold(self) -> Threshold | None:
        return self._default_threshold if self._threshold is None else self._threshold

    @cached_property
    def _default_threshold(self) -> Threshold | None:
        saved = self._backend.threshold(self.system)
        if saved is not None:
            return Threshold(saved.value, f"saved by spkver threshold: {saved.source}")
        if self._calibration is not None:
            prior = self._calibration.p_target
            return Threshold(bayes_threshold(prior), prior_source(prior))
        return self._threshold_of_training() if self.system == "cosine" else None

    def _threshold_of_training(self) -> Threshold | None:
        known = self._trained_threshold
        return None if known is None else Threshold(float(known), EQUAL_ERROR)

    @property
    def embed_dim(self) -> int:
        """Numbers of an embedding, those of all variants together."""
        return self._extractor.embed_dim

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights and of what else an embedding depends on (`spkver.experiment.model_fingerprint`):
        embeddings of models that differ in it cannot be compared."""
        return self._backend.digest

    def embed(self, audio: Audio, sample_rate: int | None = None) -> np.ndarray:
        """The embedding ``(embed_dim,)`` of a recording: float32, of unit length.

        Args:
            audio: a path; or samples ``(n_samples,)``, ``(n_samples, n_channels)`` or ``(n_channels, n_samples)`` as a
                numpy array, a torch tensor or a list of floats (`spkver.data.array_audio.mono_samples`): floating point
                in [-1, 1], or int16, int32, uint8 of their full range.
            sample_rate: of samples, in Hz; None: the model's. A file knows its own.

        Raises:
            SpkverError: the audio is missing, unreadable, empty, silent, without speech, damaged, or no audio.
        """
        embedding: np.ndarray = self.embed_audio(audio, sample_rate).embeddings[0]
        return embedding

    def embed_audio(self, audio: Audio, sample_rate: int | None = None) -> EmbeddedAudio:
        """The same, with what else a score depends on."""
        if is_path(audio):
            chosen = self._extractor.read(audio)
        else:
            chosen = self._extractor.choose(self._samples(audio, sample_rate), _name(audio))
        return self._extracted([chosen.samples], audio)

    def embed_windows(
        self, audio: Audio, window_seconds: float = 3.0, hop_seconds: float = 1.5, sample_rate: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings along a recording of any length, of its speech only.

        The recording is read in pieces, so hours of it need no more memory than half a minute.

        Args:
            audio: as in `embed`.
            window_seconds: of audio that an embedding is made from; what is no speech in it
                (`spkver.data.vad`) is left out, and a window that has speech in less than a third is skipped.
            hop_seconds: from the start of a window to that of the next.
            sample_rate: as in `embed`.

        Returns:
            ``(times, embeddings)``: (n, 2) start and end of each window in seconds, and (n, embed_dim) float32 of
            unit length. ``n`` is 0 where there is no speech.

        Raises:
            SpkverError: as `embed`, or a window or hop that is too short.
        """
        times, embedded = self.embed_audio_windows(audio, window_seconds, hop_seconds, sample_rate)
        return times[:, :2], embedded.embeddings

    def embed_audio_windows(
        self, audio: Audio, window_seconds: float = 3.0, hop_seconds: float = 1.5, sample_rate: int | None = None
    ) -> tuple[np.ndarray, EmbeddedAudio]:
        """The same, with where the speech in each window begins and ends, and what else a score depends on.

        Returns:
            ``(times, embedded)``: (n, 4) start and end of each window and of the speech in it, in seconds; durations
            are those of the speech.
        """
        for name, seconds in (("window_seconds", window_seconds), ("hop_seconds", hop_seconds)):
            if not isinstance(seconds, numbers.Real) or not np.isfinite(seconds):
                raise SpkverError(f"{name} must be a number, got {shown(seconds)}")
        limit = self.config.scoring.batch_seconds
        blocks = self._blocks(audio, sample_rate)
        times: list[tuple[float, ...]] = []
        embedded = [EmbeddedAudio(np.zeros((0, self._extractor.embed_dim), np.float32), np.zeros(0), np.zeros(0))]
        waiting: list[SpeechWindow] = []

        def embed_waiting() -> None:
            if waiting:
                embedded.append(self._extracted([window.speech for window in waiting], audio))
                waiting.clear()

        for window in speech_windows(blocks, self._extractor.fbank, window_seconds, hop_seconds):
            times.append(window[:4])
            waiting.append(window)
            if len(waiting) * window_seconds >= limit:
                embed_waiting()
        embed_waiting()
        return np.array(times, np.float64).reshape(-1, 4), EmbeddedAudio.together(*embedded)

    def set_prior(self, p_target: float) -> None:
        """Decide for recordings that are of one speaker with this probability before they are compared.

        Raises:
            SpkverError: the model has no calibration, or the probability is not between 0 and 1.
        """
        if not self.calibrated:
            raise SpkverError(f"{self.folder}: a prior needs calibrated scores; make them by `spkver calibrate`")
        try:
            self._threshold = Threshold(bayes_threshold(p_target), prior_source(p_target))
        except (TypeError, ValueError):
            raise SpkverError(f"the prior must lie between 0 and 1, got {shown(p_target)}") from None

    def known_threshold(self) -> Threshold:
        """The threshold, and where it comes from.

        Raises:
            SpkverError: there is none.
        """
        known = self._known_threshold()
        if known is not None:
            return known
        if self.system == "cosine":
            why = "it was trained without held-out speakers (data.held_out_speakers)"
        else:
            why = f"none was saved for {self.system}"
        raise SpkverError(
            f"{self.folder}: has no threshold, as {why}; `spkver threshold DATA EXP --system {self.system} --save` "
            "keeps one, or set .threshold, or --threshold in the shell"
        )

    def verify(self, a: Audio, b: Audio, sample_rate: int | None = None) -> Verification:
        """Compare two recordings (paths, or samples as in ``embed``).

        Raises:
            SpkverError: as ``embed``, or the model has no threshold.
        """
        threshold, source = self.known_threshold()
        one = Models(["a"], np.array([0]), np.array([0, 1]))
        score = float(self.scores(self.embed_audio(a, sample_rate), one, self.embed_audio(b, sample_rate))[0, 0])
        return Verification(score, score >= threshold, threshold, self.calibrated, self.system, source)

    def scores(self, enrolled: EmbeddedAudio, models: Models, tests: EmbeddedAudio) -> np.ndarray:
        """The score of each model, of one recording or several, with each test: (n_models, n_tests) float32."""
        shape = len(models.names), len(tests.embeddings)
        enroll_index, test_index = np.indices(shape).reshape(2, -1)
        try:
            enroll = enrolled_embeddings(self._embedding_set(enrolled), models)
            score = build_system(self.system, enroll, self._embedding_set(tests), self._backend)
            return score(enroll_index, test_index).reshape(shape)
        except ValueError as error:
            raise SpkverError(f"{self.folder}: {error}") from None

    def _embedding_set(self, embedded: EmbeddedAudio) -> EmbeddingSet:
        quality = [] if self._calibration is None else self._calibration.quality
        measures = {"duration": embedded.durations, "magnitude": embedded.magnitudes}
        return rated_embeddings(embedded.embeddings, measures, quality, self._backend)

    def _extracted(self, waveforms: list[np.ndarray], audio: Audio) -> EmbeddedAudio:
        """What the encoder makes of waveforms of a recording, which it names where that is nothing."""
        made: Extracted = self._extractor.extract(waveforms)
        usable = np.isfinite(made.embeddings).all() and np.isfinite(made.magnitudes).all() and made.magnitudes.all()
        if not usable:
            loudest = max(float(np.abs(waveform).max()) for waveform in waveforms)
            raise SpkverError(
                f"{_name(audio)}: its embedding is not finite, so it is unusable; samples reach {loudest:g} where 1 is "
                "full scale"
            )
        return EmbeddedAudio(made.embeddings, made.seconds, made.magnitudes)

    def _samples(self, audio: Audio, sample_rate: int | None) -> np.ndarray:
        """Samples of any kind, mono at the model's rate."""
        samples = mono_samples(audio)
        if sample_rate is None:
            return samples
        rate = checked_rate(sample_rate)
        return resample(samples, rate, self._extractor.sample_rate) if check_samples(samples) is None else samples

    def _blocks(self, audio: Audio, sample_rate: int | None) -> Iterator[np.ndarray]:
        """A recording in pieces."""
        rate = self._extractor.sample_rate
        if is_path(audio):
            yield from audio_blocks(audio, rate, BLOCK_SECONDS)
            return
        samples = self._samples(audio, sample_rate)
        problem = check_samples(samples)
        if problem in ("empty", "non-finite"):
            raise SpkverError(f"{_name(audio)}: {problem}; there is no speech in it")
        block = round(BLOCK_SECONDS * rate)
        for start in range(0, len(samples), block):
            yield samples[start : start + block]


def load(model_dir: str | os.PathLike[str] = GENERAL.name, system: str | None = None, device: str = "cpu") -> Verifier:
    """Load a trained model, such as ``exp/mini/model``, or the general one that comes with spkver; see `Verifier`.

    >>> voice = spkver.load()                                      # doctest: +SKIP
    >>> voice.verify("anna1.wav", "bob.wav").same_speaker          # doctest: +SKIP
    False
    """
    return Verifier(model_dir, system, device)


def _name(audio: Audio) -> str:
    return str(audio) if is_path(audio) else "samples"
