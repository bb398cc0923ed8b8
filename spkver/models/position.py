"""Position: what lets a transformer know where a frame stands."""

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from spkver import native


class SinusoidalPosition(nn.Module):
    """Adds the sinusoids of Vaswani et al. (2017), for any number of frames.

    Their learnt scale starts small: at full size they drown the frames of a fresh projection.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n_steps, d_model = x.shape[1:]
        sine, cosine = _waves(n_steps, d_model, x.device)
        sinusoids = torch.stack([sine, cosine], 2).flatten(1)
        return x + (self.scale * sinusoids[:, :d_model]).to(x.dtype)


class ConvolutionalPosition(nn.Module):
    """Position relative to the neighbours by a depthwise convolution (Mohamed et al., 2019).

    Nothing in it knows the absolute time, so an utterance of any length looks as in training.
    """

    def __init__(self, d_model: int, kernel: int):
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, kernel, padding=kernel // 2, groups=d_model)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        seen = x if mask is None else x * mask.unsqueeze(2)
        if self._kernel_fits(seen):
            return x + F.gelu(_DepthwiseConvolution.apply(seen.contiguous(), self.conv.weight, self.conv.bias))
        return x + F.gelu(self.conv(seen.transpose(1, 2)).transpose(1, 2))

    def _kernel_fits(self, x: Tensor) -> bool:
        d_model, kernel = self.conv.out_channels, self.conv.kernel_size[0]
        types = (x.dtype, torch.float32) if torch.is_autocast_enabled("cpu") else (x.dtype,)
        return (
            native.usable(x)
            and x.dim() == 3
            and x.shape[2] == d_model
            and kernel % 2 == 1
            and native.fits(self.conv.weight, (d_model, 1, kernel), *types)
            and native.fits(self.conv.bias, (d_model,), *types)
        )


def rotate(x: Tensor) -> Tensor:
    """Rotary position (Su et al., "RoFormer", 2021) of queries or keys ``(batch, n_heads, n_steps, head_dim)``.

    Pairs of channels turn by angles that grow with the time, so that a product of a query and a key knows how far
    apart they stand, and nothing else of where.
    """
    n_steps, head_dim = x.shape[-2:]
    sin, cos = (wave.to(x.dtype) for wave in _waves(n_steps, head_dim, x.device))
    real, imaginary = x.chunk(2, -1)
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)


def _waves(n_steps: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sine and cosine ``(n_steps, width / 2)`` of the time, with wavelengths from 2 pi to 20,000 pi steps."""
    # What traces the encoder wants to see where they come from.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return _computed_waves(n_steps, width, device)
    return _kept_waves(n_steps, width, device)


@lru_cache(maxsize=8)  # crops of a training are of one length
def _kept_waves(n_steps: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # or training could not use them later
        return _computed_waves(n_steps, width, device)


def _computed_waves(n_steps: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    step = torch.arange(n_steps, device=device, dtype=torch.float32).unsqueeze(1)
    angle = step * torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    return angle.sin(), angle.cos()


class NoPosition(nn.Module):
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x


def build_position(name: str, d_model: int, kernel: int) -> nn.Module:
    """What the position called ``name`` does to the frames; ``rotary`` acts in the attention alone."""
    if name == "convolutional":
        return ConvolutionalPosition(d_model, kernel)
    return {"sinusoidal": SinusoidalPosition, "rotary": NoPosition, "none": NoPosition}[name]()


class _DepthwiseConvolution(torch.autograd.Function):
    """``x (batch, n_steps, channels)`` along time by ``weight (channels, 1, kernel)``, kernel odd; as long as x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        taps = weight.float().squeeze(1).t().contiguous()
        ctx.save_for_backward(x, taps)
        return _convolve(x, taps, bias.float().contiguous())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        gradient = gradient.contiguous()
        taps_gradient = torch.empty_like(taps)
        native.call("depthwise_taps_gradient", x, gradient, taps_gradient, dtype=x.dtype)
        x_gradient = _convolve(gradient, taps.flip(0).contiguous(), None)
        return x_gradient, taps_gradient.t().unsqueeze(1), gradient.sum((0, 1), dtype=torch.float32)


def _convolve(x: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    native.call("depthwise_convolve", x, out, taps, bias, dtype=x.dtype)
    return out
