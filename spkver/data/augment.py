"""Waveform augmentation by batches, on the device that holds them: a CPU's data worker or a GPU.

Each function takes torch tensors ``(batch, n_samples)`` of float32 and changes each row by itself. Nothing here is
drawn (see `spkver.data.augment_draws`) and nothing waits for a GPU. torchaudio does what it has an operation for;
speeds are by `spkver.data.resampling`, which gives the samples that a single crop would have.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor
from torchaudio.functional import add_noise, fftconvolve, mu_law_decoding, mu_law_encoding

from spkver.data.augment_draws import AugmentDraws
from spkver.data.crop_batch import STEPS, AtSpeed, CropBatch, Kept, Sent
from spkver.data.recordings import Recordings
from spkver.data.resampling import can_resample_batch, resample_batch, resample_ratio, speed_ratio, windowed_sinc
from spkver.errors import SpkverError

SILENT_POWER = 1e-10
"""Noise below this mean power, a third of a 16-bit step, is silence: scaling it up makes rounding loud."""

TELEPHONE_RATE = 8000
_MU_LAW_VALUES = 256
# Taps on either side of a telephone's filter, at its rate: 16 ms, which is a transition of about 250 Hz.
_TELEPHONE_HALF = 128
# Lengths of responses are rounded up to multiples of this: a GPU plans the FFT of each length anew.
_LENGTH_STEP = 1600


def add_at_snr(speech: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """``speech + gain * noise``, where the mean power of the speech is ``snr_db`` ``(batch,)`` above that of the noise.

    Speech comes back as it was where the noise is silent.
    """
    silent = _power(noise) < SILENT_POWER
    return torch.where(silent, speech, add_noise(speech, noise, snr_db))


def reverberate(speech: Tensor, responses: Tensor, peaks: list[int]) -> Tensor:
    """Convolve with room impulse responses ``(batch, n)``; length, timing and mean power stay.

    A response's peak, its direct path, is time 0: what comes before it arrives earlier.
    """
    full = _convolved(speech, responses)
    wet = torch.stack([row[peak : peak + speech.shape[1]] for row, peak in zip(full, peaks)])
    power = _power(wet)
    return torch.where(power < SILENT_POWER, speech, wet * (_power(speech) / power).sqrt())


def clip(speech: Tensor, counts: Tensor, most: int) -> Tensor:
    """Clip each row's loudest ``counts`` ``(batch,)`` samples, ``most`` at most, at the level of the last of them."""
    level = speech.abs().topk(most, dim=1).values.gather(1, counts[:, None] - 1)
    return speech.clamp(-level, level)


def telephone(speech: Tensor, sample_rate: int, band_hz: Sequence[float]) -> Tensor:
    """What a telephone leaves: a band, at 8 kHz, in 8 bits of mu-law (ITU-T G.711's companding, mu = 255)."""
    narrow = _at_rate(speech, sample_rate, TELEPHONE_RATE)
    band = _band_pass(*band_hz, speech.device)
    narrow = _convolved(narrow, band)[:, _TELEPHONE_HALF:][:, : narrow.shape[1]]
    decoded = mu_law_decoding(mu_law_encoding(narrow.clamp(-1, 1), _MU_LAW_VALUES), _MU_LAW_VALUES)
    return _at_rate(decoded, TELEPHONE_RATE, sample_rate)[:, : speech.shape[1]]


