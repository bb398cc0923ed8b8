"""Convolutional position, by torch and by kernels; rotary position; sinusoids."""

import cmath
import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

from spkver.models import position as position_module
from spkver.models.position import ConvolutionalPosition, SinusoidalPosition, rotate

pytestmark = pytest.mark.usefixtures("way")


# 64 channels at a time and four steps: fewer, as many, and a rest; an utterance shorter than the kernel.
@pytest.mark.parametrize("d_model, n_steps, kernel", [(64, 50, 31), (100, 9, 5), (8, 4, 31), (130, 1, 3)])
def test_values_and_gradients_are_those_of_the_plain_convolution(d_model, n_steps, kernel):
    torch.manual_seed(0)
    position = ConvolutionalPosition(d_model, kernel)
    x = torch.randn(3, n_steps, d_model, requires_grad=True)
    slopes = torch.randn_like(x)
    found = position(x, None)
    gradients = torch.autograd.grad(found, [x, *position.parameters()], slopes)

    exact, inputs = ConvolutionalPosition(d_model, kernel).double(), x.detach().double().requires_grad_()
    exact.load_state_dict(position.state_dict())
    y = inputs + F.gelu(exact.conv(inputs.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(found.double(), y, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(y, [inputs, *exact.parameters()], slopes.double())):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_as_near_as_bfloat16_allows():
    torch.manual_seed(0)
    position = ConvolutionalPosition(64, 31)
    x = torch.randn(4, 50, 64).bfloat16().requires_grad_()
    slopes = torch.randn(4, 50, 64)

    def run(frames, enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = position(frames, None)
        return [y, *torch.autograd.grad(y, [frames, *position.parameters()], slopes.to(y.dtype))]

    exact = run(x.detach().float().requires_grad_(), enabled=False)
    for ours, theirs in zip(run(x, enabled=True), exact):
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


@torch.no_grad()
def test_padded_frames_are_not_seen():
    torch.manual_seed(0)
    position = ConvolutionalPosition(32, 7)
    x = torch.randn(2, 20, 32)
    mask = torch.arange(20) < torch.tensor([[11], [20]])
    padded = x.masked_fill(~mask.unsqueeze(2), 100.0)
    torch.testing.assert_close(position(padded, mask)[:1, :11], position(x[:1, :11], None), rtol=1e-5, atol=1e-5)


def test_rotary_position_turns_each_pair_of_channels_as_a_complex_number():
    x = torch.randn(2, 3, 25, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = rotate(x)
    for step in (0, 1, 24):
        for pair in range(8):
            turned = torch.complex(x[..., step, pair], x[..., step, pair + 8]) * cmath.exp(
                1j * step / 10000 ** (pair / 8)
            )
            assert torch.allclose(found[..., step, pair], turned.real, atol=1e-5)
            assert torch.allclose(found[..., step, pair + 8], turned.imag, atol=1e-5)


@given(hnp.arrays(np.float32, (2, 8), elements=st.floats(-3, 3, width=32)), st.integers(0, 40), st.integers(0, 40))
def test_a_product_of_rotated_vectors_depends_on_their_distance_alone(pair, first, shift):
    query, key = torch.from_numpy(pair).view(2, 1, 1, 1, 8).expand(2, 1, 1, 100, 8)
    products = rotate(query)[0, 0] @ rotate(key)[0, 0].T
    assert abs(products[first, 5] - products[first + shift, 5 + shift]) < 1e-3


@torch.no_grad()
def test_sinusoids_have_the_wavelengths_of_the_paper():
    position = SinusoidalPosition()
    found = (position(torch.zeros(1, 500, 7), None) / position.scale)[0]
    for step in (0, 1, 100, 499):
        angles = [step / 10000 ** (2 * pair / 7) for pair in range(4)]
        expected = [function(angle) for angle in angles for function in (math.sin, math.cos)][:7]
        assert found[step].tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("of", [SinusoidalPosition().forward, lambda x, mask: rotate(x)])
def test_what_an_extraction_computed_serves_a_training_too(of):
    x = torch.randn(2, 17, 12)  # a length that no other test has
    with torch.inference_mode():
        expected = of(x, None)
    kept = position_module._kept_waves.cache_info().misses
    trained = of(x.requires_grad_(), None)
    trained.sum().backward()
    assert torch.equal(trained, expected) and x.grad.isfinite().all()
    assert position_module._kept_waves.cache_info().misses == kept
