"""Audio files to mono float32 samples at one rate, reading no more of a file than the crop needs.

What libsndfile promises and what it does differ (measured with 1.2.2; the tests hold each):

- Seeking is exact in PCM, FLAC and Ogg Vorbis, but not inside the last page of a Vorbis file, where
  it misses by the samples trimmed at the end (libsndfile issue 885): such a crop is decoded from the
  start of that page. Opus and MP3 (variable bit rate) decoders carry state across a seek and give
  other samples: those two are decoded from the start of the file. Convert long ones to FLAC.
- A WAV or Ogg file that was cut off is opened as if it were only shorter: the sizes in its header,
  or in its last page, are compared with the file. An Ogg stream cut between two pages cannot be told
  from a whole one.
- The length of an MP3 without a Xing header is an estimate: reading up to 1 % less is accepted, and what
  lies beyond the estimate is never reached.
"""

import math
import os
import re
import struct
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soundfile
import torch
from scipy.signal import firwin

from spkver.errors import SpkverError

SILENCE_PEAK = 1e-4
"""Samples that stay within this of their middle are silence: -80 dB of full scale, 3 steps of 16 bits."""

_EXACT_SEEK = re.compile("PCM_|FLOAT|DOUBLE|ULAW|ALAW|VORBIS")
_CUT_CHUNK = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
# Programs that write WAV into a pipe do not know its size and write (nearly) the largest number.
_SIZE_UNKNOWN = 0x7FFF_0000
_LARGEST_OGG_PAGE = 65_307
_MP3_FRAME = 1152
# Of the resampling filter: zero crossings on each side, cut-off relative to the lower Nyquist frequency.
_ZERO_CROSSINGS = 16
_ROLL_OFF = 0.95
# Of its matrix products: least number of output samples a window, and input samples that are laid out at once.
_LEAST_AT_ONCE = 32
_WINDOW_SAMPLES = 1 << 17


class AudioError(SpkverError):
    """An audio file that cannot be used; ``reason`` is one word for lists."""

    def __init__(self, message: str, reason: str = "unreadable"):
        super().__init__(message)
        self.reason = reason


