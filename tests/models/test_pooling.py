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


def test_pooling_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert build_pooling("attentive_statistics", 8, 4)(torch.randn(2, 30, 8).bfloat16()).dtype == torch.float32
