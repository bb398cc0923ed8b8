"""Where a recording holds speech, by its energy; windows of speech along it; and whether it holds any at all.

Speech is loud against the pauses between words. In each stretch of half a minute the energy of the filterbank
between 200 and 4000 Hz (hum and hiss lie outside) is compared with the quietest and the loudest frames of that
stretch: from 30 dB below the loud ones on it counts, but no lower than a quarter of the way up from the quiet ones,
and 3 dB. Where the two are less than 6 dB apart there is no speech, or it drowns in noise.

- It is simple: it does not know what speech sounds like. A dog in a quiet room counts, speech that is hardly louder
  than steady noise does not. Of what it finds in clean speech (speechocean762) it finds 85 % under white noise at
  20 dB, 78 % at 12 dB, 66 % at 9 dB, and takes none of the noise between for speech.
- Each stretch decides by itself: a whisper after a shout is found, and memory does not grow with the recording.
- Whether a recording is refused is another question (`is_steady`), and a careful one: only what is as steady as
  noise, hum or silence in every band is refused, so that a word in loud noise is not. Music, and noise that varies
  (a bark, a passing car), are not refused: energy alone does not tell them from speech.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from spkver.data.audio import check_samples
from spkver.errors import SpkverError
from spkver.features import Fbank

BLOCK_SECONDS = 30.0
LOW_HZ, HIGH_HZ = 200.0, 4000.0
BELOW_LOUD_DB = 30.0
ABOVE_QUIET_SHARE, ABOVE_QUIET_DB = 0.25, 3.0
LEAST_CONTRAST_DB = 6.0
# Clicks are shorter, pauses within a sentence too, words longer.
CLICK_SECONDS, PAUSE_SECONDS, WORD_SECONDS, EDGE_SECONDS = 0.05, 0.3, 0.2, 0.05
# Of a window: what is less tells nothing about a voice.
LEAST_SPEECH_SHARE, LEAST_SPEECH_SECONDS = 1 / 3, 0.5
# A sound is steady where no band of its spectrum varies by more than this within a few seconds; by less where there
# is little of it: of 8,419 single words (Speech Commands) the steadiest, into a poor microphone, varies by 3.46 dB.
STEADY_DB, STEADY_SECONDS, STEADY_BANDS, SMOOTHED_SECONDS = 4.5, 3.0, 8, 0.1
SHORT_STEADY_DB, SHORT_SECONDS = 3.4, 1.5
# Energy of a frame, on the 16-bit range, below which it holds digital zeros.
_DIGITAL_ZERO = 1.0
NO_SPEECH = "no-speech"
"""Why a recording is unusable, where that is one word."""


class SpeechWindow(NamedTuple):
    """A window along a recording."""

    start_seconds: float
    end_seconds: float
    first_seconds: float  # where speech begins in it
    last_seconds: float  # .. and ends
    speech: np.ndarray  # (n_samples,) what is speech in it, one piece after another


class Chosen(NamedTuple):
    """What is to be embedded of a recording."""

    samples: np.ndarray  # (n_samples,) float32; empty where there is no speech
    recorded_seconds: float  # length of the whole recording


@torch.inference_mode()
def detect_speech(samples: np.ndarray, fbank: Fbank) -> np.ndarray:
    """Which samples are speech.

    Args:
        samples: (n_samples,) float32 at the rate of ``fbank``; half a minute of them, or less.
        fbank: its frames decide.

    Returns:
        (n_samples,) bool.
    """
    if len(samples) < fbank.frame_length or check_samples(samples):
        return np.zeros(len(samples), bool)
    features, _ = fbank(torch.from_numpy(samples)[None].to(fbank.mel.device))
    centre_hz = fbank.mel[0].argmax(0) * (fbank.sample_rate / fbank.n_fft)
    speech_bands = features[0][:, (centre_hz >= LOW_HZ) & (centre_hz <= HIGH_HZ)]
    energy_db = (speech_bands.logsumexp(1) * (10 / np.log(10))).cpu().numpy()
    per_second = fbank.sample_rate / fbank.frame_shift
    frames = _smooth(energy_db >= _threshold_db(energy_db), per_second)
    # A sample goes with the frame in whose middle it lies.
    frame = (np.arange(len(samples)) - (fbank.frame_length - fbank.frame_shift) // 2) // fbank.frame_shift
    return frames[np.clip(frame, 0, len(frames) - 1)]


def is_steady(samples: np.ndarray, fbank: Fbank) -> bool:
    """Whether a recording is nothing but a steady sound: hiss, hum, a tone, or silence with a little noise in it.

    Args:
        samples: (n_samples,) float32 at the rate of ``fbank``, of any length.
        fbank: its frames decide.

    Returns:
        False also for less than half a second, which is too short to tell, and for whatever varies, speech or not.
    """
    piece, hop = (round(seconds * fbank.sample_rate) for seconds in (STEADY_SECONDS, STEADY_SECONDS / 2))
    starts = range(0, max(len(samples) - hop, 1), hop)
    return all(_is_steady_piece(samples[start : start + piece], fbank) for start in starts)


def choose_speech(blocks: Callable[[], Iterable[np.ndarray]], fbank: Fbank, most_seconds: float) -> Chosen:
    """What to embed of a recording: all of a short one, of a long one its speech.

    Of that at most so much is taken, from its middle, one piece after another. Where no speech stands out, all that is
    not steady counts, since it may be speech in loud noise.

    Args:
        blocks: gives the recording piece by piece, of `BLOCK_SECONDS` each, as often as it is called; memory does not
            grow with the recording.
        fbank: of its sample rate.
        most_seconds: of what is chosen; a recording that is not longer is taken whole.
    """
    rate = fbank.sample_rate
    most, least = round(most_seconds * rate), round(LEAST_SPEECH_SECONDS * rate)
    for is_wanted in (detect_speech, _unsteady):
        n_all, n_wanted = 0, 0
        for block in _none_short(blocks(), rate):
            n_all += len(block)
            n_wanted += int(is_wanted(block, fbank).sum())
        if n_all <= most:
            whole = np.concatenate(list(blocks()))
            return Chosen(whole[:0] if is_steady(whole, fbank) else whole, n_all / rate)
        if n_wanted >= min(least, most):
            found = _middle_of_wanted(_none_short(blocks(), rate), partial(is_wanted, fbank=fbank), n_wanted, most)
            return Chosen(found, n_all / rate)
    return Chosen(np.zeros(0, np.float32), n_all / rate)


def speech_windows(
    blocks: Iterable[np.ndarray], fbank: Fbank, window_seconds: float, hop_seconds: float
) -> Iterator[SpeechWindow]:
    """Windows along a recording that hold enough speech: a third of the window, and half a second.

    Args:
        blocks: the recording piece by piece, of `BLOCK_SECONDS` each.
        fbank: of its sample rate.
        window_seconds, hop_seconds: length of a window, and from its start to that of the next. The last window
            reaches to the end and is shorter.

    Raises:
        SpkverError: a window of less than half a second, or a hop that is not within it.
    """
    if not window_seconds >= LEAST_SPEECH_SECONDS:
        raise SpkverError(f"windows of {window_seconds:g} s are too short to tell a voice; take half a second or more")
    if not 0.01 <= hop_seconds <= window_seconds:
        raise SpkverError(f"a hop of {hop_seconds:g} s must lie within the window of {window_seconds:g} s")
    rate = fbank.sample_rate
    window, hop = round(window_seconds * rate), round(hop_seconds * rate)
    samples, speech, start = np.zeros(0, np.float32), np.zeros(0, bool), 0

    def cut(n: int) -> Iterator[SpeechWindow]:
        spoken = samples[:n][speech[:n]]
        if len(spoken) >= max(LEAST_SPEECH_SHARE * n, LEAST_SPEECH_SECONDS * rate):
            places = np.flatnonzero(speech[:n])
            bounds = np.array([0, n, places[0], places[-1] + 1]) + start
            window_start, window_end, first, last = (bounds / rate).tolist()
            yield SpeechWindow(window_start, window_end, first, last, spoken)

    for block in _none_short(blocks, rate):
        samples = np.concatenate([samples, block])
        speech = np.concatenate([speech, detect_speech(block, fbank)])
        while len(samples) >= window:
            yield from cut(window)
            samples, speech, start = samples[hop:], speech[hop:], start + hop
    if start == 0 or len(samples) > window - hop:  # what no window has reached
        yield from cut(len(samples))


def _middle_of_wanted(
    blocks: Iterable[np.ndarray], wanted: Callable[[np.ndarray], np.ndarray], n_wanted: int, most: int
) -> np.ndarray:
    """The middle ``most`` of the ``n_wanted`` samples that are wanted."""
    first = max(n_wanted - most, 0) // 2
    last = first + min(most, n_wanted)
    kept, place = [], 0
    for block in blocks:
        chosen = block[wanted(block)]
        kept.append(chosen[max(first - place, 0) : max(last - place, 0)])
        place += len(chosen)
        if place >= last:
            break
    return np.concatenate(kept)


def _unsteady(block: np.ndarray, fbank: Fbank) -> np.ndarray:
    """All of a block that is not steady, and nothing of one that is: (n_samples,) bool."""
    return np.full(len(block), not check_samples(block) and not is_steady(block, fbank))


@torch.inference_mode()
def _is_steady_piece(samples: np.ndarray, fbank: Fbank) -> bool:
    if len(samples) < LEAST_SPEECH_SECONDS * fbank.sample_rate or _varies(samples, fbank):
        return False
    features, _ = fbank(torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None].to(fbank.mel.device))
    energy = features[0].double().exp().cpu().numpy()
    # Frames that reach into digital zeros tell where a recorder was switched on, not how steady the sound is.
    edge = -(-fbank.frame_length // fbank.frame_shift)
    sound = np.convolve(energy.sum(1) <= _DIGITAL_ZERO, np.ones(2 * edge + 1), "same") == 0
    if sound.sum() * fbank.frame_shift < LEAST_SPEECH_SECONDS * fbank.sample_rate / 2:
        return False
    bands = np.add.reduceat(energy[sound], np.arange(STEADY_BANDS) * fbank.n_mels // STEADY_BANDS, axis=1)
    most_db = STEADY_DB if len(samples) >= SHORT_SECONDS * fbank.sample_rate else SHORT_STEADY_DB
    return bool(_range_db(bands, fbank).max() < most_db)


def _varies(samples: np.ndarray, fbank: Fbank) -> bool:
    """Whether the whole energy varies by more than any band of a steady sound may: a quick look."""
    shift = fbank.frame_shift
    frames = samples[: len(samples) // shift * shift].reshape(-1, shift)
    frames = frames - frames.mean(1, keepdims=True)
    energy = np.einsum("ij,ij->i", frames, frames)
    return bool(energy.all() and _range_db(energy[:, None], fbank)[0] > 2 * STEADY_DB)


def _range_db(energy: np.ndarray, fbank: Fbank) -> np.ndarray:
    """How far apart quiet and loud are in each band, of energies (n_frames, n_bands): (n_bands,) dB."""
    n = min(round(SMOOTHED_SECONDS * fbank.sample_rate / fbank.frame_shift), max(len(energy) // 4, 1))
    summed = np.cumsum(np.concatenate([np.zeros((1, energy.shape[1])), energy]), axis=0)
    level_db = 10 * np.log10(summed[n:] - summed[:-n] + np.finfo(np.float32).eps)
    return _percentile(level_db, 0.95) - _percentile(level_db, 0.05)


def _percentile(values: np.ndarray, share: float) -> np.ndarray:
    """As numpy's, without its checks, which would cost more than all else for so few numbers."""
    ordered = np.sort(values, axis=0)
    place = share * (len(ordered) - 1)
    below = ordered[int(place)]
    return below + (place - int(place)) * (ordered[math.ceil(place)] - below)


