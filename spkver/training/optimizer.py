"""The optimizer of a configuration."""

from collections.abc import Callable

import torch
from torch import nn

from spkver.schema import Optimizer


def build_optimizer(config: Optimizer, encoder: nn.Module, head: nn.Module) -> "torch.optim.Optimizer | Together":
    """The optimizer that ``config.name`` names; biases and norms are not decayed."""
    if config.name == "muon":
        return _build_muon(config, encoder, head)
    groups = _groups([*encoder.parameters(), *head.parameters()], config.weight_decay)
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


def _build_muon(config: Optimizer, encoder: nn.Module, head: nn.Module) -> Together:
    """Muon for the encoder's matrices, AdamW for convolutions, vectors and the head.

    Muon (K. Jordan et al., 2024) makes each matrix's momentum orthogonal, so that all directions of a layer learn
    alike; "match_rms_adamw" (J. Liu et al., "Muon is scalable for LLM training", 2025) scales its steps so that
    one learning rate serves both. A head's rows are classes, of which a step sees a few: no matrix in that sense.
    """
    matrices = [parameter for parameter in encoder.parameters() if parameter.dim() == 2]
    rest = [parameter for parameter in encoder.parameters() if parameter.dim() != 2]
    muon = torch.optim.Muon(
        matrices,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    groups = _groups([*rest, *head.parameters()], config.weight_decay)
    return Together(muon, torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), fused=True))


def _groups(parameters: list[nn.Parameter], weight_decay: float) -> list[dict]:
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
