"""What a model is made of, read from the real module: its parts in the order of the data.

Nothing here knows the encoder: shapes are what a forward pass of one utterance gives, counts are those
of the parameters that are there.
"""

import inspect
import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from spkver.config import Config
from spkver.config.schema import Waveform
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import ONNX
from spkver.experiment.model_folder import load_model
from spkver.models import ImportedEncoder, OnnxEncoder
from spkver.pictures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, Picture, picture

# Frames of the utterance that is sent through; shapes show this number as it changes.
N_FRAMES = 200


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Args:
        name: within the model, such as ``layers.0.qkv``.
        kind: its class.
        n_parameters: of it and all within it.
        out_shape: of what it gives for one utterance of ``N_FRAMES`` frames; empty if that is no tensor.
        times: so many equal parts stand one after the other.
    """

    name: str
    kind: str
    n_parameters: int
    out_shape: tuple[int, ...]
    times: int = 1

    @property
    def group(self) -> str:
        """The direct child of the model that it belongs to."""
        return self.name.split(".")[0]


def parts_of(model: nn.Module, **inputs: Tensor) -> list[Part]:
    """The parts of a model in the order in which they are called, equal neighbours as one.

    A direct child that holds parts of several kinds is opened (a front end into its convolutions);
    the items of a ``ModuleList`` are parts of their own.

    Args:
        inputs: of one utterance, by their names.
    """
    watched = _watched(model)
    called: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str, module: nn.Module):
        def hook(_, __, output):
            output = output[0] if isinstance(output, tuple) else output
            called.append((name, module, tuple(output.shape) if isinstance(output, Tensor) else ()))

        return module.register_forward_hook(hook)

    hooks = [note(name, module) for name, module in watched.items()]
    was_training = model.training
    try:
        with torch.inference_mode():
            model.eval()(**inputs)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    parts = [
        Part(name, type(module).__name__, sum(p.numel() for p in module.parameters()), shape)
        for name, module, shape in called
    ]
    # What neither learns nor keeps anything (a dropout) changes no shape.
    kept = [any(True for _ in module.state_dict()) for _, module, _ in called]
    return _joined([part for part, keep in zip(parts, kept) if keep])


def model_parts(folder: Path) -> tuple[list[Part], int, str]:
    """The parts of a stored model, the number of all its parameters, and its class.

    Raises:
        SpkverError: the folder holds no model.
    """
    model = load_model(folder)
    encoder, features = model.encoder, _example(model.config)
    if isinstance(encoder, OnnxEncoder):
        total = _count_weights(folder / ONNX)
        return [Part("network", "ONNX", total, tuple(encoder.run(features).shape))], total, "an ONNX file"
    total = sum(parameter.numel() for parameter in encoder.parameters())
    if isinstance(encoder, ImportedEncoder):
        argument = next(iter(inspect.signature(encoder.network.forward).parameters))
        return parts_of(encoder.network, **{argument: features}), total, type(encoder.network).__name__
    return parts_of(encoder, features=features, average=features[:, 0]), total, type(encoder).__name__


def _example(config: Config) -> Tensor:
    """Silence as an encoder is given it, about ``N_FRAMES`` frames."""
    if isinstance(config.features, Waveform):
        return torch.zeros(1, N_FRAMES * config.data.sample_rate // 100)
    return torch.zeros(1, N_FRAMES, config.features.n_mels)


def _count_weights(file: Path) -> int:
    try:
        import onnx
    except ImportError as error:
        raise SpkverError(f"onnx: cannot import onnx ({error}); pip install 'spkver[onnx]'") from None
    return sum(math.prod(weight.dims) for weight in onnx.load(file).graph.initializer)


def architecture(folder: str | Path) -> Picture:
    """The parts of a stored model from top to bottom, with shapes, counts and shares of the parameters."""
    folder = Path(folder)
    parts, total, kind = model_parts(folder)
    config = load_model(folder).config
    height = 0.42
    figure, axes = picture(1, 1, (9.0, height * (len(parts) + 2) + 0.6))
    axis = axes[0, 0]
    groups = list(dict.fromkeys(part.group for part in parts))
    colours = dict(zip(groups, [SKY, ORANGE, GREEN, PURPLE, BLUE, GREY] * len(groups)))
    rows: list[tuple[str, str, int | None, tuple[int, ...], Part | None, str]]
    name = "samples" if isinstance(config.features, Waveform) else "filterbanks"
    rows = [(name, "input", None, tuple(_example(config).shape), None, "white")]
    rows += [
        (part.name, part.kind, part.n_parameters * part.times, part.out_shape, part, colours[part.group])
        for part in parts
    ]
    for row, (name, what, count, shape, part, colour) in enumerate(rows):
        y = -row
        axis.add_patch(
            FancyBboxPatch(
                (0, y - 0.38),
                5.2,
                0.76,
                boxstyle="round,pad=0,rounding_size=0.15",
                facecolor=colour,
                alpha=0.35,
                edgecolor=GREY,
            )
        )
        times = f"  x {part.times}" if part is not None and part.times > 1 else ""
        axis.text(0.15, y, f"{name}{times}", va="center", fontsize=9)
        axis.text(5.05, y, what, va="center", ha="right", fontsize=8, color="#333333")
        axis.text(5.45, y, _shape(shape), va="center", fontsize=9, family="monospace")
        if count is not None:
            axis.text(9.05, y, f"{count:,}", va="center", ha="right", fontsize=9)
            axis.barh(y, 1.6 * count / total, left=9.2, height=0.5, color=colour)
            axis.text(9.25 + 1.6 * count / total, y, f"{count / total:.0%}", va="center", fontsize=8, color=GREY)
        if row:
            axis.annotate("", (2.6, y + 0.38), (2.6, y + 0.62), arrowprops={"arrowstyle": "-|>", "color": GREY})
    axis.text(5.45, 0.85, "gives (utterances, ...)", fontsize=8, color=GREY)
    axis.text(9.05, 0.85, "parameters", fontsize=8, color=GREY, ha="right")
    axis.set(xlim=(-0.1, 11.4), ylim=(-len(rows) + 0.4, 1.2))
    axis.set_axis_off()
    axis.set_title(f"{kind}: {total:,} parameters; an utterance of {N_FRAMES} frames from top to bottom")
    return figure


def _watched(model: nn.Module) -> dict[str, nn.Module]:
    """The parts to be shown: direct children, those of a composed child, the items of lists."""
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            found |= {f"{name}.{index}": item for index, item in enumerate(child)}
        elif any(isinstance(inner, nn.ModuleList) for inner in child.children()):
            found |= {f"{name}.{inner}": module for inner, module in _watched(child).items()}
        else:
            found[name] = child
    return found


def _joined(parts: list[Part]) -> list[Part]:
    """Equal parts in a row as one with ``times``; their names become one, such as ``layers.0-3``."""
    joined: list[Part] = []
    first = ""
    for part in parts:
        stem, _, index = part.name.rpartition(".")
        same = bool(joined) and replace(joined[-1], name=part.name, times=part.times) == part
        if same and stem and stem == first.rpartition(".")[0] and index.isdigit():
            joined[-1] = Part(f"{first}-{index}", part.kind, part.n_parameters, part.out_shape, joined[-1].times + 1)
            continue
        first = part.name
        joined.append(part)
    return joined


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(str(size) for size in shape)})" if shape else ""
