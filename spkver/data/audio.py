"""Audio files to mono float32 samples at one rate, reading no more of a file than the crop needs.

What libsndfile promises and what it does differ (measured with 1.2.2; the tests hold each):

- Seeking is exact in PCM, FLAC and Ogg Vorbis, but not inside the last page of a Vorbis file, where
  it misses by the samples trimmed at the end (libsndfile issue 885): such a crop is decoded from the
  start of that page. Opus and MP3 (variable bit rate) decoders carry state across a seek and give
  other samples: those two are decoded from the start of the file. Convert long ones to FLAC.
- The number of frames in a header is believed by nobody but the header: files are decoded in pieces, so that memory
  grows with what is there. Where the number is missing (FLAC from a pipe), the frames are counted first.
- The length of an MP3 without a Xing header is an estimate: reading up to 1 % less is accepted, and what
  lies beyond the estimate is never reached.

What a container says about cut, joined and other wrong files: `spkver.data.containers`.
"""

import math
import os
import re
from functools import partial
from typing import BinaryIO

import numpy as np
import soundfile

from spkver.data.containers import AudioError, check_container, check_joined, open_regular
from spkver.data.resampling import check_rate, resample_grid, resample_margin, resample_ratio, resample_up_down
from spkver.data.shards import Member

SILENCE_PEAK = 1e-4
"""Samples that stay within this of their middle are silence: -80 dB of full scale, 3 steps of 16 bits."""
HIGHEST_PEAK = 16.0
"""Samples beyond this are out of range: 24 dB over full scale, which no mix has, but floats in the range of 16 bits."""

_EXACT_SEEK = re.compile("PCM_|FLOAT|DOUBLE|ULAW|ALAW|VORBIS")
_STEPS_OF_16_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")
_MP3_FRAME = 1152
# Samples of all channels that are decoded at once.
_DECODED_AT_ONCE = 1 << 20
# libsndfile's number of frames where the header does not tell.
_UNKNOWN_FRAMES = 0x7FFF_FFFF_FFFF_FFFF


class AudioFile(soundfile.SoundFile):
    """An audio file that is decoded forward.

    ``n_frames`` is its length in frames, by its header if that tells.

    Raises:
        soundfile.LibsndfileError, TypeError: it cannot be opened. AudioError: see `check_container`.
    """

    _content: BinaryIO | None = None  # where opening fails, too

    def __init__(self, path: str | os.PathLike[str]):
        checked = check_container(path)
        self.last_page_frames = checked.last_page_frames
        self._content = checked.rewritten  # type: ignore[assignment]  # a raw file serves as one
        if self._content is None and isinstance(path, Member):
            self._content = open_regular(path)
        # Bytes, as a name need not be UTF-8; Windows knows names as text only.
        name = os.fspath(path) if os.name == "nt" else os.fsencode(path)
        super().__init__(self._content or name)
        self.n_frames = self.frames

    def seekable(self) -> bool:
        """No: soundfile would seek after each read, which is the very thing to avoid here. `seek` works."""
        return False

    def close(self) -> None:
        super().close()
        if self._content is not None:
            self._content.close()


