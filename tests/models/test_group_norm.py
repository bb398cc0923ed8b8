"""GroupNorm and ReLU in one, by torch and by kernels: values and gradients of the plain modules in double precision."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spkver import native
from spkver.models.group_norm import GroupNormReLU, group_norm

pytestmark = pytest.mark.usefixtures("way")


def norm_and_input(channels=16, groups=4, n_frames=7, n_bins=5, layout=torch.channels_last):
    torch.manual_seed(0)
    norm = GroupNormReLU(groups, channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    # An offset and a scale, so that a statistic that is left out shows.
    x = 1.5 * torch.randn(3, channels, n_frames, n_bins) + 0.7
    return norm, x.contiguous(memory_format=layout).requires_grad_()


def expected(norm, x, slopes=None):
    """ReLU of torch's GroupNorm in double precision, and its gradients of x, weight and bias."""
    inputs = [part.detach().double().requires_grad_() for part in (x, norm.weight, norm.bias)]
    y = F.relu(F.group_norm(inputs[0], norm.num_groups, *inputs[1:], norm.eps))
    return y.detach(), None if slopes is None else torch.autograd.grad(y, inputs, slopes.double())


# 32 channels at a time: fewer, exactly as many, and a rest.
@pytest.mark.parametrize("channels, groups", [(16, 4), (32, 8), (64, 2), (40, 5), (96, 1), (3, 3)])
def test_values_and_gradients_are_those_of_double_precision(channels, groups):
    norm, x = norm_and_input(channels, groups)
    y, slopes = norm(x), torch.randn_like(x)
    value, gradients = expected(norm, x, slopes)
    torch.testing.assert_close(y.double(), value, rtol=1e-5, atol=1e-5)
    assert 0.2 < (y == 0).float().mean() < 0.8
    for ours, exact in zip(torch.autograd.grad(y, [x, norm.weight, norm.bias], slopes), gradients):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_as_bfloat16_allows():
    norm, x = norm_and_input(32, 8, 40, 20)
    x = x.detach().bfloat16().requires_grad_()
    y, slopes = norm(x), torch.randn_like(x)
    value, gradients = expected(norm, x, slopes)
    found = torch.autograd.grad(y, [x, norm.weight, norm.bias], slopes)
    assert y.dtype == found[0].dtype == torch.bfloat16
    for ours, exact in zip([y, *found], [value, *gradients]):
        # Half a unit in the eighth place of each, and what a ReLU at 0 decides otherwise.
        assert (ours.double() - exact).norm() < 0.01 * exact.norm()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layout_of_the_input_is_kept(layout):
    norm, x = norm_and_input(layout=layout)
    y = norm(x)
    (gradient,) = torch.autograd.grad(y.sum() + y.square().sum(), [x])
    assert y.is_contiguous(memory_format=layout)
    assert gradient.is_contiguous(memory_format=layout)


@torch.no_grad()
def test_padded_frames_leave_statistics_alone_and_become_zero():
    norm, x = norm_and_input(n_frames=20)
    mask = torch.arange(20) < torch.tensor([[12], [20], [1]])
    padded = torch.where(mask[:, None, :, None], x, 1000.0).contiguous(memory_format=torch.channels_last)
    y = norm(padded, mask)
    for item, length in enumerate([12, 20, 1]):
        alone = norm(x[item : item + 1, :, :length].contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(y[item : item + 1, :, :length], alone, rtol=1e-5, atol=1e-5)
        assert y[item, :, length:].eq(0).all()


def test_a_mask_in_training_has_the_gradients_of_the_frames_alone():
    norm, x = norm_and_input(n_frames=20)
    mask = torch.arange(20) < torch.tensor([[12], [20], [7]])
    slopes = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(norm(x, mask), [x], slopes)
    for item, length in enumerate([12, 20, 7]):
        short = x[item : item + 1, :, :length].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
        (alone,) = torch.autograd.grad(norm(short), [short], slopes[item : item + 1, :, :length])
        torch.testing.assert_close(gradient[item : item + 1, :, :length], alone, rtol=1e-4, atol=1e-4)
        assert gradient[item, :, length:].eq(0).all()


@given(offset=st.floats(-300, 300), scale=st.floats(0.5, 50), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_offset_and_scale_of_the_input_change_nothing(offset, scale, seed):
    # Variances of a single pass, as torch's are, lose what a large offset leaves of the digits.
    assume(native.AVAILABLE or abs(offset) < 10 * scale)
    norm, _ = norm_and_input()
    x = torch.randn(2, 16, 9, 6, generator=torch.Generator().manual_seed(seed))
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(norm(x * scale + offset), norm(x), rtol=1e-3, atol=3e-3)


@torch.no_grad()
def test_a_nan_stays_one():
    norm, x = norm_and_input()
    x = x.detach()
    x[1, 3, 2, 1] = torch.nan
    y = norm(x)
    assert y[1].isnan().any()
    assert y[[0, 2]].isfinite().all()


def test_gradients_of_the_norm_by_torch_are_those_of_finite_differences(way):
    torch.manual_seed(0)
    x = torch.randn(3, 16, 7, 5, dtype=torch.double).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(16, dtype=torch.double, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda *inputs: group_norm(inputs[0], 4, *inputs[1:], 1e-5), (x, weight, bias))


def test_kernels_are_used_where_they_are(way, monkeypatch):
    norm, x = norm_and_input()
    called = []
    real = native.call
    monkeypatch.setattr(native, "call", lambda name, *rest, **types: (called.append(name), real(name, *rest, **types)))
    norm(x).sum().backward()
    assert called == ([] if way == "torch" else ["group_norm_relu_forward", "group_norm_relu_backward"])
