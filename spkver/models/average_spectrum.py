"""The average spectrum of an utterance, which mean normalisation takes away, as an input of the encoder."""

import torch
from torch import Tensor, nn

from spkver.features.batch_part import kept


class AverageSpectrum(nn.Module):
    """Long-term average spectrum -> an offset of all frames.

    It tells voices apart (T. Kinnunen, V. Hautamaki, P. Franti, "On the use of long-term average spectrum in
    automatic speaker recognition", ISCSLP 2006), and microphones and rooms as well: it helps where a speaker is
    always recorded alike, and harms where not. The level is left out: how far away the microphone was is no voice.

    A few speakers are soon told apart by this alone, and the encoder then learns less from the rest and knows new
    speakers worse than without it. So a share of the training crops goes without it.

    Args:
        n_mels: filterbank bins.
        d_model: width of a frame.
        dropout: that share.
    """

    def __init__(self, n_mels: int, d_model: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm = nn.BatchNorm1d(n_mels, affine=False)
        self.projection = nn.Linear(n_mels, d_model)

    def forward(self, average: Tensor | None) -> Tensor:
        """``(batch, n_mels)``, natural logarithms -> ``(batch, 1, d_model)`` float32."""
        if average is None:
            raise ValueError("this encoder takes the average spectrum: give it what mean_normalise subtracted")
        with torch.autocast(average.device.type, enabled=False):
            shape = self.norm(average.float() - average.float().mean(1, keepdim=True))
            if self.training:
                shape = shape * kept(len(shape), 1, share=1 - self.dropout, device=shape.device)
            return self.projection(shape)[:, None]
