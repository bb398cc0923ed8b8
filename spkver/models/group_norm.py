"""GroupNorm and ReLU in one, fast for channels-last activations on a CPU.

torch's own backward of GroupNorm takes twenty times as long as its forward there. Where the kernels of `spkver.native`
are, they do norm, ReLU and mask in two or three passes over what the cache holds; elsewhere the gradient, which needs
two sums a channel and one linear combination of input and output gradient, is six passes of torch's.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spkver import native

# What a kernel has room for.
_MAX_CHANNELS = 1024


class GroupNormReLU(nn.GroupNorm):
    """ReLU of GroupNorm (Wu & He, 2018) whose statistics leave padded frames out."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of ``x (batch, channels, n_frames, n_bins)`` with bool ``mask (batch, n_frames)``; 0 where it is False."""
        if self._kernel_fits(x, mask):
            return _Kernel.apply(x, self.num_groups, self.weight, self.bias, self.eps, mask)
        if mask is None:
            return F.relu(group_norm(x, self.num_groups, self.weight, self.bias, self.eps), inplace=True)
        mask = mask.expand(x.shape[0], x.shape[2])
        return F.relu(self._masked(x, mask), inplace=True) * mask[:, None, :, None]

    def _kernel_fits(self, x: Tensor, mask: Tensor | None) -> bool:
        parameters = self.weight, self.bias
        trained = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in (x, *parameters))
        return (
            native.usable(x)
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.shape[1] == self.num_channels <= _MAX_CHANNELS
            and all(native.fits(part, (self.num_channels,), torch.float32, x.dtype) for part in parameters)
            and native.mask_fits(mask, x.shape[0], x.shape[2])
            # The backward kernel knows of no mask.
            and not (trained and mask is not None)
        )

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, channels, _, n_bins = x.shape
        in_group = channels // self.num_groups
        # Of an item without valid frames everything becomes 0.
        count = in_group * n_bins * mask.sum(1, keepdim=True).clamp(min=1)

        def mean_of_groups(values: Tensor) -> Tensor:
            # Bins first, then the valid frames, then the channels of a group: thrice as fast as all at once.
            of_channels = torch.where(mask.unsqueeze(1), values.sum(3), 0.0).sum(2)
            return of_channels.view(batch, self.num_groups, in_group).sum(2) / count

        x, dtype = x.float(), x.dtype
        centred = x - _per_channel(mean_of_groups(x), in_group)
        variance = mean_of_groups(centred.square())
        scale = _per_channel((variance + self.eps).rsqrt(), in_group) * self.weight.view(1, -1, 1, 1)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale).to(dtype)


def _per_channel(of_groups: Tensor, in_group: int) -> Tensor:
    """``(batch, n_groups)`` -> ``(batch, n_groups * in_group, 1, 1)``."""
    return of_groups.repeat_interleave(in_group, dim=1)[:, :, None, None]


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, mask: Tensor | None
    ) -> Tensor:
        weight, bias = weight.float().contiguous(), bias.float().contiguous()
        mask = None if mask is None else mask.contiguous()
        out = torch.empty_like(x, memory_format=torch.channels_last)
        mean, rstd = torch.empty(2, len(x), groups)
        tensors = _by_memory(x), _by_memory(out), mask, weight, bias, mean, rstd
        native.call("group_norm_relu_forward", *tensors, eps=eps, dtype=x.dtype)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None, None]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        x_gradient = torch.empty_like(x, memory_format=torch.channels_last)
        of_weight, of_bias = torch.empty(2, len(x), len(weight))
        activations = map(_by_memory, (x, gradient, x_gradient))
        native.call(
            "group_norm_relu_backward", *activations, weight, bias, mean, rstd, of_weight, of_bias, dtype=x.dtype
        )
        return x_gradient, None, of_weight.sum(0), of_bias.sum(0), None, None


def _by_memory(x: Tensor) -> Tensor:
    """Channels-last activations ``(batch, channels, n_frames, n_bins)`` in the order of their memory."""
    return x.permute(0, 2, 3, 1)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """GroupNorm of ``x (batch, channels, n_frames, n_bins)`` by torch, with a gradient of six passes."""
    if x.device.type == "cpu" and x.requires_grad and x.is_contiguous(memory_format=torch.channels_last):
        return _ChannelsLastGroupNorm.apply(x, groups, weight, bias, eps)
    return F.group_norm(x, groups, weight, bias, eps)


class _ChannelsLastGroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        batch, channels, n_frames, n_bins = x.shape
        y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, n_frames * n_bins, groups, eps)
        ctx.save_for_backward(x, weight, mean.float(), rstd.float())
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None]:
        x, weight, mean, rstd = ctx.saved_tensors
        batch, channels, n_frames, n_bins = x.shape
        values = x.permute(0, 2, 3, 1).flatten(1, 2)
        slopes = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        groups = mean.shape[1]
        size = channels // groups
        # Of a group's statistics to its channels: (batch, channels).
        mean, rstd = mean.repeat_interleave(size, 1), rstd.repeat_interleave(size, 1)

        slope_sum = slopes.sum(1).float()
        # Sum over frames and bins of gradient times normalised input.
        along_sum = ((slopes * values).sum(1).float() - mean * slope_sum) * rstd

        def group_mean(sums: Tensor) -> Tensor:
            of_groups = (sums * weight).view(batch, groups, size).sum(2) / (size * n_frames * n_bins)
            return of_groups.repeat_interleave(size, 1)

        along = rstd.square() * group_mean(along_sum)
        constant = mean * along - rstd * group_mean(slope_sum)
        factors = (part.to(slopes.dtype).unsqueeze(1) for part in (rstd * weight, -along, constant))
        scale, tilt, shift = factors
        x_gradient = (slopes * scale).addcmul_(values, tilt).add_(shift)
        x_gradient = x_gradient.view(batch, n_frames, n_bins, channels).permute(0, 3, 1, 2)
        return x_gradient, None, along_sum.sum(0), slope_sum.sum(0), None