def read_audio(
    path: str | os.PathLike,
    sample_rate: int,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> np.ndarray:
    """Read a file, or a crop of it, as mono samples at ``sample_rate``.

    Channels are averaged. A crop holds the same samples as the same span of the whole file, also
    after resampling: the filter is given what lies around the crop.

    Args:
        path: wav, flac, ogg (Vorbis, Opus), mp3 or whatever else libsndfile reads.
        sample_rate: of the samples returned, Hz.
        start_seconds: where the crop begins.
        duration_seconds: its length; None is to the end. A crop that reaches past the end is shorter.

    Returns:
        float32 ``(n_samples,)``, at least one sample, all finite.

    Raises:
        AudioError: a missing, undecodable, empty or truncated file, samples that are not finite, or a
            crop that starts after the end.
    """
    if start_seconds < 0 or (duration_seconds is not None and duration_seconds * sample_rate < 0.5):
        raise ValueError(f"no crop from {start_seconds} s of {duration_seconds} s")
    with open_audio(path) as file:
        page_frames = check_complete(path, file)
        if file.frames == 0:
            raise AudioError(f"{path}: the file holds no samples", "empty")
        up, down = resample_ratio(file.samplerate, sample_rate)
        n_samples = -(-file.frames * up // down)
        first = round(start_seconds * sample_rate)
        if first >= n_samples:
            ends = f"the file ends at {n_samples / sample_rate:g} s"
            raise AudioError(f"{path}: no crop at {start_seconds:g} s, {ends}", "empty")
        wanted = n_samples if duration_seconds is None else round(duration_seconds * sample_rate)
        last = min(n_samples, first + wanted)
        # Only from a multiple of `down` frames on do resampled crop and resampled file share their grid.
        margin = resample_margin(up, down)
        begin = max(0, first * down // up - margin) // down * down
        end = min(file.frames, -(-last * down // up) + margin)
        frames = _decode(path, file, begin, end, page_frames)

    samples = frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1)
    if not (np.isfinite(samples.min()) and np.isfinite(samples.max())):
        raise AudioError(f"{path}: holds samples that are not finite numbers", "non-finite")
    skip = begin // down * up
    return resample_up_down(samples, up, down)[first - skip : last - skip]


def audio_info(path: str | os.PathLike) -> tuple[int, int, int]:
    """Sample rate in Hz, frames and channels, from the header alone (an MP3's frames may be an estimate).

    Raises:
        AudioError: a missing, undecodable or empty file.
    """
    with open_audio(path) as file:
        return file.samplerate, file.frames, file.channels


def check_samples(samples: np.ndarray) -> str | None:
    """Why samples ``(n_samples,)`` are of no use: ``empty``, ``non-finite``, ``silent``; None if they are.

    Silent is a signal that stays within ``SILENCE_PEAK`` of its middle, whatever its offset.
    """
    if samples.size == 0:
        return "empty"
    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return "non-finite"
    return "silent" if high - low < 2 * SILENCE_PEAK else None


def wrap_to(samples: np.ndarray, n: int) -> np.ndarray:
    """The first ``n`` samples of ``samples`` repeated without end: ``(n,)``.

    Raises:
        ValueError: there is no sample to repeat.
    """
    if samples.size == 0:
        raise ValueError("samples is empty, nothing can be repeated")
    return samples[:n] if n <= samples.size else np.resize(samples, n)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample ``(n,)`` from ``from_rate`` to ``to_rate`` Hz: ``(ceil(n to_rate / from_rate),)`` float32."""
    return resample_up_down(samples, *resample_ratio(from_rate, to_rate))


def speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play ``(n_samples,)`` faster by ``factor``: ``n_samples / factor`` samples, pitch and formants higher.

    Speed perturbation (Ko et al., "Audio augmentation for speech recognition", Interspeech 2015) by
    rational resampling; the factor is taken to the nearest fraction with a denominator up to 100.

    Raises:
        ValueError: a factor that is not positive.
    """
    return resample_up_down(samples, *speed_ratio(factor))


@lru_cache(maxsize=64)
def speed_ratio(factor: float) -> tuple[int, int]:
    """The smallest integers ``(up, down)`` by which samples are played faster by ``factor``, see `speed`."""
    ratio = Fraction(factor).limit_denominator(100)
    if ratio <= 0:
        raise ValueError(f"factor must be positive, got {factor}")
    return ratio.denominator, ratio.numerator


def open_audio(path: str | os.PathLike, kind: type[soundfile.SoundFile] = soundfile.SoundFile) -> soundfile.SoundFile:
    """Open a file as ``kind``; raises AudioError as `audio_info`."""
    try:
        return kind(os.fsencode(path))  # bytes: the name may be in another encoding than UTF-8
    except (soundfile.LibsndfileError, TypeError) as error:
        # TypeError: headerless audio (.raw), whose rate and channels nobody has told.
        if not os.path.isfile(path):
            raise AudioError(f"{path}: no such audio file", "missing") from error
        if os.path.getsize(path) == 0:
            raise AudioError(f"{path}: the file is empty (0 bytes)", "empty") from error
        detail = getattr(error, "error_string", "no header").strip().rstrip(".") or "unknown reason"
        raise AudioError(f"{path}: not audio that can be decoded ({detail})") from error


def _decode(path: str | os.PathLike, file: soundfile.SoundFile, begin: int, end: int, page_frames: int) -> np.ndarray:
    """Frames ``begin`` to ``end``, ``(n_frames, n_channels)``, the same as a full decode gives."""
    origin = begin if _EXACT_SEEK.match(file.subtype) else 0
    if file.subtype == "VORBIS":
        origin = min(begin, max(0, file.frames - page_frames))
    try:
        if origin > 0:
            file.seek(origin)
        # In one call: soundfile seeks after each read, which is the very thing to avoid here.
        frames = file.read(end - origin, dtype="float32", always_2d=True)[begin - origin :]
    except soundfile.LibsndfileError as error:
        detail = error.error_string.strip().rstrip(".")
        raise AudioError(f"{path}: damaged or truncated ({detail})", "truncated") from error
    missing = end - begin - len(frames)
    if missing > missing_frames_allowed(file) or len(frames) == 0:
        raise AudioError(f"{path}: truncated, {missing} of {file.frames} frames are missing", "truncated")
    return frames


def missing_frames_allowed(file: soundfile.SoundFile) -> int:
    """How many frames less than it promises a whole file may hold: an MP3's number is an estimate."""
    return 2 * _MP3_FRAME + file.frames // 100 if file.subtype.startswith("MPEG") else 0


def check_complete(path: str | os.PathLike, file: soundfile.SoundFile) -> int:
    """Raise AudioError where the container says that the file is cut; frames in an Ogg file's last page."""
    if file.format == "OGG":
        return _last_ogg_page(path, file.frames)
    chunk = _CUT_CHUNK.search(file.extra_info)
    if chunk and int(chunk[2]) < int(chunk[1]) < _SIZE_UNKNOWN:
        raise AudioError(
            f"{path}: truncated, the header promises {chunk[1]} bytes of samples and {chunk[2]} are there",
            "truncated",
        )
    return 0


def _last_ogg_page(path: str | os.PathLike, n_frames: int) -> int:
    """Frames in the last page (RFC 3533); all ``n_frames`` where the pages do not tell.

    Raises:
        AudioError: the file ends inside that page.
    """
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2 * _LARGEST_OGG_PAGE))
        tail = file.read()
    last = tail.rfind(b"OggS")
    page = tail[last:] if last >= 0 else b""
    n_segments = page[26] if len(page) > 26 else 255
    segments = page[27 : 27 + n_segments]
    if len(segments) < n_segments or len(page) < 27 + n_segments + sum(segments):
        raise AudioError(f"{path}: truncated, it ends within an Ogg page", "truncated")
    before = tail.rfind(b"OggS", 0, last)
    if before < 0:
        return n_frames
    position, stream = struct.unpack_from("<qI", tail, last + 6)
    position_before, stream_before = struct.unpack_from("<qI", tail, before + 6)
    # -1 is the position of a page on which no packet ends.
    if stream != stream_before or position_before < 0 or position < position_before:
        return n_frames
    return position - position_before


def resample_ratio(from_rate: int, to_rate: int) -> tuple[int, int]:
    """``(up, down)`` in lowest terms."""
    ratio = Fraction(to_rate, from_rate)
    return ratio.numerator, ratio.denominator


def resample_margin(up: int, down: int) -> int:
    """Frames on either side that a resampled sample depends on."""
    return 0 if up == down else _ZERO_CROSSINGS * max(up, down) // up + 1


def resample_up_down(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    """``(n,)`` to ``(ceil(n up / down),)`` by a polyphase filter, float32.

    As ``scipy.signal.resample_poly`` with the taps of `low_pass`, by matrix products, which is several times as fast:
    so many neighbouring samples of the output depend on a window of the input in the same way wherever they lie.
    """
    if up == down:
        return samples.astype(np.float32, copy=False)
    weights, before, step = window_weights(up, down)
    width, at_once = weights.shape
    n, n_out = len(samples), -(-len(samples) * up // down)
    n_windows = -(-n_out // at_once)
    padded = torch.zeros(max((n_windows - 1) * step + width, before + n))
    padded.numpy()[before : before + n] = samples
    windows = padded.as_strided((n_windows, width), (step, 1))
    out = torch.empty(n_windows, at_once)
    n_rows = max(_WINDOW_SAMPLES // width, 1)
    for piece, into in zip(windows.split(n_rows), out.split(n_rows)):
        torch.matmul(piece, weights, out=into)
    return out.flatten()[:n_out].numpy()


@lru_cache(maxsize=64)
def window_weights(up: int, down: int) -> tuple[torch.Tensor, int, int]:
    """How ``at_once`` neighbouring output samples depend on the input; kept, as it costs more than a crop's filtering.

    Returns:
        Their weights of a window's samples ``(width, at_once)``; by how many samples the window begins before the first
        one's place; by how many samples the next window begins later.
    """
    periods = -(-_LEAST_AT_ONCE // up)
    taps = up * low_pass(up, down)
    half = len(taps) // 2
    before = half // up
    width = before + 1 + (half + (up * periods - 1) * down) // up
    tap = half + np.arange(up * periods) * down + (before - np.arange(width)[:, None]) * up
    inside = (tap >= 0) & (tap < len(taps))
    weights = np.where(inside, taps[np.where(inside, tap, 0)], 0.0).astype(np.float32)
    return torch.from_numpy(weights), before, periods * down


def low_pass(up: int, down: int) -> np.ndarray:
    """The taps that ``resample_up_down`` filters by: linear-phase Kaiser, about 65 dB of rejection."""
    widest = max(up, down)
    taps = firwin(2 * _ZERO_CROSSINGS * widest + 1, _ROLL_OFF / widest, window=("kaiser", 6.5))
    return taps.astype(np.float32)
