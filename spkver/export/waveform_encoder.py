"""Waveform to embedding as one module that becomes one ONNX graph: views, filterbank and encoder, padding masked.

Notable: everything between the samples of a frame and its spectrum (mean, pre-emphasis, window, Fourier
transform) is linear, so it is one matrix here, and framing and matrix are one strided convolution. A
sample more or less of padding, and what stands in it, changes nothing.
"""

import math
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.data.audio import speed_ratio
from spkver.export.resampler import Resampler
from spkver.extraction import Extractor
from spkver.features import ENERGY_FLOOR, INT16_RANGE, PREEMPHASIS, Fbank, mean_normalise


class WaveformEncoder(nn.Module):
    """What an `Extractor` does between samples and embeddings, for `torch.onnx.export`.

    Args:
        extractor: whose encoder and settings are taken.
    """

    def __init__(self, extractor: Extractor):
        super().__init__()
        fbank = extractor.fbank
        self.encoder = extractor.encoder
        self.shortest = len(extractor.middle(np.zeros(1)))
        self.frame_length, self.frame_shift = fbank.frame_length, fbank.frame_shift
        speeds = [(factor, list(views)) for factor, views in groupby(extractor.views, lambda view: view.speed_factor)]
        self.resamplers = nn.ModuleList(Resampler(*speed_ratio(factor)) for factor, _ in speeds)
        self.formants = [[extractor.formant_factors.index(v.formant_factor) for v in views] for _, views in speeds]
        heard = fbank.mel.any(2).any(0)
        self.register_buffer("spectrum", torch.from_numpy(_spectrum_matrix(fbank, heard.numpy()))[:, None])
        # A convolution over frames, not a matrix product: those are what int8 quantisation takes.
        self.register_buffer("mel", fbank.mel[:, heard].transpose(1, 2)[..., None].contiguous())
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
        views = []
        for resampler, formants in zip(self.resamplers, self.formants):
            spectra, n_frames = self._spectra(*self._repeat_short(*resampler(waveform, lengths)))
            views += [self._embed(spectra, n_frames, self.mel[place]) for place in formants]
        raw = torch.stack(views, 1)
        return F.normalize(raw, dim=2).flatten(1) / math.sqrt(len(views)), raw.norm(dim=2).mean(1)

    def _embed(self, spectra: Tensor, n_frames: Tensor, mel: Tensor) -> Tensor:
        """Embeddings (batch, encoder.embed_dim), not of unit length, by the filterbank of one vocal tract."""
        features = F.conv1d(spectra, mel).clamp_min(ENERGY_FLOOR).log().transpose(1, 2)
        return self.encoder.unnormalised(mean_normalise(features, n_frames), n_frames)

    def _repeat_short(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What is shorter than the shortest is repeated up to it, as `Extractor.middle` does."""
        n = self.shortest
        place = torch.arange(n) % lengths.clamp(max=n)[:, None]
        # Padded first, as the tail is then a slice that needs no condition on the number of samples.
        tail = F.pad(waveform, (0, n))[:, n:]
        repeated = torch.cat([waveform.gather(1, place), tail], 1)[:, : torch.sym_max(waveform.shape[1], n)]
        return repeated, lengths.clamp(min=n)

    def _spectra(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Power spectra (batch, n_bins, n_frames) and each item's number of frames (batch,)."""
        valid = torch.arange(waveform.shape[1]) < lengths[:, None]
        # The matrix takes each frame's mean away; without a large common one first, less is lost to rounding.
        offset = waveform.where(valid, 0).sum(1, keepdim=True) / lengths[:, None]
        centred = (waveform - offset).where(valid, 0)
        real, imaginary = F.conv1d(centred[:, None], self.spectrum, stride=self.frame_shift).chunk(2, dim=1)
        return real * real + imaginary * imaginary, (lengths - self.frame_length) // self.frame_shift + 1


def _spectrum_matrix(fbank: Fbank, heard: np.ndarray) -> np.ndarray:
    """Samples of a frame to the spectrum of its filterbank (2 n_bins, frame_length): real parts, then imaginary.

    Args:
        fbank: whose settings are taken.
        heard: (n_fft / 2 + 1,) which bins of the spectrum any mel band takes.
    """
    n = fbank.frame_length
    no_mean = np.eye(n) - 1 / n
    # Kaldi lets a frame's first sample follow itself.
    emphasis = np.eye(n) - PREEMPHASIS * np.eye(n, k=-1)
    emphasis[0, 0] = 1 - PREEMPHASIS
    frame = INT16_RANGE * fbank.window.double().numpy()[:, None] * (emphasis @ no_mean)
    spectrum = np.fft.rfft(frame, n=fbank.n_fft, axis=0)[heard]
    return np.concatenate([spectrum.real, spectrum.imag]).astype(np.float32)
