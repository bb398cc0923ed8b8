"""A file of any length in pieces: one after another they are the samples of `read_audio`.

Notable: the file is decoded once, from its first frame to its last, without a seek: decoders that carry state
across one (MP3, Opus) give the same samples as in one go, and memory does not grow with the file.
"""

import os
from collections.abc import Iterator

import numpy as np
import soundfile

from spkver.data.audio import (
    AudioError,
    check_complete,
    missing_frames_allowed,
    open_audio,
    resample_margin,
    resample_ratio,
    resample_up_down,
)


class _Sequential(soundfile.SoundFile):
    """A file that is only read forward: soundfile seeks after each read of one that it can seek in."""

    def seekable(self) -> bool:
        return False


def audio_blocks(path: str | os.PathLike, sample_rate: int, block_seconds: float) -> Iterator[np.ndarray]:
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
    with open_audio(path, _Sequential) as file:
        check_complete(path, file)
        if file.frames == 0:
            raise AudioError(f"{path}: the file holds no samples", "empty")
        up, down = resample_ratio(file.samplerate, sample_rate)
        # Whole multiples of `down` frames, as only these lie on the grid of the resampled file.
        step = max(round(block_seconds * file.samplerate) // down, 1) * down
        margin = -(-resample_margin(up, down) // down) * down
        frames = _mono_frames(path, file, step)
        if up == down:
            yield from frames
        else:
            yield from _resampled(frames, up, down, margin)


def _mono_frames(path: str | os.PathLike, file: soundfile.SoundFile, step: int) -> Iterator[np.ndarray]:
    """The file's own frames, channels averaged, ``step`` at a time."""
    done = 0
    while True:
        try:
            # MP3: what is decoded beyond the frames that the header promises does not count in `read_audio` either.
            frames = file.read(min(step, file.frames - done), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            detail = error.error_string.strip().rstrip(".")
            raise AudioError(f"{path}: damaged or truncated ({detail})", "truncated") from error
        if len(frames) == 0:
            break
        done += len(frames)
        samples = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
        if not (np.isfinite(samples.min()) and np.isfinite(samples.max())):
            raise AudioError(f"{path}: holds samples that are not finite numbers", "non-finite")
        yield samples
    missing = file.frames - done
    if missing > missing_frames_allowed(file) or done == 0:
        raise AudioError(f"{path}: truncated, {missing} of {file.frames} frames are missing", "truncated")


def _resampled(blocks: Iterator[np.ndarray], up: int, down: int, margin: int) -> Iterator[np.ndarray]:
    """Blocks at another rate; the filter is given ``margin`` frames of what lies around each."""
    held = np.zeros(0, np.float32)
    before = 0  # frames at the start of `held` that are only there for the filter
    for block in blocks:
        held = np.concatenate([held, block])
        ready = (len(held) - before - margin) // down * down
        if ready <= 0:
            continue
        yield resample_up_down(held, up, down)[before // down * up : (before + ready) // down * up]
        keep = max(before + ready - margin, 0)
        before, held = before + ready - keep, held[keep:]
    if len(held) > before:
        yield resample_up_down(held, up, down)[before // down * up :]
