"""``spkver import-model``: a model folder around a network of another toolkit, from its ONNX file or its weights.

All that comes after embeddings (scoring, normalisation, PLDA, calibration, verification, enrolment) works on such a
folder as on one that was trained here. A network gives its embeddings only for the features that it was trained with:
those are known of a toolkit, stand in the metadata of a file, or are given.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spkver import __version__
from spkver.config import Config, config_of, dump_config, read_yaml
from spkver.config.schema import ImportedEncoder as ImportedSection
from spkver.config.schema import OnnxEncoder as OnnxSection
from spkver.data.audio import read_audio
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import ONNX, WEIGHTS
from spkver.experiment.model_folder import fit, save_tensors
from spkver.export.onnx_file import made_up_sounds
from spkver.files import atomic_write
from spkver.models import ImportedEncoder, OnnxEncoder, build_encoder
from spkver.models.encoder_check import checked
from spkver.models.onnx_encoder import open_session

# Both take Kaldi's filterbanks less their mean over time. WeSpeaker (Wang et al., ICASSP 2023) computes them by
# torchaudio of samples times 32,768 with a Hamming window, 3D-Speaker (Chen et al., 2024) with torchaudio's defaults.
TOOLKITS: dict[str, dict[str, Any]] = {
    "wespeaker": {"name": "fbank", "n_mels": 80, "window": "hamming", "scale": "int16"},
    "3dspeaker": {"name": "fbank", "n_mels": 80, "window": "povey", "scale": "unit"},
}
# What sherpa-onnx writes into its files as `framework`.
_FRAMEWORKS = {"wespeaker": "wespeaker", "3d-speaker": "3dspeaker"}
# What the toolkits' own exports call inputs and outputs.
_NAMES = {("feats", "embs"): "wespeaker", ("feature", "embedding"): "3dspeaker"}
# Where WeSpeaker has the networks that its configurations name, by how the names begin.
_WESPEAKER_MODULES = {
    "ResNet": "resnet",
    "ECAPA_TDNN": "ecapa_tdnn",
    "CAMPPlus": "campplus",
    "ERes2Net": "eres2net",
    "REPVGG": "repvgg",
    "Res2Net": "res2net",
    "ReDimNet": "redimnet",
    "SimAM_ResNet": "samresnet",
    "XVEC": "tdnn",
}
_MOST_DIFFERENCE = 1e-4  # of embeddings of unit length


def import_onnx(
    file: Path,
    out: Path,
    like: str = "auto",
    config: Path | None = None,
    overrides: Sequence[str] = (),
    recording: Path | None = None,
) -> str:
    """Make a model folder of an ONNX file; returns a line on what it is.

    Args:
        file: takes features ``(batch, n_frames, n_mels)`` or samples ``(batch, n_samples)``.
        out: an experiment's folder whose ``model/`` is made, or a folder called ``model``.
        like: a toolkit of `TOOLKITS`, whose features it takes; ``sherpa-onnx``: its metadata says which; ``auto``:
            its metadata or the names of its input and output.
        config: YAML with what differs, above all ``features``.
        overrides: ``key.sub=value``, the same.
        recording: speech to check it by, beside made-up sounds.

    Raises:
        SpkverError: it is no such file, nothing tells which features it takes, or it does not embed.
    """
    folder = _place(out)
    session = open_session(file)
    values = _of_session(session, file, like, named=config is not None or bool(overrides))
    settings = config_of(values, config, overrides, str(file))
    assert isinstance(settings.model, OnnxSection)
    encoder = OnnxEncoder(file, settings.model)
    encoder.embed_dim = _dimensions(encoder, settings, file)
    settings = _complete(settings, settings.model.model_copy(update={"embed_dim": encoder.embed_dim}))
    said = _check(encoder, settings, file, recording)

    def write(path: Path) -> None:
        with file.open("rb") as content, atomic_write(path / ONNX, "wb") as copy:
            shutil.copyfileobj(content, copy)

    return _write(folder, settings, {"file": file.name, "like": like}, write, said)


def import_weights(
    file: Path,
    out: Path,
    like: str = "auto",
    config: Path | None = None,
    overrides: Sequence[str] = (),
    recording: Path | None = None,
) -> str:
    """Make a model folder of a checkpoint of PyTorch weights, as `import_onnx` does of an ONNX file.

    Args:
        file: a checkpoint (``avg_model.pt``); only tensors are read, nothing in it is run.
        config: YAML that names the network (``model: {name: package.module:Class, args: {..}}``), or the
            configuration that WeSpeaker wrote beside the weights. The others as `import_onnx`.

    Raises:
        SpkverError: as `import_onnx`, or the weights are of another network.
    """
    folder = _place(out)
    if like not in TOOLKITS:
        raise SpkverError(f"import-model: --weights needs --like {' or '.join(TOOLKITS)}, got {like}")
    values: dict[str, Any] = {"features": TOOLKITS[like]}
    of_wespeaker = None if config is None else _wespeaker_model(config)
    if of_wespeaker is not None:
        values["model"], values["features"] = of_wespeaker, values["features"] | {"n_mels": _feature_size(of_wespeaker)}
    settings = config_of(values, config if of_wespeaker is None else None, overrides, str(file))
    if not isinstance(settings.model, ImportedSection):
        raise SpkverError(
            f"import-model: say whose weights {file} holds: --config YAML with model.name and model.args, or "
            "model.name=package.module:Class"
        )
    encoder = build_encoder(settings.model, settings.features.n_mels)
    assert isinstance(encoder, ImportedEncoder)
    fit(encoder.network, _network_weights(_read_checkpoint(file), encoder.network), file)
    section, _ = checked(settings, encoder)
    settings = _complete(settings, section)
    said = _check(encoder.eval(), settings, file, recording)
    tensors = encoder.state_dict()
    return _write(
        folder, settings, {"file": file.name, "like": like}, lambda to: save_tensors(to / WEIGHTS, tensors), said
    )


def _place(out: Path) -> Path:
    folder = out if out.name == "model" else out / "model"
    if (folder / "config.yaml").exists():
        raise SpkverError(f"{folder}: holds a model already; remove it, or choose another folder")
    return folder


def _of_session(session: Any, file: Path, like: str, named: bool) -> dict[str, Any]:
    """What an ONNX file says of itself, as values of a configuration.

    Args:
        named: the features that it takes are given besides.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        listed = ", ".join(each.name for each in inputs)
        raise SpkverError(f"{file}: takes {len(inputs)} inputs ({listed}); only a file with one can be used")
    metadata = session.get_modelmeta().custom_metadata_map
    (wanted,) = inputs
    values: dict[str, Any] = {
        "model": {"name": "onnx", "input": wanted.name, "output": outputs[-1].name, "embed_dim": 1}
    }
    if str(metadata.get("sample_rate", "")).isdigit():
        values["data"] = {"sample_rate": int(metadata["sample_rate"])}
    if len(wanted.shape) == 2:
        return values | {"features": {"name": "waveform"}}
    if len(wanted.shape) != 3:
        raise SpkverError(f"{file}: '{wanted.name}' has shape {wanted.shape}, not (batch, n_frames, n_mels)")
    toolkit = _toolkit(metadata, (wanted.name, outputs[-1].name), file, like)
    if toolkit is None and not named:
        raise SpkverError(
            f"{file}: does not say which features it takes; name its toolkit by --like {' or '.join(TOOLKITS)}, or "
            "give them by --config YAML"
        )
    n_mels = wanted.shape[2] if isinstance(wanted.shape[2], int) else 80
    return values | {"features": TOOLKITS.get(toolkit or "", {}) | {"n_mels": n_mels}}


