"""The optimizer of a configuration."""

import torch
from torch import nn

from spkver.schema import Optimizer


def build_optimizer(config: Optimizer, *modules: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``config.name`` names; biases and norms are not decayed."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0], nesterov=config.betas[0] > 0)
    kinds = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "radam": torch.optim.RAdam,
        "nadam": torch.optim.NAdam,
    }
    fused = {"fused": True} if config.name in ("adamw", "adam") else {}
    return kinds[config.name](groups, lr=config.lr, betas=tuple(config.betas), **fused)
