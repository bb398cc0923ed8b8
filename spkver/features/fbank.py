"""Waveforms to log-mel filterbanks, in batches; mean normalisation.

One scale and one floor, whatever the file format. Waveforms come in as [-1, 1] and are
taken to the 16-bit range before anything else, as Kaldi and WeSpeaker do. Under mean normalisation
the scale cancels, except where the floor is reached; Kaldi's floor (the float32 epsilon) on [-1, 1]
samples would cut off 0.7 % of the bins of real speech, on the 16-bit range almost nothing but digital
silence. ``dither`` is therefore also in 16-bit steps, where Kaldi's 1.0 means what it says.
On a CPU a kernel of `spkver.native` makes them, where it is there and no gradient is wanted.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spkver import native
from spkver.errors import SpkverError
from spkver.features.batch_part import drawn
from spkver.features.mel_bank import band_smoothing, mel_bank

INT16_RANGE = 32768.0
ENERGY_FLOOR = torch.finfo(torch.float32).eps
PREEMPHASIS = 0.97
# So many frames and their spectra stay in a core's cache, which takes about a quarter off the time of
# 64 x 2 s in one go, and an hour of audio needs little more memory than its features.
FRAMES_AT_ONCE = 1024
# Of lengths and places; what uint8 indexes is a mask.
_INTEGERS = (torch.int16, torch.int32, torch.int64)


class Fbank(nn.Module):
    """Kaldi's log-mel filterbank of a batch of waveforms, in float32.

    Equal to ``torchaudio.compliance.kaldi.fbank`` on the 16-bit range: whole frames only
    (``snip_edges``), DC removed from each frame, pre-emphasis 0.97, FFT over the next power of two,
    power spectrum, triangles on Kaldi's mel scale, natural logarithm.

    Args:
        sample_rate: of the waveforms, in Hz.
        n_mels: number of mel bins.
        frame_length_seconds, frame_shift_seconds: of the analysis frames.
        window: ``"hamming"`` (WeSpeaker) or ``"povey"`` (Kaldi's default).
        low_hz, high_hz: edges of the filterbank; ``high_hz=None`` is half of the sample rate.
        dither: standard deviation, in 16-bit steps, of noise added to the waveform in training mode.
        formant_factors: other vocal tracts that ``forward`` can put in place of the recorded one: the
            frequency axis is stretched by the factor (N. Jaitly, G. Hinton, "Vocal Tract Length Perturbation
            (VTLP) improves speech recognition", ICML workshop 2013). The first is 1.0, the recorded one.
        formant_envelope_hz: None: a factor stretches the whole spectrum, so that the harmonics of the voice go with
            its formants, and with a speed of the inverse factor there is the recorded spectrum again. Else only what
            is left of the change when a Gaussian of this standard deviation has smoothed it over frequency: the
            formants move, and the harmonics stay.

    Raises:
        SpkverError: settings that give no filterbank.
    """

    window: Tensor
    mel: Tensor
    envelope: Tensor | None

    def __init__(
        self,
        sample_rate: int = 16000,
        n_mels: int = 80,
        frame_length_seconds: float = 0.025,
        frame_shift_seconds: float = 0.010,
        window: str = "hamming",
        low_hz: float = 20.0,
        high_hz: float | None = None,
        dither: float = 0.0,
        formant_factors: Sequence[float] = (1.0,),
        formant_envelope_hz: float | None = None,
    ):
        super().__init__()
        # Cut to whole samples, as in Kaldi; the small sum undoes float error just below a whole number.
        self.frame_length = int(sample_rate * frame_length_seconds + 1e-6)
        self.frame_shift = int(sample_rate * frame_shift_seconds + 1e-6)
        if self.frame_length < 2 or self.frame_shift < 1:
            raise SpkverError(
                f"frames of {frame_length_seconds} s every {frame_shift_seconds} s are less than a sample "
                f"at {sample_rate} Hz: give longer ones"
            )
        self.sample_rate = sample_rate
        self.n_mels = n_mels
        self.dither = dither
        self.n_fft = 1 << (self.frame_length - 1).bit_length()
        high_hz = sample_rate / 2 if high_hz is None else high_hz
        self.register_buffer("window", _window(window, self.frame_length), persistent=False)
        banks = [mel_bank(sample_rate, self.n_fft, n_mels, low_hz, high_hz, factor) for factor in formant_factors]
        envelope = None
        if formant_envelope_hz is not None and len(banks) > 1:
            # What is moved and what it is moved from, of one spectrum.
            banks = [torch.cat([bank, banks[0]], dim=1) for bank in banks]
            mean = band_smoothing(n_mels, low_hz, high_hz, formant_envelope_hz)
            # The recorded bands and the mean of (moved - recorded), as one product.
            envelope = torch.cat([mean, torch.eye(n_mels) - mean])
        self.register_buffer("mel", torch.stack(banks), persistent=False)
        self.register_buffer("envelope", envelope, persistent=False)
        self.kernel_parts = _kernel_parts(self.mel, self.n_fft)

    def forward(
        self, waveforms: Tensor, lengths: Tensor | None = None, formants: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Filterbanks of padded waveforms.

        Args:
            waveforms: (batch, n_samples), floating point in [-1, 1].
            lengths: (batch,) samples that are not padding; None: all are.
            formants: (batch,) which of ``formant_factors`` each item gets; None: the first.

        Returns:
            The features (batch, n_frames, n_mels), zero in frames beyond an item's length, and each
            item's number of frames (batch,), or None without ``lengths``.

        Raises:
            SpkverError: an item is shorter than one frame.
            ValueError: ``waveforms``, ``lengths`` or ``formants`` is of the wrong type or shape.
            IndexError: there is no such formant factor.
        """
        self._check(waveforms, lengths, formants)
        formants = None if formants is None else formants.to(waveforms.device)
        with torch.autocast(waveforms.device.type, enabled=False):
            features = self._log_mel(self._dithered(waveforms.float()), formants)
            if self.envelope is not None:
                features = features @ self.envelope
        if lengths is None:
            return features, None
        n_frames = 1 + (lengths.to(features.device) - self.frame_length) // self.frame_shift
        return features.masked_fill(zero_padding(n_frames, features.shape[1]), 0.0), n_frames

    def _check(self, waveforms: Tensor, lengths: Tensor | None, formants: Tensor | None) -> None:
        if waveforms.dim() != 2 or len(waveforms) == 0 or not waveforms.is_floating_point():
            raise ValueError(
                "waveforms must be (batch, n_samples), one at least, of floating point in [-1, 1], "
                f"not {tuple(waveforms.shape)} of {waveforms.dtype}"
            )
        for name, given in (("lengths", lengths), ("formants", formants)):
            if given is not None and (given.shape != waveforms.shape[:1] or given.dtype not in _INTEGERS):
                raise ValueError(
                    f"{name} must be ({len(waveforms)},) integers, not {tuple(given.shape)} of {given.dtype}"
                )
        n_samples = waveforms.shape[1]
        shortest, longest = (n_samples, n_samples) if lengths is None else map(int, lengths.aminmax())
        if longest > n_samples:
            raise ValueError(f"lengths holds {longest}, but waveforms have {n_samples} samples")
        if shortest < self.frame_length:
            raise SpkverError(
                f"a waveform of {shortest} samples is shorter than one frame ({self.frame_length} samples at "
                f"{self.sample_rate} Hz): leave it out or repeat it to be longer"
            )

    def _dithered(self, waveforms: Tensor) -> Tensor:
        if not self.training or self.dither == 0:
            return waveforms
        noise = drawn(lambda n: torch.randn(n, waveforms.shape[1], device=waveforms.device), len(waveforms))
        return waveforms + self.dither / INT16_RANGE * noise

    def _log_mel(self, waveforms: Tensor, formants: Tensor | None) -> Tensor:
        """(batch, n_samples) float32 in [-1, 1] -> (batch, n_frames, n_mels), by one bank or one for each item.

        Where only the envelope is to move, twice ``n_mels``: moved, and as recorded.
        """
        n_frames = 1 + (waveforms.shape[1] - self.frame_length) // self.frame_shift
        if native.usable(waveforms, self.window) and not (torch.is_grad_enabled() and waveforms.requires_grad):
            return self._log_mel_by_kernel(waveforms.contiguous(), formants, n_frames)
        mel = self.mel[0] if formants is None else self.mel[formants]
        at_once = math.ceil(FRAMES_AT_ONCE / len(waveforms)) if waveforms.device.type == "cpu" else n_frames
        samples = (at_once - 1) * self.frame_shift + self.frame_length
        starts = range(0, n_frames * self.frame_shift, at_once * self.frame_shift)
        return torch.cat([self._log_mel_piece(waveforms[:, i : i + samples], mel) for i in starts], dim=1)

    def _log_mel_by_kernel(self, waveforms: Tensor, formants: Tensor | None, n_frames: int) -> Tensor:
        # The scale of the samples goes with the window. Indexing refuses places that there are not: the kernel would
        # read whatever lies there.
        parts = self.window * INT16_RANGE, *self.kernel_parts
        banks = None if formants is None else torch.arange(len(self.mel))[formants]
        n_bands = self.mel.shape[2]
        out = torch.empty(len(waveforms), n_frames, n_bands)
        half = self.n_fft // 2
        sizes = {"frame_shift": self.frame_shift, "n_fft": self.n_fft, "half": half, "bins": half + 1}
        native.call("log_mel", waveforms, *parts, banks, out, **sizes, dtype=torch.float32)
        return out

    def _log_mel_piece(self, waveforms: Tensor, mel: Tensor) -> Tensor:
        waveforms = waveforms * INT16_RANGE

        # Both steps being linear, the pre-emphasis of a frame without its mean is the pre-emphasised
        # waveform less a constant. This saves passes over the frames, which overlap 2.5 times.
        emphasised = nn.functional.pad(waveforms[:, 1:] - PREEMPHASIS * waveforms[:, :-1], (1, 0))
        raw = waveforms.unfold(-1, self.frame_length, self.frame_shift)
        offset = (1 - PREEMPHASIS) * raw.mean(-1, keepdim=True)
        frames = emphasised.unfold(-1, self.frame_length, self.frame_shift) - offset
        # Kaldi lets a frame's first sample follow itself, not the sample before the frame.
        frames[..., :1] = (1 - PREEMPHASIS) * raw[..., :1] - offset
        frames *= self.window

        spectrum = torch.fft.rfft(frames, n=self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ mel).clamp_min(ENERGY_FLOOR).log()


def mean_normalise(features: Tensor, n_frames: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Subtract from each item its mean over time (cepstral mean normalisation, in the log-mel domain).

    Args:
        features: (batch, n_frames, n_channels).
        n_frames: (batch,) frames that are not padding; None: all are.

    Returns:
        A new tensor of the same shape, zero where padded, and the mean (batch, n_channels) that was subtracted:
        the average spectrum.
    """
    if n_frames is None:
        average = features.mean(dim=1)
        return features - average[:, None], average
    n_frames = n_frames.to(features.device)
    padding = zero_padding(n_frames, features.shape[1])
    average = features.masked_fill(padding, 0.0).sum(dim=1) / n_frames[:, None]
    return (features - average[:, None]).masked_fill(padding, 0.0), average


def zero_padding(n_frames: Tensor, total: int) -> Tensor:
    """(batch, total, 1) bool, true in frames beyond an item's own."""
    return (torch.arange(total, device=n_frames.device) >= n_frames[:, None])[:, :, None]


def _window(name: str, length: int) -> Tensor:
    if name == "hamming":
        return torch.hamming_window(length, periodic=False, dtype=torch.float64).float()
    if name == "povey":
        return torch.hann_window(length, periodic=False, dtype=torch.float64).pow(0.85).float()
    raise SpkverError(f"window {name!r} is not known: choose hamming or povey")


def _kernel_parts(mel: Tensor, n_fft: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the kernel wants beside the window: twiddle factors ``(2, n_fft / 2)``, the banks
    ``(n_banks, n_mels, n_bins)``, and the first bin of each of their triangles and the one behind its last.
    """
    angle = -2 * math.pi / n_fft * torch.arange(n_fft // 2, dtype=torch.float64)
    banks = mel.transpose(1, 2).contiguous()
    used = (banks > 0).int()
    spans = torch.stack([used.argmax(-1), used.shape[-1] - used.flip(-1).argmax(-1)], dim=-1)
    return torch.stack([angle.cos(), angle.sin()]).float(), banks, spans