def _toolkit(metadata: dict[str, str], names: tuple[str, str], file: Path, like: str) -> str | None:
    if like in TOOLKITS:
        return like
    framework = metadata.get("framework")
    if framework is not None and framework not in _FRAMEWORKS:
        known = ", ".join(_FRAMEWORKS)
        raise SpkverError(f"{file}: is of {framework}, whose features spkver does not make (it makes those of {known})")
    if framework is not None:
        return _FRAMEWORKS[framework]
    if like == "sherpa-onnx":
        raise SpkverError(f"{file}: has no metadata of sherpa-onnx (no 'framework'); name its toolkit by --like")
    return _NAMES.get(names)


def _complete(settings: Config, model: OnnxSection | ImportedSection) -> Config:
    return settings.model_copy(update={"model": model})


def _dimensions(encoder: OnnxEncoder, settings: Config, file: Path) -> int:
    extractor = Extractor(encoder, settings)
    features, _, _ = extractor.input(torch.from_numpy(made_up_sounds(extractor.sample_rate)[-1])[None])
    return _run(encoder, features, file).shape[1]


def _run(encoder: OnnxEncoder, features: Tensor, file: Path) -> Tensor:
    try:
        return encoder.run(features)
    except Exception as error:  # onnxruntime has a class of its own for each fault, and no common one
        reason = " ".join(str(error).split())[:300]
        raise SpkverError(f"{file}: fails on an input of shape {tuple(features.shape)} ({reason})") from None


