"""Muon: steps of a matrix along its orthogonalised momentum.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scale of the steps is that of
J. Liu et al., "Muon is scalable for LLM training", 2025. Notable: the products are in the precision of the run.
``torch.optim.Muon``, of the same steps and state, always takes bfloat16, which a CPU that has to emulate it needs many
times longer for than for the encoder's whole step.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

# A quintic that takes singular values in (0, 1] near 1 in few steps (Jordan et al.); not to 1: that needs more.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# From so many times as wide as high on, a matrix is multiplied once, by the product of all iterations' polynomials.
_WIDE = 2
_EPSILON = 1e-7


class Muon(torch.optim.Optimizer):
    """Of matrices only.

    Args:
        params: matrices, or groups of them.
        lr: learning rate, of AdamW's size: a step's root mean square is about .2 of it.
        momentum: of the gradients, with Nesterov's look ahead.
        weight_decay: share of the weights, times ``lr``, that a step takes away.
        dtype: of the matrix products.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2:
                    raise ValueError(f"Muon is for matrices, not for a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, group)

    def _change(self, parameter: Tensor, group: dict) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = orthogonalised(parameter.grad.lerp(average, group["momentum"]), self.dtype)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape)))


def orthogonalised(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix with all but its smallest singular values near 1, by Newton-Schulz iterations in ``dtype``."""
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=_EPSILON)
    # What the products of small matrices round off grows from one iteration to the next: too much for bfloat16.
    is_wide = x.shape[1] >= _WIDE * x.shape[0] and dtype != torch.bfloat16
    x = _all_at_once(x) if is_wide else _one_by_one(x)
    return x.T if is_tall else x


def _one_by_one(x: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _all_at_once(x: Tensor) -> Tensor:
    """As `_one_by_one`. An iteration is ``p(X X') X``, so the next one's ``X X'`` is ``p (X X') p``, without X."""
    gram = x @ x.T
    polynomial = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = _COEFFICIENTS
    values = torch.addmm(gram, gram, gram, beta=b, alpha=c)
    values.diagonal().add_(a)
    return values
