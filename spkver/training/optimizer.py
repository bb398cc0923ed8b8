"""The optimizer of a configuration."""

from collections.abc import Callable

import torch
from torch import nn

from spkver.config.schema import Optimizer
from spkver.heads import Head
from spkver.training.layers import learning_rate_factors
from spkver.training.muon import Muon
from spkver.training.row_optimizer import RowAdamW


def build_optimizer(
    config: Optimizer, encoder: nn.Module, head: Head, dtype: torch.dtype, rows: RowAdamW | None = None
) -> "torch.optim.Optimizer | Together":
    """The optimizer that ``config.name`` names; biases and norms are not decayed, frozen weights not touched.

    Where ``rows`` changes the head's weights, this leaves them to it. Muon's matrix products are in ``dtype``, the
    run's precision; what is added up over the steps is float32.

    Its groups have an ``lr_factor`` each, by which the rate of the schedule is multiplied.

    Raises:
        SpkverError: a pattern in ``config.lr_factors`` matches nothing.
    """
    if rows is not None:
        return Together(_of_weights(config, encoder, _trained(config, encoder), dtype), rows)
    return _of_weights(config, encoder, _trained(config, encoder) | dict.fromkeys(head.parameters(), 1.0), dtype)


def _of_weights(
    config: Optimizer, encoder: nn.Module, factors: dict[nn.Parameter, float], dtype: torch.dtype
) -> "torch.optim.Optimizer | Together":
    if config.name == "muon":
        return _build_muon(config, encoder, factors, dtype)
    groups = _groups(factors, config.weight_decay)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)
    kinds = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "radam": torch.optim.RAdam,
        "nadam": torch.optim.NAdam,
    }
    fused = {"fused": True} if config.name in ("adamw", "adam") else {}
    return kinds[config.name](groups, lr=config.lr, betas=tuple(config.betas), **fused)


def set_learning_rate(optimizer: "torch.optim.Optimizer | Together", lr: float) -> None:
    """Give every group the rate of the schedule, times its own factor."""
    for group in optimizer.param_groups:
        # A checkpoint from before there were factors has none.
        group["lr"] = lr * group.get("lr_factor", 1.0)


class Together:
    """Several optimizers, each with parameters of its own, used as one."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def step(self, closure: Callable | None = None) -> None:
        for part in self.parts:
            part.step(closure)

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict) -> None:
        for part, own in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(own)


def _build_muon(
    config: Optimizer, encoder: nn.Module, factors: dict[nn.Parameter, float], dtype: torch.dtype
) -> Together:
    """Muon for the encoder's matrices, AdamW for convolutions, vectors and the head.

    One learning rate serves both. A head's rows are classes, of which a step sees a few: no matrix in that sense.
    """
    of_encoder = set(encoder.parameters())
    matrices = {
        parameter: factors[parameter] for parameter in factors if parameter in of_encoder and parameter.dim() == 2
    }
    rest = {parameter: factor for parameter, factor in factors.items() if parameter not in matrices}
    adamw = torch.optim.AdamW(_groups(rest, config.weight_decay), lr=config.lr, betas=tuple(config.betas), fused=True)
    if not matrices:
        return Together(adamw)
    muon = Muon(_groups(matrices, config.weight_decay), config.lr, config.momentum, dtype=dtype)
    return Together(muon, adamw)


def _trained(config: Optimizer, encoder: nn.Module) -> dict[nn.Parameter, float]:
    """The encoder's weights that are not frozen, with the factors of their learning rates."""
    factors = learning_rate_factors(encoder, config.lr_factors)
    return {parameter: factor for parameter, factor in factors.items() if parameter.requires_grad}


def _groups(factors: dict[nn.Parameter, float], weight_decay: float) -> list[dict]:
    """One group for each factor, matrices and vectors apart."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter, factor in factors.items():
        groups.setdefault((parameter.dim() <= 1, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": 0.0 if is_vector else weight_decay, "lr_factor": factor}
        for (is_vector, factor), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
