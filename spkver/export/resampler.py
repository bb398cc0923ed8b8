"""Rational resampling as one strided convolution, which becomes one operator of an ONNX graph."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.data.audio import low_pass


class Resampler(nn.Module):
    """What `spkver.data.audio.resample_up_down` does, of padded waveforms.

    Of ``up`` output samples in a row each has its own taps of the low-pass filter, and the next ``up`` of them begin
    ``down`` input samples later: a convolution with ``up`` channels and a stride of ``down``.

    Args:
        up, down: the rate is multiplied by their quotient.
    """

    def __init__(self, up: int, down: int):
        super().__init__()
        self.up, self.down = up, down
        if up == down:
            return
        taps = up * low_pass(up, down)
        middle = len(taps) // 2
        # Output k takes input i by the tap k * down + middle - i * up, where there is one.
        self.before = middle // up
        inputs = np.arange(-self.before, ((up - 1) * down + middle) // up + 1)
        tap = np.arange(up)[:, None] * down + middle - inputs * up
        kernel = np.where((tap >= 0) & (tap < len(taps)), taps[tap.clip(0, len(taps) - 1)], 0)
        self.register_buffer("kernel", torch.from_numpy(kernel.astype(np.float32))[:, None])

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Resample ``waveform (batch, n_samples)`` of which ``lengths (batch,)`` count; returns both anew."""
        if self.up == self.down:
            return waveform, lengths
        sounding = waveform.where(torch.arange(waveform.shape[1]) < lengths[:, None], 0)
        # So much behind the end that each output sample that counts has all of its inputs.
        padded = F.pad(sounding, (self.before, self.kernel.shape[2] + self.down))
        channels = F.conv1d(padded[:, None], self.kernel, stride=self.down)
        resampled = channels.transpose(1, 2).flatten(1)
        return resampled, (lengths * self.up + self.down - 1) // self.down
