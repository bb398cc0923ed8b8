"""Waveform to embedding as one module that becomes one ONNX graph: variants, filterbank and encoder, padding masked.

Everything between the samples of a frame and its spectrum (mean, pre-emphasis, window, Fourier
transform) is linear, so it is one matrix here, and framing and matrix are one strided convolution. A
sample more or less of padding, and what stands in it, changes nothing.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.config.schema import Waveform
from spkver.data.resampling import speed_ratio
from spkver.embedding.extractor import Extractor
from spkver.export.resampler import Resampler
from spkver.features import ENERGY_FLOOR, INT16_RANGE, PREEMPHASIS, Fbank
from spkver.models import ImportedEncoder


class WaveformEncoder(nn.Module):
    """What an `Extractor` does between samples and embeddings, for `torch.onnx.export`.

    Args:
        extractor: whose encoder and settings are taken.
    """

    spectrum: Tensor
    mel: Tensor
    envelope: Tensor | None

    def __init__(self, extractor: Extractor):
        super().__init__()
        fbank = extractor.fbank
        self.encoder, self.input = extractor.encoder, extractor.input
        self.masks_padding = not isinstance(self.encoder, ImportedEncoder) or self.encoder.masks_padding
        """Whether recordings of a batch may be padded; otherwise all of a batch must be equally long."""
        self.shortest = len(extractor.long_enough(np.zeros(1)))
        self.frame_length, self.frame_shift = fbank.frame_length, fbank.frame_shift
        self.resamplers = nn.ModuleList(Resampler(*speed_ratio(variant.speed_factor)) for variant in extractor.variants)
        self.formants = [extractor.formant_factors.index(variant.formant_factor) for variant in extractor.variants]
        used_bins = fbank.mel.any(2).any(0)
        self.register_buffer("spectrum", torch.from_numpy(_spectrum_matrix(fbank, used_bins.numpy()))[:, None])
        # A convolution over frames, not a matrix product: those are what int8 quantisation takes.
        self.register_buffer("mel", fbank.mel[:, used_bins].transpose(1, 2)[..., None].contiguous())
        envelope = None if fbank.envelope is None else fbank.envelope.T[..., None].contiguous()
        self.register_buffer("envelope", envelope)
        self.eval()

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embed padded waveforms.

        Args:
            waveform: (batch, n_samples) float32 in [-1, 1] at the model's rate.
            lengths: (batch,) int64, samples that are not padding.

        Returns:
            The embeddings (batch, embed_dim), of unit length, and the length (batch,) that each had before that.
        """
        waveform, lengths = self._repeat_short(waveform, lengths.clamp(1, waveform.shape[1]))
        played = [self._repeat_short(*resampler(waveform, lengths)) for resampler in self.resamplers]
        together = self._together(played)
        takes_samples = isinstance(self.input.settings, Waveform)
        # One call for all variants: the weights of a call of their own for each would not be quantised.
        features, n_frames, average = self.input.prepared(*(together if takes_samples else self._features(*together)))
        raw = self.encoder.unnormalised(features, n_frames if self.masks_padding else None, average)
        raw = raw.unflatten(0, (len(played), -1))
        unit = F.normalize(raw, dim=2).transpose(0, 1).flatten(1) / math.sqrt(len(played))
        return unit, raw.norm(dim=2).mean(0)

    def _together(self, played: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Waveforms of all variants, padded to the longest, ``(n_variants * batch, n_samples)``, and their lengths."""
        if len(played) == 1:
            return played[0]
        n = played[0][0].shape[1]
        for waveform, _ in played[1:]:
            n = torch.sym_max(n, waveform.shape[1])  # type: ignore[assignment]  # a SymInt stands for an int
        waveforms = torch.cat([F.pad(waveform, (0, n))[:, :n] for waveform, _ in played])
        return waveforms, torch.cat([lengths for _, lengths in played])

    def _repeat_short(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What is shorter than the shortest is repeated up to it, as `Extractor.middle` does."""
        n = self.shortest
        place = torch.arange(n) % lengths.clamp(max=n)[:, None]
        # Padded first, as the tail is then a slice that needs no condition on the number of samples.
        tail = F.pad(waveform, (0, n))[:, n:]
        repeated = torch.cat([waveform.gather(1, place), tail], 1)[:, : torch.sym_max(waveform.shape[1], n)]
        return repeated, lengths.clamp(min=n)

    def _features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Filterbanks (n_variants * batch, n_frames, n_mels) and each item's number of frames (n_variants * batch,)."""
        valid = torch.arange(waveform.shape[1]) < lengths[:, None]
        # The matrix takes each frame's mean away; without a large common one first, less is lost to rounding.
        offset = waveform.where(valid, 0).sum(1, keepdim=True) / lengths[:, None]
        centred = (waveform - offset).where(valid, 0)
        real, imaginary = F.conv1d(centred[:, None], self.spectrum, stride=self.frame_shift).chunk(2, dim=1)
        power = (real * real + imaginary * imaginary).unflatten(0, (len(self.formants), -1))
        energy = torch.cat([F.conv1d(of_variant, self.mel[place]) for of_variant, place in zip(power, self.formants)])
        n_frames = (lengths - self.frame_length) // self.frame_shift + 1
        log_mel = energy.clamp_min(ENERGY_FLOOR).log()
        if self.envelope is not None:
            log_mel = F.conv1d(log_mel, self.envelope)
        return log_mel.transpose(1, 2), n_frames


def _spectrum_matrix(fbank: Fbank, used_bins: np.ndarray) -> np.ndarray:
    """Samples of a frame to the spectrum of its filterbank (2 n_bins, frame_length): real parts, then imaginary.

    Args:
        fbank: whose settings are taken.
        used_bins: (n_fft / 2 + 1,) which bins of the spectrum any mel band takes.
    """
    n = fbank.frame_length
    no_mean = np.eye(n) - 1 / n
    # Kaldi lets a frame's first sample follow itself.
    emphasis = np.eye(n) - PREEMPHASIS * np.eye(n, k=-1)
    emphasis[0, 0] = 1 - PREEMPHASIS
    frame = INT16_RANGE * fbank.window.double().numpy()[:, None] * (emphasis @ no_mean)
    spectrum = np.fft.rfft(frame, n=fbank.n_fft, axis=0)[used_bins]
    return np.concatenate([spectrum.real, spectrum.imag]).astype(np.float32)
