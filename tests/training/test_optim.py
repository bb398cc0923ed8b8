"""Optimizers: who is decayed, who is made orthogonal, and that all of it is resumed."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from spkver.config import load_config
from spkver.heads import NormFace
from spkver.training.optim import RowAdamW, build_optimizer, set_learning_rate

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


KINDS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "radam": torch.optim.RAdam, "nadam": torch.optim.NAdam}


@pytest.mark.parametrize("name", [*KINDS, "sgd"])
def test_steps_are_those_of_torchs_optimizer_with_the_values_of_the_configuration(name):
    words = ["optimizer.lr=0.02", "optimizer.betas=[0.8, 0.9]", "optimizer.momentum=0.6", "optimizer.weight_decay=0.25"]
    encoder, head, optimizer = built(name, *words)
    assert type(optimizer) is KINDS.get(name, torch.optim.SGD)
    # Kernels of which all parameters take part at once, where torch has one.
    assert bool(optimizer.defaults.get("fused")) == (name in ("adamw", "adam", "sgd"))
    other, other_head = copy.deepcopy(encoder), copy.deepcopy(head)
    parameters = [*other.parameters(), *other_head.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.25},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        torchs = torch.optim.SGD(groups, lr=0.02, momentum=0.6, nesterov=True)
    else:
        torchs = KINDS[name](groups, lr=0.02, betas=(0.8, 0.9))
    train(encoder, head, optimizer, 3)
    train(other, other_head, torchs, 3)
    for own, expected in zip([*encoder.parameters(), *head.parameters()], parameters):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


def test_sgd_without_momentum_does_not_look_ahead():
    encoder, head, optimizer = built("sgd", "optimizer.momentum=0", "optimizer.lr=0.1", "optimizer.weight_decay=0")
    before = head.weight.detach().clone()
    train(encoder, head, optimizer, 1)
    torch.testing.assert_close(head.weight.detach(), before - 0.1 * head.weight.grad)


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_rate_reaches_every_group_times_its_factor(name):
    encoder, head, optimizer = built(name, 'optimizer.lr_factors={"linear.*": 0.25, "norm.bias": 2}')
    set_learning_rate(optimizer, 0.4)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict([*encoder.named_parameters(), *head.named_parameters(prefix="head")])
    assert {parameter: rates[id(named[parameter])] for parameter in named} == {
        "convolution.weight": 0.4,
        "convolution.bias": 0.4,
        "linear.weight": 0.1,
        "linear.bias": 0.1,
        "norm.weight": 0.4,
        "norm.bias": 0.8,
        "head.weight": 0.4,
    }
    # A checkpoint from before there were factors has groups without any.
    for group in optimizer.param_groups:
        del group["lr_factor"]
    set_learning_rate(optimizer, 0.3)
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


def test_groups_come_in_one_order_whatever_the_weights_so_that_a_state_finds_its_own():
    _, _, optimizer = built(
        "adamw", "optimizer.weight_decay=0.5", 'optimizer.lr_factors={"linear.*": 2, "norm.*": 0.5}'
    )
    assert [(group["weight_decay"], group["lr_factor"], len(group["params"])) for group in optimizer.param_groups] == [
        (0.5, 1.0, 2),
        (0.5, 2.0, 1),
        (0.0, 0.5, 2),
        (0.0, 1.0, 1),
        (0.0, 2.0, 1),
    ]


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_frozen_weights_are_in_no_group(name):
    encoder, head = Encoder(), nn.Linear(6, 20, bias=False)
    encoder.linear.requires_grad_(False)
    config = load_config(BASE, [f"optimizer.name={name}"]).optimizer
    optimizer = build_optimizer(config, encoder, head, torch.float32)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*encoder.parameters(), *head.parameters()] if p.requires_grad}
    # Its matrices are gone: nothing is left for Muon.
    assert len(getattr(optimizer, "parts", [None])) == 1


def test_muon_and_adamw_have_the_values_of_the_configuration():
    words = ["optimizer.lr=0.02", "optimizer.betas=[0.8, 0.9]", "optimizer.momentum=0.6", "optimizer.weight_decay=0.25"]
    _, _, optimizer = built("muon", *words)
    muon, adamw = optimizer.parts
    assert muon.defaults == {"lr": 0.02, "momentum": 0.6, "weight_decay": 0.0}
    assert [(group["lr"], group["weight_decay"]) for group in muon.param_groups] == [(0.02, 0.25)]
    assert muon.dtype == torch.float32
    assert [(g["lr"], g["betas"], g["fused"]) for g in adamw.param_groups] == [(0.02, (0.8, 0.9), True)] * 2


def test_a_head_with_rows_of_its_own_is_left_to_their_optimizer():
    torch.manual_seed(0)
    encoder, head = Encoder(), NormFace(6, 20)
    config = load_config(BASE, ["optimizer.name=adamw"]).optimizer
    rows = RowAdamW(head, 0.01, (0.9, 0.98), 0.1)
    optimizer = build_optimizer(config, encoder, head, torch.float32, rows)
    assert optimizer.parts[1] is rows
    of_encoder = {id(p) for group in optimizer.parts[0].param_groups for p in group["params"]}
    assert of_encoder == set(map(id, encoder.parameters()))
    assert optimizer.param_groups == [*optimizer.parts[0].param_groups, *rows.param_groups]


def test_gradients_of_all_parts_are_forgotten():
    encoder, head, optimizer = built("muon")
    train(encoder, head, optimizer, 1)
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.count_nonzero() == 0 for p in [*encoder.parameters(), *head.parameters()])
    optimizer.zero_grad()
    assert all(p.grad is None for p in [*encoder.parameters(), *head.parameters()])


def test_a_state_of_another_number_of_parts_is_refused():
    _, _, optimizer = built("muon")
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"shorter|longer"):
        optimizer.load_state_dict({"parts": state["parts"][:1]})
