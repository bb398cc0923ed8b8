"""The ``model/`` folder: all that scoring or a user needs.

``model.safetensors`` (encoder; ``model.onnx`` of an imported ONNX file), ``config.yaml`` (complete, with what it ran
on and the decision threshold under ``run``), and, so that training can go on from it, ``head.safetensors`` and
``speakers`` (one a line, in the order of the head's classes).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from spkver.config import Config, complete, dump_config, load_config, load_run, schema
from spkver.config.schema import Calibration, Scoring
from spkver.data.names import composed
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import IMPORTED, ONNX, WEIGHTS
from spkver.files import atomic_write, is_file, locked
from spkver.models import Encoder, OnnxEncoder, build_encoder
from spkver.models.imported_encoder import require_trust

CONFIG = "config.yaml"
_SCALE = ".scale_of_rows"  # behind a name: what the rows of an int8 matrix are multiplied with
GENERAL = Path(__file__).resolve().parents[1] / "general"
"""The model that comes with spkver; ``recipes/general`` makes it."""
# Where embeddings of another toolkit have no model here, there are no durations and magnitudes either.
_SCORING_OF_IMPORTED = Scoring(calibration=Calibration(quality=[]))


@dataclass(frozen=True)
class Model:
    """A model read from its folder."""

    folder: Path
    encoder: Encoder  # in evaluation mode, float32
    config: Config
    run: dict[str, Any]  # what it was trained with; may hold "threshold" and "held_out_eer"


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with atomic_write(path, "wb") as file:
        file.write(_serialised(tensors))


def _serialised(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; matrices of int8 (``training.model_precision``) become float32.

    Raises:
        SpkverError: it is missing or damaged.
    """
    try:
        return _as_float32(load(Path(path).read_bytes()))
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SpkverError(f"{path}: is not a whole safetensors file ({reason})") from None


def save_model(
    folder: Path,
    config: Config,
    run: dict[str, Any],
    encoder: dict[str, Tensor],
    head: dict[str, Tensor],
    speakers: list[str],
) -> None:
    """Write a model folder; ``config.yaml`` comes last, so a folder that has it is complete."""
    folder = Path(folder)
    # In the file, so that the same weights with other variants count as another model: so do their embeddings.
    variants = config.scoring.variants
    encoder = _as_int8(encoder) if config.training.model_precision == "int8" else encoder
    with (
        locked(folder / ".lock", "writing a model", wait_seconds=60.0),
        atomic_write(folder / CONFIG) as settings,  # the first that is opened gets its name last
        atomic_write(folder / "speakers") as listed,
        atomic_write(folder / "head.safetensors", "wb") as classes,
        atomic_write(folder / WEIGHTS, "wb") as weights,
    ):
        weights.write(_serialised(encoder, {"views": str(variants)} if len(variants) > 1 else None))
        classes.write(_serialised(head))
        listed.writelines(f"{speaker}\n" for speaker in speakers)
        settings.write(dump_config(config, run))
        for file in (weights, classes, listed, settings):
            file.flush()  # a full disk shows here, while the old model is whole
        (folder / CONFIG).unlink(missing_ok=True)


def _as_int8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and filters as int8, with a scale for each row beside them; vectors stay, as they are small."""
    kept = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and tensor.is_floating_point():
            scale = (tensor.abs().flatten(1).amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
            kept[name] = (tensor / _of_rows(scale, tensor)).round().to(torch.int8)
            kept[name + _SCALE] = scale
    return kept


def _as_float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `_as_int8` made, as float32; all else as it is."""
    scales = {name: tensors[name + _SCALE] for name in tensors if name + _SCALE in tensors}
    whole = {name: tensors[name] * _of_rows(scale, tensors[name]) for name, scale in scales.items()}
    return {name: whole.get(name, tensor) for name, tensor in tensors.items() if not name.endswith(_SCALE)}


def _of_rows(scale: Tensor, tensor: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (tensor.ndim - 1))


def model_folder(path: str | os.PathLike[str]) -> Path:
    """The model folder that a path means: itself, or ``model/`` in it where it is an experiment's folder; ``general``
    is the model that comes with spkver, where no such folder is here."""
    path = Path(path)
    if path == Path(GENERAL.name) and not path.exists():
        return GENERAL
    inside = path / "model"
    return inside if is_file(inside / CONFIG) else path


def load_model(folder: str | os.PathLike[str], device: torch.device | None = None) -> Model:
    """Read a model folder; its encoder is put on ``device`` (None: the CPU).

    Raises:
        SpkverError: a file is missing or damaged, weights do not fit the configuration, or the encoder is code that
            nobody said to trust.
    """
    folder = Path(folder)
    config, run = load_run(_config_file(folder))
    if isinstance(config.model, schema.OnnxEncoder):
        return Model(folder, OnnxEncoder(folder / ONNX, config.model, device).eval(), config, run)
    require_trust(config.model, folder)
    encoder = build_encoder(config.model, config.features.n_mels)
    fit(encoder, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return Model(folder, encoder.eval().to(device), config, run)


def read_config(folder: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration of a model folder, with ``key.sub=value`` overrides.

    Raises:
        SpkverError: there is no model in the folder, or an override does not fit.
    """
    return load_config(_config_file(Path(folder)), overrides)


def _config_file(folder: Path) -> Path:
    path = folder / CONFIG
    if not is_file(path):
        raise SpkverError(f"{folder}: is no model folder (no config.yaml); `spkver average EXP` makes EXP/model")
    return path


def read_scoring(folder: str | Path, overrides: Sequence[str] = ()) -> tuple[Scoring, int]:
    """The scoring settings of a model, and its seed; of imported embeddings those that stand here.

    Raises:
        SpkverError: as `read_config`.
    """
    if is_file(Path(folder) / IMPORTED):
        values = [override.removeprefix("scoring.") for override in overrides]
        return complete(_SCORING_OF_IMPORTED, values, str(folder)), 1
    config = read_config(folder, overrides)
    return config.scoring, config.seed


def read_speakers(folder: str | Path) -> list[str] | None:
    """The speakers that a model was trained on, in the order of the head's classes; None of imported embeddings and
    of another toolkit's model, of which nobody knows.

    Raises:
        SpkverError: the folder does not say.
    """
    path = Path(folder) / "speakers"
    if is_file(Path(folder) / IMPORTED):
        return None
    if not is_file(path) and "imported" in load_run(_config_file(Path(folder)))[1]:
        return None
    try:
        return composed(path.read_text(encoding="utf-8")).split()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror}); `spkver average EXP` writes it") from None
    except UnicodeDecodeError:
        raise SpkverError(f"{path}: is not UTF-8 text; `spkver average EXP` writes it again") from None


def fit(module: nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Load tensors into a module; one that does not fit is named, never skipped.

    Raises:
        SpkverError: a weight is missing, unexpected, or of another shape.
    """
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise SpkverError(
                f"{source}: has no '{name}', wanted with shape {tuple(tensor.shape)}; "
                "the configuration's model is another one"
            )
        if tensors[name].shape != tensor.shape:
            raise SpkverError(
                f"{source}: '{name}' has shape {tuple(tensors[name].shape)}, "
                f"the configuration wants {tuple(tensor.shape)}"
            )
    unexpected = sorted(set(tensors) - set(wanted))
    if unexpected:
        name = unexpected[0]
        raise SpkverError(
            f"{source}: '{name}' with shape {tuple(tensors[name].shape)} has no place in the configuration's model"
        )
    module.load_state_dict(tensors)