def read_audio(
    path: str | os.PathLike[str],
    sample_rate: int,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> np.ndarray:
    """Read a file, or a crop of it, as mono samples at ``sample_rate``.

    Channels are averaged. A crop holds bit for bit the same samples as the same span of the whole file,
    also after resampling: the filter is given what lies around the crop.

    Args:
        path: wav, flac, ogg (Vorbis, Opus), mp3 or whatever else libsndfile reads.
        sample_rate: of the samples returned, Hz.
        start_seconds: where the crop begins.
        duration_seconds: its length; None is to the end. A crop that reaches past the end is shorter.

    Returns:
        float32 ``(n_samples,)``, at least one sample, all within `HIGHEST_PEAK` before resampling.

    Raises:
        AudioError: a missing, undecodable, empty or truncated file, several files joined into one (found when all of
            it is read), a sample rate that is none, samples that are not finite or out of range, or a crop that
            starts after the end.
    """
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds * sample_rate < 0.5):
        raise ValueError(f"no crop from {start_seconds} s of {duration_seconds} s")
    if duration_seconds is None:
        check_joined(path)
    with open_audio(path) as file:
        up, down = resample_ratio(file.samplerate, sample_rate)
        n_samples = -(-file.n_frames * up // down)
        first = round(start_seconds * sample_rate)
        if first >= n_samples:
            ends = f"the file ends at {n_samples / sample_rate:g} s"
            raise AudioError(f"{path}: no crop at {start_seconds:g} s, {ends}", "empty")
        wanted = n_samples if duration_seconds is None else round(duration_seconds * sample_rate)
        last = min(n_samples, first + wanted)
        grid, margin = resample_grid(up, down), resample_margin(up, down)
        begin = max(0, first * down // up - margin) // grid * grid
        end = min(file.n_frames, -(-last * down // up) + margin)
        samples = _decode(path, file, begin, end)

    skip = begin // down * up
    return resample_up_down(samples, up, down)[first - skip : last - skip]


def audio_info(path: str | os.PathLike[str]) -> tuple[int, int, int]:
    """Sample rate in Hz, frames and channels, from the header if it tells (an MP3's frames may be an estimate).

    Raises:
        AudioError: as `open_audio`.
    """
    with open_audio(path) as file:
        return file.samplerate, file.n_frames, file.channels


def is_16_bit_audio(path: str | os.PathLike[str], sample_rate: int) -> bool:
    """Whether `read_audio` gives whole steps of 16 bits, by the header; False where it does not open."""
    try:
        with open_audio(path) as file:
            return file.samplerate == sample_rate and file.channels == 1 and file.subtype in _STEPS_OF_16_BITS
    except AudioError:
        return False


def check_samples(samples: np.ndarray) -> str | None:
    """Why samples ``(n_samples,)`` cannot be used: ``empty``, ``non-finite``, ``out-of-range``, ``silent``; or None.

    Out of range is a sample beyond `HIGHEST_PEAK`; silent is a signal that stays within ``SILENCE_PEAK`` of its
    middle, whatever its offset.
    """
    if samples.size == 0:
        return "empty"
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return "non-finite"
    if max(high, -low) > HIGHEST_PEAK:
        return "out-of-range"
    return "silent" if high - low < 2 * SILENCE_PEAK else None


def wrap_to(samples: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` samples of ``samples`` repeated without end: ``(n,)``.

    Raises:
        ValueError: there is no sample to repeat.
    """
    if samples.size == 0:
        raise ValueError("samples is empty, nothing can be repeated")
    return samples[:n] if n <= samples.size else np.resize(samples, n)


def open_audio(path: str | os.PathLike[str]) -> AudioFile:
    """Open a file for decoding.

    Raises:
        AudioError: as `check_container`; an undecodable file, one without samples, or with a sample rate that is none.
    """
    file = _open(path)
    if file.frames == _UNKNOWN_FRAMES:
        with _open(path) as other:
            file.n_frames = skip_frames(path, other, _UNKNOWN_FRAMES)
    if file.n_frames <= 0:
        file.close()
        raise AudioError(f"{path}: holds no samples that can be decoded", "empty")
    return file


def _open(path: str | os.PathLike[str]) -> AudioFile:
    try:
        file = AudioFile(path)
    except (soundfile.LibsndfileError, TypeError) as error:
        # TypeError: headerless audio (.raw), whose rate and channels are not known.
        detail = getattr(error, "error_string", "no header").strip().rstrip(".") or "unknown reason"
        raise AudioError(f"{path}: not audio that can be decoded ({detail})") from error
    try:
        check_rate(file.samplerate, path, partial(AudioError, reason="sample-rate"))
    except AudioError:
        file.close()
        raise
    return file


def read_frames(path: str | os.PathLike[str], file: AudioFile, n_frames: int) -> np.ndarray:
    """The next frames, channels averaged: ``(n_frames,)`` float32, fewer where the file ends.

    Raises:
        AudioError: damaged, or samples that are not finite or out of range.
    """
    at_once = max(_DECODED_AT_ONCE // file.channels, 1)
    pieces = []
    while n_frames > 0:
        try:
            frames = file.read(min(n_frames, at_once), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            detail = error.error_string.strip().rstrip(".")
            raise AudioError(f"{path}: damaged or truncated ({detail})", "truncated") from error
        if len(frames) == 0:
            break
        n_frames -= len(frames)
        pieces.append(_mono(path, frames))
    return pieces[0] if len(pieces) == 1 else np.concatenate([np.zeros(0, np.float32), *pieces])


def skip_frames(path: str | os.PathLike[str], file: AudioFile, n_frames: int) -> int:
    """Decode frames and forget them; how many there were. Errors are those of `read_frames`."""
    left = n_frames
    while left > 0 and (n_read := len(read_frames(path, file, min(left, _DECODED_AT_ONCE)))):
        left -= n_read
    return n_frames - left


def refuse_missing(path: str | os.PathLike[str], file: AudioFile, missing: int) -> None:
    """Raise where more frames are missing than a whole file may lack: an MP3's number of them is an estimate."""
    allowed = 2 * _MP3_FRAME + file.n_frames // 100 if file.subtype.startswith("MPEG") else 0
    if missing > allowed:
        raise AudioError(f"{path}: truncated, {missing} of {file.n_frames} frames are missing", "truncated")


def _decode(path: str | os.PathLike[str], file: AudioFile, begin: int, end: int) -> np.ndarray:
    """Frames ``begin`` to ``end``, channels averaged, ``(n_frames,)``, the same as a full decode gives."""
    origin = begin if _EXACT_SEEK.match(file.subtype) else 0
    if file.subtype == "VORBIS":
        last_page = file.n_frames if file.last_page_frames is None else file.last_page_frames
        origin = min(begin, max(0, file.n_frames - last_page))
    try:
        if origin > 0:
            file.seek(origin)
    except soundfile.LibsndfileError as error:
        detail = error.error_string.strip().rstrip(".")
        raise AudioError(f"{path}: damaged or truncated ({detail})", "truncated") from error
    skip_frames(path, file, begin - origin)
    samples = read_frames(path, file, end - begin)
    refuse_missing(path, file, end - begin - len(samples))
    if len(samples) == 0:
        raise AudioError(f"{path}: truncated, nothing is there from frame {begin} on", "truncated")
    return samples


def _mono(path: str | os.PathLike[str], frames: np.ndarray) -> np.ndarray:
    """The average of the channels of ``(n_frames, n_channels)``."""
    low, high = float(frames.min()), float(frames.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise AudioError(f"{path}: holds samples that are not finite numbers", "non-finite")
    if max(high, -low) > HIGHEST_PEAK:
        raise AudioError(
            f"{path}: out of range, it holds a sample of {max(high, low, key=abs):g} where full scale is 1; "
            "scale it to full scale, or repair it",
            "out-of-range",
        )
    return frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
