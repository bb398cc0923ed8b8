"""Muon: torch's steps, in the precision of the run."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.training import optim as muon
from spkver.training.optim import Muon, orthogonalised


def matrices(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(*shape, generator=generator)) for shape in ((12, 5), (6, 20), (8, 8))]


def run(optimizer, parameters, steps, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_orthogonalised_keeps_directions_and_brings_all_but_the_smallest_singular_values_near_1(
    rows, columns, scale, seed
):
    matrix = scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ orthogonalised(matrix[None], torch.float64)[0] @ right.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), atol=1e-6, rtol=0)
    large = inside.diagonal()[values > 0.02 * values.norm()]
    assert ((large > 0.65) & (large < 1.25)).all(), large


@given(
    rows=st.integers(1, 12),
    times_as_wide=st.integers(2, 5),
    rank=st.integers(1, 12),
    decades=st.floats(0, 6),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_wide_matrix_multiplied_once_is_what_the_iterations_one_by_one_make(rows, times_as_wide, rank, decades, seed):
    generator = torch.Generator().manual_seed(seed)
    left, right = (
        torch.randn(rows, rank, generator=generator),
        torch.randn(rank, times_as_wide * rows, generator=generator),
    )
    matrix = left * torch.logspace(0, -decades, rank) @ right
    expected = muon._one_by_one((matrix.double() / matrix.double().norm())[None])[0]
    assert (orthogonalised(matrix[None])[0] - expected).norm() < 0.01 * expected.norm()
    assert (orthogonalised(matrix.T[None])[0] - expected.T).norm() < 0.01 * expected.norm()


def test_a_wide_matrix_of_zeros_stays_one():
    assert torch.equal(orthogonalised(torch.zeros(1, 3, 9)), torch.zeros(1, 3, 9))


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (64, 100)])
def test_in_bfloat16_a_matrix_of_few_directions_does_not_blow_up(shape):
    matrix = torch.randn(shape[0], 1, generator=torch.Generator().manual_seed(0)) * torch.ones(shape[1])
    assert torch.linalg.matrix_norm(orthogonalised(matrix[None], torch.bfloat16).float(), 2) < 1.3


def test_steps_are_those_of_torchs_muon_but_for_its_bfloat16():
    own, peer = matrices(), matrices()
    run(Muon(own, lr=0.1, momentum=0.9, weight_decay=0.3), own, 5)
    run(torch.optim.Muon(peer, lr=0.1, momentum=0.9, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"), peer, 5)
    for ours, theirs, start in zip(own, peer, matrices()):
        assert ((ours - theirs).norm() / (theirs - start).norm()).item() < 0.02


def test_matrices_of_one_shape_take_the_steps_that_each_would_take_alone(monkeypatch):
    monkeypatch.setattr(muon, "_stacks", lambda matrices: [matrices])  # as on a GPU

    def four():
        generator = torch.Generator().manual_seed(3)
        return [torch.nn.Parameter(torch.randn(6, 20, generator=generator)) for _ in range(4)]

    together, alone = four(), four()
    run(Muon(together, lr=0.1, weight_decay=0.3), together, 3)
    monkeypatch.undo()
    optimizers = [Muon([parameter], lr=0.1, weight_decay=0.3) for parameter in alone]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for parameter, optimizer in zip(alone, optimizers):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    for ours, single in zip(together, alone):
        torch.testing.assert_close(ours, single, rtol=1e-5, atol=1e-5)


def test_a_gpu_multiplies_all_matrices_of_a_shape_at_once_and_a_cpu_each_alone():
    shapes = [(3, 4), (4, 3), (3, 4), (3, 4)]
    on_cpu, elsewhere = ([torch.empty(*shape, device=device) for shape in shapes] for device in ("cpu", "meta"))
    assert [len(stack) for stack in muon._stacks(on_cpu)] == [1, 1, 1, 1]
    assert [len(stack) for stack in muon._stacks(elsewhere)] == [3, 1]


def test_a_checkpoint_of_torchs_muon_is_taken_up():
    own, peer = matrices(), matrices()
    theirs = torch.optim.Muon(peer, lr=0.1, momentum=0.9, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    run(theirs, peer, 3)
    with torch.no_grad():
        for parameter, value in zip(own, peer):
            parameter.copy_(value)
    resumed = Muon(own, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(theirs.state_dict()))
    before = [value.detach().clone() for value in peer]
    run(resumed, own, 2, seed=2)
    run(theirs, peer, 2, seed=2)
    for ours, value, start in zip(own, peer, before):
        assert ((ours - value).norm() / (value - start).norm()).item() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hardware", [True, False])
def test_products_are_in_the_precision_that_is_asked_for_whatever_the_machine_multiplies(monkeypatch, dtype, hardware):
    monkeypatch.setattr("spkver.models.device._has_bfloat16", lambda device: hardware)
    seen = []
    monkeypatch.setattr(
        muon, "orthogonalised", lambda matrix, dtype: seen.append(dtype) or orthogonalised(matrix, dtype)
    )
    parameters = matrices()
    run(Muon(parameters, lr=0.1, dtype=dtype), parameters, 1)
    assert seen == [dtype] * 3
    assert all(parameter.dtype == torch.float32 for parameter in parameters)


def test_a_parameter_without_a_gradient_stays():
    first, second, third = matrices()
    before = second.detach().clone()
    optimizer = Muon([first, second, third], lr=0.1, weight_decay=0.5)
    run(optimizer, [first, third], 1)
    assert torch.equal(second, before)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"not for a parameter of shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)
