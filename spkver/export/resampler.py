"""Rational resampling as one strided convolution, which becomes one operator of an ONNX graph."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.data.resampling import window_weights


class Resampler(nn.Module):
    """What `spkver.data.resampling.resample_up_down` does, of padded waveforms.

    Neighbouring output samples each have their own weights of a window of the input, and the next ones have the
    same of a later window: a convolution with as many channels, and a stride.

    Args:
        up, down: the rate is multiplied by their quotient.
    """

    kernel: Tensor

    def __init__(self, up: int, down: int):
        super().__init__()
        self.up, self.down = up, down
        if up == down:
            return
        weights, self.before, self.stride = window_weights(up, down)
        self.register_buffer("kernel", weights.T[:, None].contiguous())

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Resample ``waveform (batch, n_samples)`` of which ``lengths (batch,)`` count; returns both anew."""
        if self.up == self.down:
            return waveform, lengths
        sounding = waveform.where(torch.arange(waveform.shape[1]) < lengths[:, None], 0)
        # So much behind the end that each output sample that counts has all of its inputs.
        padded = F.pad(sounding, (self.before, self.kernel.shape[2] + self.stride))
        channels = F.conv1d(padded[:, None], self.kernel, stride=self.stride)
        resampled = channels.transpose(1, 2).flatten(1)
        return resampled, (lengths * self.up + self.down - 1) // self.down
