"""Pooling over time: values beside plain formulas, gradients beside finite differences."""

import pytest
import torch

from spkver.models.pooling import _Centre, _Moments, build_pooling


def _weights(n_frames: int, n_channels: int) -> torch.Tensor:
    return torch.randn(2, n_frames, n_channels, dtype=torch.double).softmax(1)


def test_gradients_of_centring_and_of_moments_are_those_of_finite_differences():
    torch.manual_seed(0)
    frames = torch.randn(2, 6, 3, dtype=torch.double, requires_grad=True)
    uniform = torch.full((1, 6, 1), 1 / 6, dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: _Centre.apply(x, uniform), [frames])
    assert torch.autograd.gradcheck(lambda x: _Moments.apply(x, uniform), [frames])
    assert torch.autograd.gradcheck(_Moments.apply, [frames, _weights(6, 3).requires_grad_()])


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_statistics_are_mean_and_standard_deviation_whatever_the_offset(offset):
    torch.manual_seed(0)
    frames = torch.randn(4, 50, 8) + offset
    pooled = build_pooling("statistics", 8, 0)(frames)
    torch.testing.assert_close(pooled[:, :8], frames.mean(1))
    torch.testing.assert_close(pooled[:, 8:], frames.double().std(1, correction=0).float(), rtol=1e-4, atol=1e-4)


def test_attentive_statistics_are_those_of_the_plain_formula():
    torch.manual_seed(0)
    pooling = build_pooling("attentive_statistics", 8, 4)
    frames = torch.randn(3, 20, 8)
    deviation = (frames.var(1, correction=0) + 1e-5).sqrt()
    utterance = torch.cat([frames.mean(1), deviation], 1)
    hidden = torch.tanh(pooling.from_frame(frames) + pooling.from_utterance(utterance).unsqueeze(1))
    weights = pooling.to_weights(hidden).softmax(1)
    mean = (weights * frames).sum(1)
    variance = (weights * (frames - mean.unsqueeze(1)).square()).sum(1)
    torch.testing.assert_close(pooling(frames), torch.cat([mean, (variance + 1e-5).sqrt()], 1))


@pytest.mark.parametrize("name", ["mean", "statistics", "attentive_statistics"])
def test_padded_frames_change_nothing(name):
    torch.manual_seed(0)
    pooling = build_pooling(name, 8, 4)
    frames = torch.randn(2, 30, 8)
    mask = torch.arange(30) < torch.tensor([[30], [17]])
    alone = pooling(frames[1:, :17])
    frames[1, 17:] = 1e3
    torch.testing.assert_close(pooling(frames, mask)[1:], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["statistics", "attentive_statistics"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_double_precision(name, masked):
    torch.manual_seed(0)
    n_channels = 8
    pooling = build_pooling(name, n_channels, 4)
    frames, slopes = torch.randn(3, 20, n_channels) + 2, torch.randn(3, 2 * n_channels)
    mask = torch.rand(3, 20) < 0.7 if masked else None

    def plain(frames, *parameters):
        """Okabe et al.'s formulas, with the utterance's own statistics beside each frame."""
        seen = torch.ones(3, 20, dtype=bool) if mask is None else mask
        weights = (seen / seen.sum(1, keepdim=True)).double().unsqueeze(2).expand(frames.shape)
        if not parameters:
            return moments(frames, weights)
        of_frame, frame_bias, of_utterance, of_hidden, hidden_bias = parameters
        utterance = moments(frames, weights) @ of_utterance.T
        energy = torch.tanh(frames @ of_frame.T + frame_bias + utterance.unsqueeze(1)) @ of_hidden.T + hidden_bias
        return moments(frames, energy.masked_fill(~seen.unsqueeze(2), -torch.inf).softmax(1))

    def moments(frames, weights):
        mean = (weights * frames).sum(1)
        return torch.cat([mean, ((weights * frames.square()).sum(1) - mean.square() + 1e-5).sqrt()], 1)

    inputs = [frames.requires_grad_(), *pooling.parameters()]
    pooled = pooling(frames, mask)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    expected = plain(*exact)
    torch.testing.assert_close(pooled.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(expected, exact, slopes.double())
    for ours, theirs in zip(torch.autograd.grad(pooled, inputs, slopes), gradients):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * max(1, theirs.abs().max().item()))


def test_bfloat16_frames_are_pooled_as_near_as_bfloat16_allows():
    torch.manual_seed(0)
    pooling = build_pooling("attentive_statistics", 64, 8)
    frames, slopes = torch.randn(4, 50, 64).bfloat16(), torch.randn(4, 128)

    def run(frames, enabled):
        frames = frames.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            pooled = pooling(frames)
        return pooled, *torch.autograd.grad(pooled, [frames, *pooling.to_weights.parameters()][:2], slopes)

    for ours, theirs in zip(run(frames, True), run(frames.detach().float(), False)):
        assert (ours.float() - theirs).norm() < 0.02 * theirs.norm()


def test_pooling_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert build_pooling("attentive_statistics", 8, 4)(torch.randn(2, 30, 8).bfloat16()).dtype == torch.float32


def test_a_constant_channel_has_finite_gradients():
    frames = torch.ones(2, 10, 4, requires_grad=True)
    build_pooling("attentive_statistics", 4, 3)(frames).sum().backward()
    assert torch.isfinite(frames.grad).all()