def _check(encoder: OnnxEncoder | ImportedEncoder, settings: Config, file: Path, recording: Path | None) -> str:
    """Embed noise, made-up sounds and a recording; returns a line on what was found."""
    extractor = Extractor(encoder, settings)
    rate = extractor.sample_rate
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * rate).astype(np.float32)
    waveforms = [noise, *made_up_sounds(rate)]
    if recording is not None:
        waveforms.append(extractor.middle(read_audio(recording, rate)))
    try:
        embeddings = np.concatenate([extractor.embed([waveform]) for waveform in waveforms])
    except SpkverError:
        raise
    except Exception as error:  # dimensions that depend on the length, or whatever the network raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise SpkverError(f"{file}: does not embed sounds of 0.05 to 4 s alike ({reason})") from None
    if not np.isfinite(embeddings).all() or (np.linalg.norm(embeddings, axis=1) < 0.5).any():
        raise SpkverError(f"{file}: gives embeddings that are not finite, or zero; are its features others?")
    nearest = (embeddings[1:] @ embeddings[0]).max()
    if nearest > 1 - 1e-6:
        raise SpkverError(f"{file}: gives noise and other sounds the same embedding; it does not react to its input")
    batches = _batches(encoder, extractor, noise, file) if isinstance(encoder, OnnxEncoder) else ""
    by = "made-up sounds" if recording is None else f"made-up sounds and {recording.name}"
    return f"{embeddings.shape[1]} dimensions, checked on {by}{batches}"


def _batches(encoder: OnnxEncoder, extractor: Extractor, noise: np.ndarray, file: Path) -> str:
    """An utterance in a batch is what it is alone, where the file takes batches at all (they are not used here)."""
    features, _, _ = extractor.input(torch.from_numpy(np.stack([noise, noise[::-1].copy()])))
    alone = torch.cat([_run(encoder, row[None], file) for row in features])
    try:
        together = encoder.run(features)
    except Exception:  # a batch of one alone, as some files are exported
        return "; it takes one utterance at a time"
    difference = (nn.functional.normalize(together, dim=1) - nn.functional.normalize(alone, dim=1)).abs().max()
    if difference > _MOST_DIFFERENCE:
        raise SpkverError(f"{file}: gives an utterance another embedding in a batch than alone, by {difference:.1g}")
    return ""


def _write(folder: Path, settings: Config, made_of: dict[str, str], write_network: Any, said: str) -> str:
    run = {"imported": made_of, "spkver": __version__}
    write_network(folder)
    text = dump_config(settings, run)
    # The experiment's own, for what shows experiments; not over one that was trained there.
    beside = folder.parent / "config.yaml"
    for path in [*([] if beside.exists() else [beside]), folder / "config.yaml"]:
        with atomic_write(path) as file:
            file.write(text)
    features = settings.features
    kind = "samples" if features.name == "waveform" else f"{features.n_mels} filterbanks, window {features.window}"
    return f"{made_of['file']}: {kind}, scale {features.scale}; {said} -> {folder}"


def _wespeaker_model(path: Path) -> dict[str, Any] | None:
    """The section ``model`` of a configuration that WeSpeaker wrote; None where the file is none."""
    content = read_yaml(path)
    name = content.get("model") if isinstance(content, dict) else None
    if not isinstance(name, str):
        return None
    modules = [module for begin, module in _WESPEAKER_MODULES.items() if name.startswith(begin)]
    if not modules:
        raise SpkverError(f"{path}: names the network '{name}', of which spkver does not know where WeSpeaker has it")
    return {"name": f"wespeaker.models.{modules[0]}:{name}", "args": content.get("model_args") or {}}


def _feature_size(model: dict[str, Any]) -> int:
    size = model["args"].get("feat_dim", 80)
    return size if isinstance(size, int) else 80


def _read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by names.

    Raises:
        SpkverError: it holds more than tensors, or none.
    """
    if not file.is_file():
        raise SpkverError(f"{file}: there is no such file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each have their own
        reason = " ".join(str(error).split())[:200]
        raise SpkverError(f"{file}: cannot be read as a checkpoint of tensors alone ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise SpkverError(f"{file}: holds no tensors by names")
    return content


def _network_weights(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Without the head that the network was trained with (WeSpeaker's ``projection``) and the prefixes of wrappers."""
    for prefix in ("module.", "embedding_model.", "encoder."):
        if all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    own = network.state_dict()
    return {name: tensor for name, tensor in weights.items() if name in own or not name.startswith("projection.")}
