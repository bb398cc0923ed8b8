"""Optimizers: who is decayed, who is made orthogonal, and that all of it is resumed."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from spkver.config import load_config
from spkver.training.optim import build_optimizer

BASE = Path(__file__).parents[2] / "conf" / "base.yaml"


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.linear = nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)


def built(name, *overrides):
    torch.manual_seed(0)
    encoder, head = Encoder(), nn.Linear(6, 20, bias=False)
    config = load_config(BASE, [f"optimizer.name={name}", *overrides]).optimizer
    return encoder, head, build_optimizer(config, encoder, head, torch.float32)


def train(encoder, head, optimizer, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        image, rows = torch.randn(5, 1, 6, 6, generator=generator), torch.randn(50, 8, generator=generator)
        optimizer.zero_grad()
        out = head(encoder.norm(encoder.linear(rows))).square().mean() + encoder.convolution(image).square().mean()
        out.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["muon", "adamw", "adam", "radam", "nadam", "sgd"])
def test_every_parameter_is_trained_and_only_matrices_are_decayed(name):
    encoder, head, optimizer = built(name, "optimizer.weight_decay=0.25")
    of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    parameters = dict([*encoder.named_parameters(), *head.named_parameters(prefix="head")])
    assert len(of) == len(parameters) == sum(len(group["params"]) for group in optimizer.param_groups)
    assert {n: of[id(p)] for n, p in parameters.items()} == {
        n: 0.25 if p.dim() > 1 else 0.0 for n, p in parameters.items()
    }
    before = copy.deepcopy({n: p.detach() for n, p in parameters.items()})
    train(encoder, head, optimizer, 2)
    assert [n for n, p in parameters.items() if torch.equal(p, before[n])] == []


def test_muon_moves_a_matrix_by_equal_lengths_in_all_directions_and_the_head_as_adamw_does():
    encoder, head, optimizer = built("muon", "optimizer.weight_decay=0", "optimizer.lr=0.01")
    start = encoder.linear.weight.detach().clone()
    other, other_head, adamw = built("adamw", "optimizer.weight_decay=0", "optimizer.lr=0.01")
    train(encoder, head, optimizer, 1)
    train(other, other_head, adamw, 1)
    torch.testing.assert_close(head.weight, other_head.weight)
    torch.testing.assert_close(encoder.convolution.weight, other.convolution.weight)
    lengths = torch.linalg.svdvals(encoder.linear.weight.detach() - start)
    # Scaled to the root mean square of AdamW's steps (0.2): every singular value near 0.2 sqrt(8) lr, where
    # Newton-Schulz leaves them between 0.7 and 1.2 of that; but for the sixth, as the norm behind takes one direction
    # away.
    assert (lengths / (0.2 * 8**0.5 * 0.01)).tolist()[:5] == pytest.approx([1.0] * 5, abs=0.35)


@pytest.mark.parametrize("name", ["muon", "adamw", "sgd"])
def test_a_resumed_optimizer_goes_on_to_the_bit(name):
    encoder, head, optimizer = built(name)
    train(encoder, head, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    again, again_head, resumed = built(name)
    again.load_state_dict(encoder.state_dict())
    again_head.load_state_dict(head.state_dict())
    resumed.load_state_dict(state)
    train(encoder, head, optimizer, 3, seed=2)
    train(again, again_head, resumed, 3, seed=2)
    for own, other in zip([*encoder.parameters(), *head.parameters()], [*again.parameters(), *again_head.parameters()]):
        assert torch.equal(own, other)
