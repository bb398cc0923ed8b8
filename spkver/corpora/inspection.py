"""Decode every recording once: its rate, channels and length, whether it is usable, and whether it is there twice."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spkver.data.audio import AudioError, audio_info, check_samples
from spkver.data.audio_check import decode_all
from spkver.data.directory import Utterance
from spkver.data.streaming import audio_blocks

BLOCK_SECONDS = 300.0
"""Of a file that are in memory at once."""


@dataclass(frozen=True)
class Inspected:
    """A recording that was decoded; ``reason`` is why it is unusable, None if it is usable."""

    utterance: Utterance
    reason: str | None = None
    sample_rate: int = 0
    channels: int = 0
    n_samples: int = 0
    fingerprint: bytes = b""  # of the decoded samples: equal for a file and its copy in another lossless format

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate if self.sample_rate else 0.0


def inspect_recordings(utterances: Sequence[Utterance], workers: int = 2) -> list[Inspected]:
    """Decode all, in order, by some threads, with a progress bar on the terminal."""
    return list(decode_all(utterances, _inspect, workers))


def find_duplicates(inspected: Sequence[Inspected]) -> tuple[dict[str, str], dict[str, str]]:
    """Recordings whose samples are there already, under the same speaker and under another one.

    Returns:
        ``(copies, disputed)``: id -> the id with the same samples. Of copies the first one is to be kept. Whose voice
        disputed ones are cannot be known, so both are in that dictionary, each with the other.
    """
    first: dict[bytes, Inspected] = {}
    copies, disputed = {}, {}
    for one in inspected:
        original = first.setdefault(one.fingerprint, one)
        if original is one:
            continue
        if original.utterance.speaker == one.utterance.speaker:
            copies[one.utterance.id] = original.utterance.id
        else:
            disputed[one.utterance.id] = original.utterance.id
            disputed[original.utterance.id] = one.utterance.id
    return copies, disputed


def _inspect(utterance: Utterance) -> Inspected:
    try:
        os.fspath(utterance.path).encode("utf-8")
    except UnicodeEncodeError:
        return Inspected(utterance, "its name is not UTF-8, rename it")
    if "\n" in str(utterance.path):
        return Inspected(utterance, "its name holds a line break, rename it")
    try:
        return _decode(utterance)
    except AudioError as error:
        return Inspected(utterance, error.reason)


def _decode(utterance: Utterance) -> Inspected:
    rate, _, channels = audio_info(utterance.path)
    digest = hashlib.blake2b(str(rate).encode(), digest_size=16)
    n_samples, low, high = 0, np.inf, -np.inf
    for block in audio_blocks(utterance.path, rate, BLOCK_SECONDS):
        digest.update(np.rint(block * 32768).astype(np.int32).tobytes())
        n_samples += len(block)
        low, high = min(low, block.min()), max(high, block.max())
    reason = check_samples(np.array([low, high]))
    return Inspected(utterance, reason, rate, channels, n_samples, digest.digest())
