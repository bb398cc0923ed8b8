"""Training in float16: gradients are those of float32, overflows are skipped, and the factor is kept."""

from pathlib import Path

import pytest
import torch

from spkver.config import load_config
from spkver.heads import build_head
from spkver.models import build_encoder
from spkver.training.loss_scale import LossScale
from spkver.training.step import TrainingStep


def make_step(path, dtype, *overrides):
    name = str(dtype).removeprefix("torch.")
    config = load_config(path, ["training.device=cpu", f"training.precision={name}", *overrides])
    torch.manual_seed(0)
    encoder = build_encoder(config.model, config.features.n_mels).train()
    head = build_head(config.head, config.model.embed_dim, 12)
    return TrainingStep(config, encoder, head, torch.device("cpu"), dtype, Path("exp"))


def batch():
    waveforms = 0.1 * torch.randn(6, 8000, generator=torch.Generator().manual_seed(1))
    return waveforms, torch.arange(6), torch.zeros(6, dtype=torch.long)


def test_a_step_in_float16_goes_where_one_in_float32_goes(tiny_config):
    weights = {}
    for dtype in (torch.float32, torch.float16):
        step = make_step(tiny_config, dtype, "optimizer.name=sgd", "optimizer.momentum=0", "training.clip_norm=1000")
        before = torch.cat([p.detach().flatten() for p in step.encoder.parameters()])
        step.loss_scale.factor.fill_(2.0**10 if dtype == torch.float16 else 1.0)
        record = step(batch(), 0, 1, 10)
        assert not record["skipped"]
        weights[dtype] = torch.cat([p.detach().flatten() for p in step.encoder.parameters()]) - before, record
    exact, exact_record = weights[torch.float32]
    half, half_record = weights[torch.float16]
    assert torch.nn.functional.cosine_similarity(exact, half, dim=0) > 0.99
    assert float(half.norm()) == pytest.approx(float(exact.norm()), rel=0.05)
    assert half_record["grad_norm"] == pytest.approx(exact_record["grad_norm"], rel=0.05)
    assert half_record["loss"] == pytest.approx(exact_record["loss"], rel=0.01)


def test_small_gradients_are_lost_without_the_factor(tiny_config):
    def zeros(factor):
        step = make_step(tiny_config, torch.float16, "head.scale=1", "head.margin=0")
        step.loss_scale.factor.fill_(factor)
        step(batch(), 0, 1, 10)
        gradients = torch.cat([p.grad.flatten() for p in step.encoder.parameters()])
        return (gradients == 0).float().mean()

    assert zeros(2.0**-18) > 0.2 > 0.05 > zeros(2.0**10)


def test_a_step_that_overflows_changes_nothing_and_halves_the_factor(tiny_config):
    step = make_step(tiny_config, torch.float16)
    step.loss_scale.factor.fill_(2.0**60)
    before = {name: value.clone() for name, value in step.encoder.state_dict().items()}
    assert step(batch(), 0, 0, 10)["skipped"]
    assert all(torch.equal(value, before[name]) for name, value in step.encoder.state_dict().items())
    assert step.loss_scale.factor == 2.0**59
    step.loss_scale.factor.fill_(2.0**10)
    assert not step(batch(), 0, 1, 10)["skipped"]


def test_the_factor_doubles_after_many_finite_steps_and_never_falls_below_one():
    yes, no, cpu = torch.tensor(True), torch.tensor(False), torch.device("cpu")
    scale = LossScale(torch.float16, cpu)
    for _ in range(1999):
        scale.follow(yes)
    assert scale.factor == 2.0**16
    scale.follow(yes)
    assert (scale.factor, scale.steps) == (2.0**17, 0)
    scale.follow(yes)
    again = LossScale(torch.float16, cpu)
    again.load_state(scale.state())
    assert (again.factor, again.steps) == (2.0**17, 1)
    for _ in range(30):
        scale.follow(no)
    assert (scale.factor, scale.steps) == (1.0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_have_no_factor(dtype):
    scale, loss = LossScale(dtype, torch.device("cpu")), torch.tensor(2.0)
    scale.follow(torch.tensor(False))
    scale.follow(torch.tensor(True))
    assert scale.scaled(loss) is loss and scale.factor == 1
