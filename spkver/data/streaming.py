"""A file of any length in pieces: one after another they are the samples of `read_audio`.

The file is decoded once, from its first frame to its last, without a seek: decoders that carry state
across one (MP3, Opus) give the same samples as in one go, and memory does not grow with the file.
"""

import os
from collections.abc import Iterator

import numpy as np

from spkver.data.audio import AudioFile, open_audio, read_frames, refuse_missing
from spkver.data.containers import check_joined
from spkver.data.resampling import resample_grid, resample_margin, resample_ratio, resample_up_down


def audio_blocks(path: str | os.PathLike[str], sample_rate: int, block_seconds: float) -> Iterator[np.ndarray]:
    """Read a file piece by piece as mono samples at ``sample_rate``.

    Args:
        path: as in `read_audio`.
        sample_rate: of the samples, Hz.
        block_seconds: of a piece; the last one is shorter, and none is empty.

    Yields:
        float32 ``(n_samples,)``, all finite.

    Raises:
        AudioError: as `read_audio`, when the fault is reached.
    """
    check_joined(path)
    with open_audio(path) as file:
        up, down = resample_ratio(file.samplerate, sample_rate)
        grid = resample_grid(up, down)
        step = max(round(block_seconds * file.samplerate) // grid, 1) * grid
        margin = -(-resample_margin(up, down) // grid) * grid
        frames = _mono_frames(path, file, step)
        if up == down:
            yield from frames
        else:
            yield from _resampled(frames, up, down, margin)


def _mono_frames(path: str | os.PathLike[str], file: AudioFile, step: int) -> Iterator[np.ndarray]:
    """The file's own frames, channels averaged, ``step`` at a time."""
    done = 0
    # MP3: what is decoded beyond the frames that the header promises does not count in `read_audio` either.
    while len(samples := read_frames(path, file, min(step, file.n_frames - done))):
        done += len(samples)
        yield samples
    refuse_missing(path, file, file.n_frames - done)


def _resampled(blocks: Iterator[np.ndarray], up: int, down: int, margin: int) -> Iterator[np.ndarray]:
    """Blocks at another rate; the filter is given ``margin`` frames of what lies around each."""
    grid = resample_grid(up, down)
    held = np.zeros(0, np.float32)
    before = 0  # frames at the start of `held` that are only there for the filter
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - before - margin) // grid * grid
        if ready <= 0:
            continue
        yield resample_up_down(held, up, down)[before // down * up : (before + ready) // down * up]
        keep = max(before + ready - margin, 0)
        before, held = before + ready - keep, held[keep:]
    if len(held) > before:
        yield resample_up_down(held, up, down)[before // down * up :]
