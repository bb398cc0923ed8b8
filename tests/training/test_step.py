"""A step that is not finite changes nothing: neither weights nor BatchNorm statistics nor the optimizer."""

import copy
import math
from pathlib import Path

import pytest
import torch

from spkver.config import load_config
from spkver.heads import build_head
from spkver.models import build_encoder
from spkver.training.step import TrainingStep

N_CLASSES, N_STEPS = 12, 10
SUBCENTERS = [
    "head.name=intertopk_subcenter",
    "head.scale=32.0",
    "head.margin=0.2",
    "head.easy_margin=false",
    "head.K=2",
    "head.mp=0.06",
    "head.k_top=2",
    "head.do_lm=false",
]


@pytest.fixture
def make_step(tiny_config):
    def make(*overrides):
        config = load_config(tiny_config, ["training.device=cpu", "training.precision=float32", *overrides])
        torch.manual_seed(0)
        encoder = build_encoder(config.model, config.features.n_mels).train()
        head = build_head(config.head, config.model.embed_dim, N_CLASSES)
        return TrainingStep(config, encoder, head, torch.device("cpu"), torch.float32, Path("exp"))

    return make


def batch_of(seed):
    waveforms = 0.1 * torch.randn(6, 8000, generator=torch.Generator().manual_seed(seed))
    return waveforms, torch.arange(6), torch.zeros(6, dtype=torch.long)


def too_loud(step, batch):
    """Features that are infinite: a sample whose power is none of float32's numbers."""
    batch[0][0, 100] = 2e38


def not_a_number(step, batch):
    batch[0][1] = math.nan


def loss_of_nan(step, batch):
    step.encoder.register_forward_hook(lambda encoder, inputs, embeddings: embeddings * math.nan)


def infinite_gradient(step, batch):
    step.encoder.embedding.register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: gradient * math.inf) and None
    )


def overflowing_statistics(step, batch):
    """Loss and gradients stay finite: what is divided by an infinite deviation is 0."""
    step.encoder.pooling.register_forward_hook(lambda module, inputs, output: output * 1e25)


def state_of(step):
    return copy.deepcopy([step.encoder.state_dict(), step.head.state_dict(), step.optimizer.state_dict()])


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"lr"}:  # the schedule's, set before each step
            assert_equal(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b):
            assert_equal(one, other)
    else:
        assert a == b


@pytest.mark.parametrize("fault", [too_loud, not_a_number, loss_of_nan, infinite_gradient, overflowing_statistics])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["optimizer.name=sgd"],
        ["optimizer.name=adamw", "model.average_spectrum=true"],
        ["training.sampled_share=0.75", *SUBCENTERS],
        ["training.chunked_head_rows=1"],
    ],
    ids=["muon", "sgd", "average_spectrum", "sampled sub-centers", "chunked head"],
)
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(make_step, overrides, fault):
    step = make_step(*overrides)
    assert not step(batch_of(0), 0, 1, N_STEPS)["skipped"]
    before = state_of(step)
    batch = batch_of(1)
    fault(step, batch)
    record = step(batch, 0, 2, N_STEPS)
    assert record["skipped"]
    assert_equal(state_of(step), before)


def test_after_a_skipped_step_the_next_is_as_if_it_had_not_been(make_step):
    plain, skipping = make_step(), make_step()
    for step in (plain, skipping):
        step(batch_of(0), 0, 1, N_STEPS)
    bad = batch_of(1)
    too_loud(skipping, bad)
    assert skipping(bad, 0, 2, N_STEPS)["skipped"]
    records = [step(batch_of(2), 0, 3, N_STEPS) for step in (plain, skipping)]
    assert records[0] == records[1]
    assert not records[0]["skipped"]
    assert_equal(state_of(plain), state_of(skipping))


def test_a_good_step_takes_its_batch_into_the_statistics(make_step):
    step = make_step()
    before = step.encoder.pooled_norm.running_mean.clone()
    step(batch_of(0), 0, 1, N_STEPS)
    assert not torch.equal(step.encoder.pooled_norm.running_mean, before)
    assert step.encoder.pooled_norm.num_batches_tracked == 1
