"""GroupNorm with the fast backward: torch's own values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from spkver.models.group_norm import group_norm


def _inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    # An offset and a scale, so that a statistic that is left out shows.
    x = (1.5 * torch.randn(3, 16, 7, 5) + 0.7).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 16, dtype=dtype).unbind()
    return x.requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()


def test_gradients_are_those_of_finite_differences():
    assert torch.autograd.gradcheck(lambda *inputs: group_norm(inputs[0], 4, *inputs[1:], 1e-5), _inputs(torch.double))


def test_values_and_gradients_are_torchs_in_float32():
    inputs = _inputs(torch.float32)
    gradient = torch.randn_like(inputs[0])
    ours, torchs = group_norm(inputs[0], 4, *inputs[1:], 1e-5), F.group_norm(inputs[0], 4, *inputs[1:], 1e-5)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0)
    for mine, theirs in zip(torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(torchs, inputs, gradient)):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_gradient_is_as_near_to_float32_as_bfloat16_allows():
    x, weight, bias = _inputs(torch.float32)
    gradient = torch.randn_like(x)
    (exact,) = torch.autograd.grad(F.group_norm(x, 4, weight, bias, 1e-5), [x], gradient)
    rounded = x.detach().bfloat16().requires_grad_()
    (found,) = torch.autograd.grad(group_norm(rounded, 4, weight, bias, 1e-5), [rounded], gradient.bfloat16())
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).norm() / exact.norm() < 0.01


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layout_of_the_input_is_kept(layout):
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=layout).requires_grad_()
    y = group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5)
    (gradient,) = torch.autograd.grad(y.sum() + y.square().sum(), [x])
    assert y.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)
