"""``spkver export MODEL --huggingface DIR``: a folder ready to upload; nothing goes over the network.

The back end (cohort, calibration) stays at home: a cohort holds the voices of the training speakers.
"""

import shutil
from importlib.metadata import files
from pathlib import Path
from typing import Any

import yaml

from spkver import __version__
from spkver.config import dump_config
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import Model, load_model
from spkver.files import atomic_write
from spkver.models import OnnxEncoder
from spkver.scoring.backend_folder import Backend
from spkver.scoring.metrics.summary import read_metrics

# Of what a run was made: nothing that tells of the machine, its folders or its commands.
KEPT_OF_RUN = ("threshold", "held_out_eer", "epochs_averaged", "spkver", "torch")
# Of the systems that metrics.json knows, those that the weights alone can repeat.
_OF_WEIGHTS = ("untrained", "cosine", "onnx", "onnx_int8")

_EXAMPLE = '''"""Are two recordings of one speaker? With spkver installed: python example.py a.wav b.wav"""

import sys
from pathlib import Path

import spkver

voice = spkver.load(Path(__file__).parent)
print("cosine", voice.embed(sys.argv[1]) @ voice.embed(sys.argv[2]))
'''
_DECISION = "print(voice.verify(sys.argv[1], sys.argv[2]))\n"


def export_huggingface(folder: Path, metrics: Path, out: Path, licence: str = "apache-2.0") -> str:
    """Write weights, configuration, model card, licence and example code; returns a line that says so.

    Args:
        folder: a model folder.
        metrics: the ``metrics.json`` of its experiment; the card says that nothing was measured where there is none.
        out: made where missing; other files in it are left alone.
        licence: of the weights, an identifier that Hugging Face knows; another than that of spkver comes without text.

    Raises:
        SpkverError: no model in the folder, or a file cannot be read.
    """
    model = load_model(folder)
    if isinstance(model.encoder, OnnxEncoder):
        raise SpkverError(f"{folder}: is another toolkit's network; upload its own file with its own model card")
    measured = read_metrics(metrics) if metrics.is_file() else {}
    out.mkdir(parents=True, exist_ok=True)
    with open(folder / "model.safetensors", "rb") as weights, atomic_write(out / "model.safetensors", "wb") as file:
        shutil.copyfileobj(weights, file)
    kept = {name: model.run[name] for name in KEPT_OF_RUN if name in model.run}
    texts = {
        "example.py": _EXAMPLE + (_DECISION if _has_threshold(model) else ""),
        "README.md": _card(model, measured, metrics.parent.name, licence),
        "config.yaml": dump_config(model.config, kept),
    }
    if licence == "apache-2.0":
        texts["LICENSE"] = _licence_text()
    for name, text in texts.items():
        with atomic_write(out / name) as file:
            file.write(text)
    return f"{', '.join(sorted([*texts, 'model.safetensors']))} -> {out}"


def _card(model: Model, measured: dict, name: str, licence: str) -> str:
    """The model card: YAML that Hugging Face reads, and what a reader wants to know."""
    rows = [
        (trials, system, record)
        for trials, systems in measured.items()
        for system, record in systems.items()
        if system in _OF_WEIGHTS and {"eer", "targets", "nontargets"} <= set(record)
    ]
    front: dict[str, Any] = {
        "license": licence,
        "library_name": "spkver",
        "pipeline_tag": "audio-classification",
        "tags": ["speaker-verification", "speaker-recognition", "speaker-embedding", "spkver"],
    }
    results = [_result(trials, record) for trials, system, record in rows if system == "cosine"]
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    data, embed_dim = model.config.data, Extractor(model.encoder, model.config).embed_dim
    n_weights = sum(weight.numel() for weight in model.encoder.parameters())
    lines = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n",
        f"# {name}: speaker embeddings\n",
        f"`{_kind(model)}`, {n_weights / 1e6:.2f} million weights: a recording of speech, brought to "
        f"{data.sample_rate} Hz and one channel, becomes {embed_dim} numbers of unit length.",
        "The cosine of two of them says how alike two voices are.\n",
        "```python\nimport spkver\n",
        'voice = spkver.load("this/folder")',
        f'voice.embed("anna1.wav")  # ({embed_dim},) float32',
    ]
    if _has_threshold(model):
        lines.append('voice.verify("anna1.wav", "bob.wav")  # Verification(score=..., same_speaker=..., threshold=...)')
    lines.append("```\n")
    lines.append("## Measured\n")
    lines += _table(rows) if rows else ["Nothing was measured with this model yet."]
    lines.append("")
    if _has_threshold(model):
        eer = f" ({model.run['held_out_eer']:.2%})" if model.run.get("held_out_eer") is not None else ""
        lines.append(
            f"The threshold that the model decides by, {model.run['threshold']:.3f}, is the one at equal error{eer} "
            "among training speakers that were kept aside. Set your own for other recordings and other costs.\n"
        )
    lines.append(
        f"Written by spkver {__version__}. Fingerprint of weights and settings: `{Backend(model.folder).digest}`\n"
    )
    return "\n".join(lines)


def _table(rows: list[tuple[str, str, dict]]) -> list[str]:
    lines = [
        "| trials | system | EER | 95 % | minDCF (0.01) | minDCF (0.05) | targets | nontargets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for trials, system, record in rows:
        low, high = record.get("eer_interval", (None, None))
        interval = "" if low is None else f"{low:.2%} to {high:.2%}"
        costs = " | ".join(f"{record[key]:.3f}" if key in record else "" for key in ("min_dcf_0.01", "min_dcf_0.05"))
        counts = f"{record['targets']} | {record['nontargets']}"
        lines.append(f"| {trials} | {system} | {record['eer']:.2%} | {interval} | {costs} | {counts} |")
    return lines


def _result(trials: str, record: dict) -> dict:
    """A row of the model index; Hugging Face wants percent."""
    return {
        "task": {"type": "audio-classification", "name": "speaker verification"},
        "dataset": {"type": trials, "name": trials},
        "metrics": [{"type": "eer", "name": "EER (%)", "value": round(100 * record["eer"], 3)}],
    }


def _kind(model: Model) -> str:
    name = model.config.model.name
    return "SpeechEncoderV3" if name == "speech_encoder_v3" else name


def _has_threshold(model: Model) -> bool:
    return model.run.get("threshold") is not None


def _licence_text() -> str:
    """The licence of spkver, as its installation has it."""
    found = next((path for path in files("spkver") or [] if path.name == "LICENSE"), None)
    if found is None:
        raise SpkverError("LICENSE: this installation of spkver has none; install spkver again")
    return found.read_text(encoding="utf-8")
