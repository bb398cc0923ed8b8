"""What tells the embeddings of one model from those of another."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from spkver.config import load_config
from spkver.config.schema import Config, Section, before_added
from spkver.errors import SpkverError
from spkver.files import is_file

# Stands in place of a model where embeddings came from another toolkit.
IMPORTED = "imported.json"
# The weights of a model, and where they are in an ONNX file of another toolkit.
WEIGHTS, ONNX = "model.safetensors", "model.onnx"
# Raise it when the same weights and settings give other embeddings than before.
_EXTRACTION = 2


def embedding_fingerprint(model: str | os.PathLike[str]) -> str:
    """All that an embedding depends on, beside its recording, as one SHA-256.

    That is the weights, the sample rate, the sections ``features`` and ``model``, and of ``scoring`` the keys
    ``max_seconds`` and ``variants``. Of imported embeddings it stands for the network that they came from.

    Raises:
        SpkverError: there is no model in the folder.
    """
    model = Path(model)
    imported = model / IMPORTED
    if is_file(imported):
        return _sha256(_content(imported))
    if not is_file(model / "config.yaml"):
        raise SpkverError(f"{model}: is no model folder (no config.yaml); `spkver average EXP` makes EXP/model")
    config = load_config(model / "config.yaml")
    weights = _content(weights_file(model, config))
    settings: dict[str, Any] = {
        "features": _settings(config.features),
        "model": _settings(config.model),
        "scoring": _settings(config.scoring, {"max_seconds", "variants"}),
    }
    if "variants" in settings["scoring"]:  # fingerprints were made with its former name
        settings["scoring"]["views"] = settings["scoring"].pop("variants")
    settings |= {"sample_rate": config.data.sample_rate, "extraction": _EXTRACTION, "weights": _sha256(weights)}
    return _sha256(json.dumps(settings, sort_keys=True).encode())


def weights_file(model: Path, config: Config) -> Path:
    """The file with the weights of a model folder with this configuration."""
    return model / (ONNX if config.model.name == "onnx" else WEIGHTS)


def _settings(section: Section, keys: set[str] | None = None) -> dict[str, Any]:
    """The values of a section. A key that the schema got later, at the value by which nothing changes, makes no
    other model."""
    before = before_added(type(section))
    values = section.model_dump(mode="json", include=keys)
    return {name: value for name, value in values.items() if before.get(name, _NOTHING) != value}


_NOTHING = object()  # unlike any value, None among them


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        advice = "`spkver average EXP` makes EXP/model"
        raise SpkverError(f"{path.parent}: is no model folder ({error.strerror}); {advice}") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
