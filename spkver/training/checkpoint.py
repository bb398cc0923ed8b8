"""Checkpoints: the state to go on from, the weights of each epoch, and their average.

``checkpoints/last.pt`` is the whole training state, written after every epoch, every few minutes
and on a signal. ``checkpoints/epoch-007.safetensors`` are the weights after an epoch; the last few
and the best stay. All of them appear whole or not at all.
"""

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_tensors, save_tensors
from spkver.experiment.paths import epoch_files
from spkver.files import atomic_write


def save_state(folder: Path, state: dict) -> None:
    """Write ``last.pt``."""
    with atomic_write(folder / "last.pt", "wb") as file:
        torch.save(state, file)


def has_state(folder: Path) -> bool:
    """Whether there is a ``last.pt``."""
    return (folder / "last.pt").is_file()


def load_state(folder: Path, kinds: dict[str, type | tuple[type, ...]], mapped: bool = False) -> dict:
    """Read ``last.pt``; only tensors and plain values are ever unpickled.

    Args:
        folder: of the checkpoints.
        kinds: the types of what it must hold.
        mapped: tensors stay in the file until they are used, for who needs a part of them only.

    Raises:
        SpkverError: it is damaged, or something is missing or of another type.
    """
    path = folder / "last.pt"
    try:
        state = _checked(path, mapped)
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # what damaged bytes lead to, there is no list of
        raise damaged(path, error) from None
    if not isinstance(state, dict):
        raise damaged(path, "it holds no state of a training")
    for key, kind in kinds.items():
        if key not in state:
            raise damaged(path, f"it has no '{key}'")
        if not isinstance(state[key], kind):
            raise damaged(path, f"its '{key}' is of type {type(state[key]).__name__}")
    return state


def damaged(path: Path, why: Exception | str) -> SpkverError:
    """What to say of a state that no run can go on from."""
    # Short: some put the damaged bytes into it.
    reason = " ".join(str(why).split())[:120] or type(why).__name__
    return SpkverError(
        f"{path}: is no whole checkpoint ({reason}); put a copy in its place, or train anew in another folder "
        "(`spkver average` still makes a model of the epochs that are finished)"
    )


def _checked(path: Path, mapped: bool) -> object:
    # torch leaves the check sums that it writes unread.
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"bytes of '{bad}' have changed")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def save_epoch(folder: Path, epoch: int, encoder: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    """Write the weights after ``epoch`` (counted from 1)."""
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.items()}
    weights |= {f"head.{name}": tensor for name, tensor in head.items()}
    save_tensors(folder / f"epoch-{epoch:03d}.safetensors", weights)


def epochs_kept(folder: Path) -> dict[int, Path]:
    """The epochs whose weights are there, in order."""
    return epoch_files(folder, "safetensors")


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

    Raises:
        SpkverError: a file is damaged, or holds other weights than the first.
    """
    weights = [load_tensors(path) for path in paths]
    for path, tensors in zip(paths, weights):
        _check_like(weights[0], tensors, path, paths[0])
    parts: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    for name, mean in mean_of(weights).items():
        part, _, rest = name.partition(".")
        parts[part == "head"][rest] = mean
    return parts


def _check_like(first: dict[str, Tensor], tensors: dict[str, Tensor], path: Path, first_path: Path) -> None:
    advice = "delete the damaged one, or train again"
    for name in sorted(first.keys() ^ tensors.keys()):
        has, lacks = (first_path, path) if name in first else (path, first_path)
        raise SpkverError(f"{lacks}: has no '{name}', as {has.name} has; {advice}")
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (first[name].shape, first[name].dtype):
            raise SpkverError(
                f"{path}: '{name}' has shape {tuple(tensor.shape)} of {tensor.dtype}, in {first_path.name} it has "
                f"{tuple(first[name].shape)} of {first[name].dtype}; {advice}"
            )
        if not tensor.isfinite().all():
            raise SpkverError(f"{path}: '{name}' holds values that are not finite; {advice}")


def mean_of(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of several epochs' weights (Izmailov et al., 2018; Vaswani et al., 2017, average checkpoints so)."""
    # Sums in double: the result must not depend on the order.
    return {
        name: torch.stack([tensors[name].double() for tensors in weights]).mean(0).to(first.dtype)
        for name, first in weights[0].items()
    }
