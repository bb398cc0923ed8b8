"""Utterances to embeddings, in batches of similar length.

Whole utterances in float32, padded within a batch and masked, so an embedding does not
depend on what it was batched with (to 1e-5).
"""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from spkver.config import Config
from spkver.data.audio import AudioError, check_samples, read_audio, wrap_to
from spkver.data.directory import Utterance
from spkver.data.resampling import speed
from spkver.data.streaming import audio_blocks
from spkver.data.vad import BLOCK_SECONDS, NO_SPEECH, Chosen, choose_speech, is_steady
from spkver.data.variants import Variant
from spkver.errors import SpkverError
from spkver.features import EncoderInput
from spkver.models import Encoder
from spkver.models.device import full_float32

# Files decoded ahead of the encoder.
_READ_AHEAD = 64
# An utterance shorter than this is repeated up to it: fewer frames than this tell nothing.
_SHORTEST_SECONDS = 0.2

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def encoder_input(config: Config, formant_factors: Sequence[float] = (1.0,)) -> EncoderInput:
    """What makes the input of a configuration's encoder; training also asks for other vocal tracts."""
    return EncoderInput(config.features, config.data.sample_rate, formant_factors)


class Extracted(NamedTuple):
    """What an encoder makes of utterances."""

    embeddings: np.ndarray  # (n, embed_dim) float32, of unit length
    magnitudes: np.ndarray  # (n,) float32, their length before that (mean of the variants): a measure of quality
    seconds: np.ndarray  # (n,) float64, of audio that each embedding was made of, as far as it is not repetition


class Embeds(Protocol):
    """What gives utterances their embeddings ``(n, embed_dim)``: an `Extractor`, or several processes with one each."""

    def embed_utterances(self, utterances: Sequence[Utterance], title: str) -> np.ndarray: ...


