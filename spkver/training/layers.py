"""Layers that stay as they are, and layers that learn at a rate of their own.

Patterns are a shell's (``front_end.*``, ``layers.[01].*``) on the names that weights and statistics have in
``model.safetensors``. Notable: a module of which everything is frozen works in training as it does in use, without
dropout and layer drop, and with the BatchNorm statistics that it has; those stay too, also in `spkver average`.
"""

import difflib
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from spkver.errors import SpkverError


def freeze(encoder: nn.Module, patterns: Iterable[str]) -> list[nn.Module]:
    """Take weights out of training.

    Returns:
        The modules of which everything is frozen; they are to be kept in evaluation mode.

    Raises:
        SpkverError: a pattern matches nothing, or statistics without the weights of their module.
    """
    frozen = {
        name for pattern in patterns for name in _matching("optimizer.freeze", pattern, encoder, encoder.state_dict())
    }
    still, names_of_still = [], set()
    for prefix, module in encoder.named_modules():
        names = module.state_dict(prefix=f"{prefix}." if prefix else "").keys()
        if names and names <= frozen:
            still.append(module)
            names_of_still |= names
    parameters = dict(encoder.named_parameters())
    for name in sorted(frozen - names_of_still - parameters.keys()):
        module = name.rpartition(".")[0]
        raise SpkverError(f"optimizer.freeze: '{name}' moves while '{module}' learns; freeze '{module}.*'")
    for name in frozen & parameters.keys():
        parameters[name].requires_grad_(False)
    return still


def learning_rate_factors(encoder: nn.Module, factors: dict[str, float]) -> dict[nn.Parameter, float]:
    """What each weight's learning rate is multiplied by: 1, or the factor of the last pattern that matches its name.

    Raises:
        SpkverError: a pattern matches nothing.
    """
    parameters = dict(encoder.named_parameters())
    chosen = dict.fromkeys(parameters.values(), 1.0)
    for pattern, factor in factors.items():
        for name in _matching("optimizer.lr_factors", pattern, encoder, parameters):
            chosen[parameters[name]] = factor
    return chosen


def _matching(key: str, pattern: str, encoder: nn.Module, names: Iterable[str]) -> list[str]:
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        candidates = [*names, *(f"{name}.*" for name, _ in encoder.named_modules() if name)]
        (nearest,) = difflib.get_close_matches(pattern, candidates, 1, cutoff=0)
        raise SpkverError(f"{key}: '{pattern}' matches nothing in the encoder (did you mean '{nearest}'?)")
    return matching
