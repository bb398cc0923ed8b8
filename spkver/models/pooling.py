"""Pooling over time: a sequence of frames becomes one vector.

Every pooling takes ``(batch, n_frames, n_channels)`` with an optional mask of valid frames, computes
in float32 whatever the autocast (variances in bfloat16 lose the speaker), and gives
``(batch, out_features)``.
"""

import torch
from torch import Tensor, nn

# Keeps the root of a variance differentiable where a channel does not move.
_VARIANCE_FLOOR = 1e-5


class MeanPooling(nn.Module):
    """The mean over valid frames."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.out_features = n_channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``frames (batch, n_frames, n_channels)`` over ``mask (batch, n_frames)`` (True = valid)."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.float()
            return (frames * _uniform_weights(frames, mask)).sum(1)


class StatisticsPooling(nn.Module):
    """Mean and standard deviation over valid frames (Snyder et al., Interspeech 2017)."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.out_features = 2 * n_channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``frames (batch, n_frames, n_channels)`` over ``mask (batch, n_frames)`` (True = valid)."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.float()
            return _weighted_statistics(frames, _uniform_weights(frames, mask))


class AttentiveStatisticsPooling(nn.Module):
    """Mean and standard deviation weighted by attention (Okabe et al., Interspeech 2018).

    Each channel has its own weights over time, and the attention sees the utterance's plain
    mean and standard deviation beside each frame, as in ECAPA-TDNN (Desplanques et al., Interspeech 2020).

    Args:
        n_channels: channels of a frame.
        n_hidden: width of the attention's hidden layer.
    """

    def __init__(self, n_channels: int, n_hidden: int):
        super().__init__()
        self.out_features = 2 * n_channels
        self.from_frame = nn.Linear(n_channels, n_hidden)
        self.from_utterance = nn.Linear(2 * n_channels, n_hidden, bias=False)
        self.to_weights = nn.Linear(n_hidden, n_channels)

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``frames (batch, n_frames, n_channels)`` over ``mask (batch, n_frames)`` (True = valid)."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.float()
            utterance = _weighted_statistics(frames, _uniform_weights(frames, mask))
            hidden = torch.tanh(self.from_frame(frames) + self.from_utterance(utterance).unsqueeze(1))
            energy = self.to_weights(hidden)
            if mask is not None:
                energy = energy.masked_fill(~mask.unsqueeze(2), -torch.inf)
            return _weighted_statistics(frames, energy.softmax(1))


def _uniform_weights(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Equal weights over the valid frames, ``(batch, n_frames, 1)``, that sum to 1."""
    if mask is None:
        return frames.new_full((1, frames.shape[1], 1), 1.0 / frames.shape[1])
    return (mask / mask.sum(1, keepdim=True)).to(frames.dtype).unsqueeze(2)


def _weighted_statistics(frames: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and standard deviation side by side, ``(batch, 2 * n_channels)``."""
    mean = (frames * weights).sum(1)
    # Two passes: E[x^2] - E[x]^2 cancels where a channel hardly moves.
    variance = ((frames - mean.unsqueeze(1)).square() * weights).sum(1)
    return torch.cat([mean, (variance + _VARIANCE_FLOOR).sqrt()], 1)


def build_pooling(name: str, n_channels: int, n_hidden: int) -> nn.Module:
    """The pooling called ``name``: ``attentive_statistics``, ``statistics`` or ``mean``."""
    if name == "attentive_statistics":
        return AttentiveStatisticsPooling(n_channels, n_hidden)
    return {"statistics": StatisticsPooling, "mean": MeanPooling}[name](n_channels)