def _none_short(blocks: Iterable[np.ndarray], rate: int) -> Iterator[np.ndarray]:
    """The last piece with the one before where it is too short to have loud and quiet frames of its own."""
    held = None
    for block in blocks:
        if held is not None and len(block) < BLOCK_SECONDS / 2 * rate:
            held = np.concatenate([held, block])
            continue
        if held is not None:
            yield held
        held = block
    if held is not None:
        yield held


def _threshold_db(energy_db: np.ndarray) -> float:
    """The energy from which on a frame is speech; infinite where none is."""
    quiet, loud = np.percentile(energy_db, [5, 95])
    if loud - quiet < LEAST_CONTRAST_DB:
        return np.inf
    return max(loud - BELOW_LOUD_DB, quiet + max(ABOVE_QUIET_SHARE * (loud - quiet), ABOVE_QUIET_DB))


def _smooth(speech: np.ndarray, frames_per_second: float) -> np.ndarray:
    """Frames without clicks, pauses within a sentence, and sounds shorter than a word; edges a little wider."""
    speech = _drop_runs(speech, CLICK_SECONDS * frames_per_second)
    pauses = ~speech
    # A pause at either end is no pause within a sentence.
    inner = np.maximum.accumulate(speech) & np.maximum.accumulate(speech[::-1])[::-1]
    speech = ~(_drop_runs(pauses & inner, PAUSE_SECONDS * frames_per_second) | (pauses & ~inner))
    speech = _drop_runs(speech, WORD_SECONDS * frames_per_second)
    edge = round(EDGE_SECONDS * frames_per_second)
    return np.convolve(speech, np.ones(2 * edge + 1))[edge : edge + len(speech)] > 0


def _drop_runs(mask: np.ndarray, shortest: float) -> np.ndarray:
    """Without its runs of True that are shorter."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]))).reshape(-1, 2)
    kept = np.zeros(len(mask), bool)
    for first, end in edges[edges[:, 1] - edges[:, 0] >= shortest]:
        kept[first:end] = True
    return kept
