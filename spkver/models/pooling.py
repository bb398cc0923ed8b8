"""Pooling over time: a sequence of frames becomes one vector.

Every pooling takes ``(batch, n_frames, n_channels)`` with an optional mask of valid frames, computes
in float32 whatever the autocast (variances in bfloat16 lose the speaker), and gives
``(batch, out_features)``.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Keeps the root of a variance differentiable where a channel does not move.
_VARIANCE_FLOOR = 1e-5


class Pooling(nn.Module):
    """What gives ``(batch, out_features)``."""

    out_features: int


class MeanPooling(Pooling):
    """The mean over valid frames."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.out_features = n_channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``frames (batch, n_frames, n_channels)`` over ``mask (batch, n_frames)`` (True = valid)."""
        with torch.autocast(frames.device.type, enabled=False):
            frames = frames.float()
            return (frames * _uniform_weights(frames, mask)).sum(1)


class StatisticsPooling(Pooling):
    """Mean and standard deviation over valid frames (Snyder et al., Interspeech 2017)."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.out_features = 2 * n_channels

    def forward(self, frames: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool ``frames (batch, n_frames, n_channels)`` over ``mask (batch, n_frames)`` (True = valid)."""
        with torch.autocast(frames.device.type, enabled=False):
            weights = _uniform_weights(frames, mask)
            mean, centred = _Centre.apply(frames.float(), weights)
            return _statistics(mean, centred, weights)


class AttentiveStatisticsPooling(Pooling):
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
        # The two matrix products over frames may run in bfloat16: they only weigh what is summed in float32.
        from_frame = self.from_frame(frames)
        with torch.autocast(frames.device.type, enabled=False):
            weights = _uniform_weights(frames, mask)
            mean, centred = _Centre.apply(frames.float(), weights)
            utterance = _statistics(mean, centred, weights)
            hidden = torch.tanh(from_frame.float() + self.from_utterance(utterance).unsqueeze(1))
        energy = self.to_weights(hidden)
        with torch.autocast(frames.device.type, enabled=False):
            if mask is not None:
                energy = energy.masked_fill(~mask.unsqueeze(2), -torch.inf)
            return _statistics(mean, centred, energy.float().softmax(1))


def _uniform_weights(frames: Tensor, mask: Tensor | None) -> Tensor:
    """Equal float32 weights over the valid frames, ``(batch or 1, n_frames, 1)``, that sum to 1."""
    if mask is None:
        return torch.full((1, frames.shape[1], 1), 1.0 / frames.shape[1], device=frames.device)
    return (mask / mask.sum(1, keepdim=True)).float().unsqueeze(2)


def _statistics(mean: Tensor, centred: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean and standard deviation side by side, ``(batch, 2 * n_channels)``.

    Args:
        mean: the plain mean ``(batch, n_channels)``.
        centred: the frames without it ``(batch, n_frames, n_channels)``.
        weights: of the frames ``(batch or 1, n_frames, n_channels or 1)``, summing to 1.
    """
    offset, power = _Moments.apply(centred, weights)
    # Cancels little, as the frames are centred: not so E[x^2] - E[x]^2 where a channel hardly moves.
    variance = (power - offset.square()).clamp_min(0.0)
    return torch.cat([mean + offset, (variance + _VARIANCE_FLOOR).sqrt()], 1)


class _Centre(torch.autograd.Function):
    """Frames to their weighted mean and the frames without it; what autograd makes of it takes thrice the passes."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weights)
        mean = (frames * weights).sum(1)
        return mean, frames - mean.unsqueeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_gradient: Tensor, centred_gradient: Tensor) -> tuple[Tensor, None]:
        (weights,) = ctx.saved_tensors
        return centred_gradient + weights * (mean_gradient - centred_gradient.sum(1)).unsqueeze(1), None


class _Moments(torch.autograd.Function):
    """Weighted sums over time of frames and of their squares, with a backward of five passes over the frames."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(frames, weights)
        weighted = frames * weights
        first = weighted.sum(1)
        return first, weighted.mul_(frames).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, first_gradient: Tensor, second_gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        frames, weights = ctx.saved_tensors
        slope = frames * second_gradient.unsqueeze(1)
        both = slope + first_gradient.unsqueeze(1)
        weights_gradient = frames * both if ctx.needs_input_grad[1] else None
        return both.add_(slope).mul_(weights), weights_gradient


def build_pooling(name: str, n_channels: int, n_hidden: int) -> Pooling:
    """The pooling called ``name``: ``attentive_statistics``, ``statistics`` or ``mean``."""
    if name == "attentive_statistics":
        return AttentiveStatisticsPooling(n_channels, n_hidden)
    return {"statistics": StatisticsPooling, "mean": MeanPooling}[name](n_channels)