class Extractor:
    """Embeds waveforms with an encoder, as its configuration says.

    Args:
        encoder: features to embeddings.
        config: of the encoder.
        variants: whose embeddings an utterance's embedding is made of; None: those of ``config.scoring``.
    """

    def __init__(self, encoder: Encoder, config: Config, variants: Sequence[Variant] | None = None):
        self.encoder = encoder
        self.config = config
        self.sample_rate = config.data.sample_rate
        self.variants = tuple(
            Variant(*factors) for factors in (config.scoring.variants if variants is None else variants)
        )
        self.embed_dim = encoder.embed_dim * len(self.variants)
        self.evaluating = _Evaluating(encoder)
        self.device = next(encoder.parameters(), torch.empty(0)).device
        self.formant_factors = list(dict.fromkeys(variant.formant_factor for variant in self.variants))
        self.input = encoder_input(config, self.formant_factors).eval().to(self.device)
        self.fbank = self.input.fbank  # what finds speech in a recording

    def embed(self, waveforms: list[np.ndarray]) -> np.ndarray:
        """Embed waveforms ``(n_samples,)`` at the configured rate -> ``(len(waveforms), embed_dim)`` float32."""
        return self.extract(waveforms).embeddings

    @torch.inference_mode()
    def extract(self, waveforms: list[np.ndarray]) -> Extracted:
        """Embeddings and their magnitudes of waveforms ``(n_samples,)`` at the configured rate."""
        waveforms = [self.middle(waveform) for waveform in waveforms]
        seconds = np.array([len(waveform) for waveform in waveforms]) / self.sample_rate
        waveforms = [self.long_enough(waveform) for waveform in waveforms]
        with self.evaluating():
            raw = torch.stack([self._of_variant(waveforms, variant) for variant in self.variants], 1)
        unit = F.normalize(raw, dim=2).flatten(1) / math.sqrt(len(self.variants))
        return Extracted(unit.cpu().numpy(), raw.norm(dim=2).mean(1).cpu().numpy(), seconds)

    def _of_variant(self, waveforms: list[np.ndarray], variant: Variant) -> Tensor:
        """Embeddings ``(len(waveforms), encoder.embed_dim)`` of one variant, not of unit length."""
        waveforms = [self.long_enough(self.middle(speed(waveform, variant.speed_factor))) for waveform in waveforms]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        padded = torch.zeros(len(waveforms), int(lengths.max()))
        for row, waveform in zip(padded, waveforms):
            row[: len(waveform)] = torch.from_numpy(waveform)
        formant = self.formant_factors.index(variant.formant_factor)
        formants = lengths.new_full(lengths.shape, formant)
        features, n_frames, average = self.input(padded.to(self.device), lengths.to(self.device), formants)
        same_length = bool((lengths == lengths[0]).all())
        return self.encoder.unnormalised(features, None if same_length else n_frames, average).float()

    def embed_utterances(self, utterances: Sequence[Utterance], title: str) -> np.ndarray:
        """Embed files, in their order -> ``(len(utterances), embed_dim)`` float32.

        Args:
            utterances: to be embedded; those of similar lengths are embedded together.
            title: beside the progress bar; an empty one shows no bar.

        Raises:
            SpkverError: a file cannot be read, is empty, silent or non-finite, with its path. One without speech is
                embedded all the same: this serves training, where it must not end a run.
        """
        embeddings = np.zeros((len(utterances), self.embed_dim), np.float32)
        order = sorted(range(len(utterances)), key=lambda index: utterances[index].seconds or 0.0)
        with (
            ThreadPoolExecutor(1) as reader,
            tqdm(total=len(utterances), desc=title, unit="utt", leave=False, disable=not title or None) as bar,
        ):
            read = _ahead(reader, self._read, [utterances[index] for index in order])
            for indices, waveforms in self.batches(zip(order, read)):
                embeddings[indices] = self.embed(waveforms)
                bar.update(len(indices))
        return embeddings

    def batches(self, waveforms: Iterable[tuple[int, np.ndarray]]) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Groups whose padded length stays below ``scoring.batch_seconds``."""
        indices: list[int] = []
        batch: list[np.ndarray] = []
        longest = 0
        limit = self.config.scoring.batch_seconds * self.sample_rate
        for index, waveform in waveforms:
            longest = max(longest, len(waveform))
            if batch and longest * (len(batch) + 1) > limit:
                yield indices, batch
                indices, batch, longest = [], [], len(waveform)
            indices.append(index)
            batch.append(waveform)
        if batch:
            yield indices, batch

    def _read(self, utterance: Utterance) -> np.ndarray:
        try:
            return self.read(utterance.path).samples
        except AudioError as error:
            if error.reason == NO_SPEECH:
                return self.middle(read_audio(utterance.path, self.sample_rate))
            raise SpkverError(f"{error} (utterance '{utterance.id}'); leave it out") from None

    def read(self, path: str | os.PathLike[str]) -> Chosen:
        """What is to be embedded of a file: all of it, or of a long one so much of its speech.

        Raises:
            AudioError: it cannot be read, is empty, silent, non-finite or without speech.
        """
        most = self.config.scoring.max_seconds
        # A second more tells that there is more; of a file that is not longer these are all of its samples.
        samples = read_audio(path, self.sample_rate, duration_seconds=most + 1)
        if len(samples) <= most * self.sample_rate:
            return self.choose(samples, path)
        del samples
        chosen = choose_speech(lambda: audio_blocks(path, self.sample_rate, BLOCK_SECONDS), self.fbank, most)
        return _refuse_no_speech(chosen, path)

    def choose(self, samples: np.ndarray, name: str | os.PathLike[str]) -> Chosen:
        """The same of samples ``(n_samples,)`` at the configured rate; ``name`` begins what is said of them.

        Raises:
            AudioError: they are empty, silent, non-finite or without speech.
        """
        problem = check_samples(samples)
        if problem:
            raise AudioError(f"{name}: {problem}", problem)
        seconds, most = len(samples) / self.sample_rate, self.config.scoring.max_seconds
        if seconds <= most:
            chosen = Chosen(samples[:0] if is_steady(samples, self.fbank) else samples, seconds)
        else:
            block = round(BLOCK_SECONDS * self.sample_rate)
            starts = range(0, len(samples), block)
            chosen = choose_speech(lambda: (samples[start : start + block] for start in starts), self.fbank, most)
        return _refuse_no_speech(chosen, name)

    def middle(self, samples: np.ndarray) -> np.ndarray:
        """At most ``scoring.max_seconds`` from the middle: what a slower variant has beyond."""
        most = round(self.config.scoring.max_seconds * self.sample_rate)
        start = max(len(samples) - most, 0) // 2
        return np.asarray(samples[start : start + most], np.float32)

    def long_enough(self, samples: np.ndarray) -> np.ndarray:
        """At least a fifth of a second, by repetition."""
        return wrap_to(samples, max(len(samples), round(_SHORTEST_SECONDS * self.sample_rate)))


class _Evaluating:
    """While entered, by one thread or several, an encoder is in evaluation mode and float32 no TF32; then as before."""

    def __init__(self, encoder: torch.nn.Module):
        self.encoder = encoder
        self.lock, self.entered = threading.Lock(), 0
        self.in_training: list[torch.nn.Module] = []
        self.precision = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.entered == 0:
                self.in_training = [module for module in self.encoder.modules() if module.training]
                self.encoder.eval()
                self.precision.enter_context(full_float32())
            self.entered += 1
        try:
            yield
        finally:
            with self.lock:
                self.entered -= 1
                if self.entered == 0:
                    self.precision.close()
                    for module in self.in_training:
                        module.training = True


def _refuse_no_speech(chosen: Chosen, name: str | os.PathLike[str]) -> Chosen:
    if not len(chosen.samples):
        found = "nothing but a steady sound, as silence, hiss or hum is"
        raise AudioError(f"{name}: no speech found, {found}", NO_SPEECH)
    return chosen


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Argument], Result], arguments: list[Argument]
) -> Iterator[Result]:
    """``map(function, arguments)`` with a bounded number computed ahead."""
    waiting = deque(pool.submit(function, argument) for argument in arguments[:_READ_AHEAD])
    for place in range(len(arguments)):
        result = waiting.popleft().result()
        if place + _READ_AHEAD < len(arguments):
            waiting.append(pool.submit(function, arguments[place + _READ_AHEAD]))
        yield result
