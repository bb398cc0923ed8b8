"""A directory's files to embeddings, on all cores, stopped and taken up again at any moment.

- Each core takes a part of the list from the first file to the embeddings by itself. Reading on one core meets
  the encoder on another, no core waits for another's step, and nothing is counted or decoded beforehand.
- Threads do for this: decoding, resampling, features and encoder all run outside of Python's lock.
- Files are grouped by length within a part only, and an embedding does not depend on what it is batched with.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch

from spkver.data.audio import AudioError
from spkver.data.directory import Utterance
from spkver.data.machine import one_torch_thread
from spkver.data.shards import stamp
from spkver.data.shared_work import StopWork, share_work
from spkver.embedding.extractor import Extractor
from spkver.embedding.parts import EmbeddingParts, Part

# Audio that a thread holds at most before it embeds it, in seconds: 64 KiB each at 16 kHz.
_HELD_SECONDS = 1200.0


def embed_parts(extractor: Extractor, parts: EmbeddingParts, workers: int) -> Iterator[tuple[int, Part, bool]]:
    """Embed what is not embedded yet, together with whatever other process is at it.

    Args:
        extractor: brings waveforms to embeddings.
        parts: where each part is kept as soon as it is made.
        workers: threads, one a core.

    Yields:
        ``(number, part, is_new)`` of all parts as they are there; ``is_new`` are those that are made here. Fewer, where
        another process has meanwhile taken all of them together.
    """

    def make(number: int, stop: threading.Event) -> Part:
        part = embed_group(extractor, parts.group(number), stop)
        parts.write(number, part)
        return part

    one_core = partial(torch.set_num_threads, 1)
    with one_torch_thread():
        yield from share_work(range(len(parts)), parts.read, make, parts.lock, workers, parts.are_over, one_core)


def embed_group(extractor: Extractor, utterances: Sequence[Utterance], stop: threading.Event) -> Part:
    """Read and embed some utterances; an unusable file has its reason in the result."""
    n = len(utterances)
    embeddings = np.zeros((n, extractor.embed_dim), np.float32)
    magnitudes, seconds, durations, reasons = np.zeros(n, np.float32), np.zeros(n), np.zeros(n), [""] * n
    stamps = np.zeros((n, 2), np.int64)
    held: list[tuple[int, np.ndarray]] = []

    def embed_held() -> None:
        held.sort(key=lambda pair: len(pair[1]))
        for indices, waveforms in extractor.batches(held):
            if stop.is_set():
                raise StopWork
            embeddings[indices], magnitudes[indices], seconds[indices] = extractor.extract(waveforms)
        held.clear()

    for index, utterance in enumerate(utterances):
        if stop.is_set():
            raise StopWork
        stamps[index] = stamp(utterance.path)
        try:
            samples, durations[index] = extractor.read(utterance.path)
        except AudioError as error:
            reasons[index] = error.reason
            continue
        held.append((index, samples))
        if sum(len(waveform) for _, waveform in held) > _HELD_SECONDS * extractor.sample_rate:
            embed_held()
    embed_held()
    return Part(embeddings, magnitudes, seconds, durations, np.array(reasons, dtype=np.str_), stamps)
