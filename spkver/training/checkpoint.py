"""Checkpoints: the state to go on from, the weights of each epoch, and their average.

``checkpoints/last.pt`` is the whole training state, written after every epoch, every few minutes
and on a signal. ``checkpoints/epoch-007.safetensors`` are the weights after an epoch; the last few
and the best stay. All of them appear whole or not at all.
"""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from spkver.errors import SpkverError
from spkver.model_folder import load_tensors, save_tensors
from spkver.whole_file import whole_file


def save_state(folder: Path, state: dict) -> None:
    """Write ``last.pt``."""
    with whole_file(folder / "last.pt", "wb") as file:
        torch.save(state, file)


def has_state(folder: Path) -> bool:
    """Whether there is a ``last.pt``."""
    return (folder / "last.pt").is_file()


def load_state(folder: Path) -> dict:
    """Read ``last.pt``; only tensors and plain values are ever unpickled.

    Raises:
        SpkverError: it is damaged.
    """
    path = folder / "last.pt"
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
        raise SpkverError(f"{path}: is no whole checkpoint ({str(error).splitlines()[0]})") from None


def save_epoch(folder: Path, epoch: int, encoder: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    """Write the weights after ``epoch`` (counted from 1)."""
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    weights |= {f"head.{name}": tensor for name, tensor in head.items()}
    save_tensors(folder / f"epoch-{epoch:03d}.safetensors", weights)


def epochs_kept(folder: Path) -> dict[int, Path]:
    """The epochs whose weights are there, in order."""
    found = {}
    for path in folder.glob("epoch-*.safetensors"):
        match = re.fullmatch(r"epoch-(\d+)\.safetensors", path.name)
        if match:
            found[int(match[1])] = path
    return dict(sorted(found.items()))


def prune(folder: Path, keep_last: int, best: int | None) -> None:
    """Delete the weights of all epochs but the last few and the best."""
    kept = epochs_kept(folder)
    for epoch in list(kept)[:-keep_last]:
        if epoch != best:
            kept[epoch].unlink()


def average(paths: list[Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """``mean_of`` the weights in several files.

    Returns:
        The weights of encoder and head.
    """
    parts = ({}, {})
    for name, mean in mean_of([load_tensors(path) for path in paths]).items():
        part, _, rest = name.partition(".")
        parts[part == "head"][rest] = mean
    return parts


def mean_of(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of several epochs' weights (Izmailov et al., 2018; Vaswani et al., 2017, average checkpoints so)."""
    # Sums in double: the result must not depend on the order.
    return {
        name: torch.stack([tensors[name].double() for tensors in weights]).mean(0).to(first.dtype)
        for name, first in weights[0].items()
    }