class Augmenter:
    """Applies what was drawn for a batch, on one device.

    Speed, room, noise or babble, gain, clipping, telephone, in this order; a codec by whoever read the crop.

    Args:
        draws: what batches are drawn by. Of its noises and rooms as many as fit in ``augment.recordings_megabytes`` are
            read now and kept.
        device: where batches lie.

    Raises:
        SpkverError: a recording cannot be read, there is no memory for them, or no way to a telephone's sample rate.
    """

    def __init__(self, draws: AugmentDraws, device: torch.device):
        augment, sample_rate = draws.augment, draws.sample_rate
        to_telephone = resample_ratio(sample_rate, TELEPHONE_RATE)
        if augment.telephone.probability > 0 and not can_resample_batch(*to_telephone):
            raise SpkverError(
                f"augment.telephone.probability is {augment.telephone.probability:g}, but a telephone's "
                f"{TELEPHONE_RATE} Hz are not to be had from data.sample_rate {sample_rate}; set it to 0"
            )
        self.augment, self.sample_rate = augment, sample_rate
        self.crop_samples = draws.crop_samples
        self.device = device
        try:
            self._keep(draws.noises, draws.rooms, augment.recordings_megabytes)
        except (MemoryError, torch.OutOfMemoryError):
            raise SpkverError(
                f"no memory for {augment.recordings_megabytes:g} MB of noise and room recordings ({device.type}); "
                "lower augment.recordings_megabytes"
            ) from None

    def _keep(self, noises: Recordings | None, rooms: Recordings | None, megabytes: float) -> None:
        """Read rooms, for which half of the memory is enough where there are noises, too, and noises."""
        if rooms is not None:
            samples = rooms.read(megabytes if noises is None else megabytes / 2)
            megabytes -= samples.nbytes / 1e6
            self._peaks = {begin: int(samples[begin:][:length].abs().argmax()) for begin, length in rooms.kept.values()}
            self._rooms = samples.to(self.device)
        if noises is not None:
            self._noises = noises.read(megabytes).to(self.device)

    @torch.no_grad()
    def __call__(self, batch: CropBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Waveforms ``(batch, crop_samples)`` float32, labels and formants ``(batch,)``."""
        waveforms = self._played(batch.speeds)
        for room in batch.rooms:
            waveforms[room.rows] = reverberate(waveforms[room.rows], *self._responses(room))
        for added in batch.added:
            rows = added.rows
            waveforms[rows] = add_at_snr(waveforms[rows], self._noise(added), batch.snr_db[rows])
        if batch.gain_db is not None:
            waveforms *= 10 ** (batch.gain_db / 20)[:, None]
        if batch.clipped is not None:
            rows, counts, most = batch.clipped
            waveforms[rows] = clip(waveforms[rows], counts, most)
        if batch.telephone is not None:
            rows, band = batch.telephone, self.augment.telephone.band_hz
            waveforms[rows] = telephone(waveforms[rows], self.sample_rate, band)
        return waveforms, batch.labels, batch.formants

    def _played(self, speeds: list[AtSpeed]) -> Tensor:
        """All crops at their speeds: ``(batch, crop_samples)``."""
        n_rows = sum(len(each.rows) for each in speeds)
        waveforms = torch.empty(n_rows, self.crop_samples, device=speeds[0].samples.device)
        for rows, samples, factor in speeds:
            if samples.dtype == torch.int16:
                samples = samples.float() / STEPS
            waveforms[rows] = resample_batch(samples, *speed_ratio(factor))[:, : self.crop_samples]
        return waveforms

    def _responses(self, room: Kept | Sent) -> tuple[Tensor, list[int]]:
        if isinstance(room, Sent):
            return room.samples, room.peaks
        responses = _slices(self._rooms, room.begins, room.longest)
        inside = torch.arange(room.longest, device=responses.device) < room.lengths[:, None]
        return responses * inside, [self._peaks[begin] for begin in room.begins]

    def _noise(self, added: Kept | Sent) -> Tensor:
        if isinstance(added, Sent):
            return added.samples
        return _slices(self._noises, added.begins, self.crop_samples)


def _slices(samples: Tensor, begins: list[int], length: int) -> Tensor:
    """``length`` samples from each place in ``(n,)`` on: ``(len(begins), length)``."""
    return torch.stack([samples[begin : begin + length] for begin in begins])


def _power(samples: Tensor) -> Tensor:
    """Mean power of each row: ``(batch, 1)``."""
    return torch.linalg.vector_norm(samples, dim=1, keepdim=True).square() / samples.shape[1]


def _convolved(samples: Tensor, responses: Tensor) -> Tensor:
    """The rows of both, convolved: ``(batch, n)``, at least as long as both together less 1."""
    n, length = samples.shape[1], responses.shape[1]
    least = n + -(-length // _LENGTH_STEP) * _LENGTH_STEP - 1
    return fftconvolve(samples, F.pad(responses, (0, next_fast_len(least, real=True) + 1 - n - length)))


def _at_rate(samples: Tensor, from_rate: int, to_rate: int) -> Tensor:
    return resample_batch(samples, *resample_ratio(from_rate, to_rate))


@lru_cache(maxsize=8)
def _band_pass(low_hz: float, high_hz: float, device: torch.device) -> Tensor:
    """``(1, n_taps)`` of a linear-phase filter at a telephone's rate."""
    low, high = (windowed_sinc(_TELEPHONE_HALF, 2 * hz / TELEPHONE_RATE) for hz in (low_hz, high_hz))
    return torch.from_numpy(high - low).float().to(device)[None]
