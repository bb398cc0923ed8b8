"""Starting from a trained model (fine-tuning)."""

from pathlib import Path

from torch import nn

from spkver.config import Config
from spkver.errors import SpkverError
from spkver.heads import Head
from spkver.model_folder import fit, load_tensors


def start_from(folder: Path, encoder: nn.Module, head: Head, speakers: list[str], config: Config) -> None:
    """Load encoder and head of a model folder into new ones.

    The model's head may have more classes than the new one: its first classes are the speakers as
    recorded, the others their other speeds, so a head without speeds is the first part of it.

    Raises:
        SpkverError: the folder has other speakers, or a weight does not fit, each by name.
    """
    folder = Path(folder)
    fit(encoder, load_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    _check_speakers(folder / "speakers", speakers)
    weights = load_tensors(folder / "head.safetensors")
    for name, wanted in head.state_dict().items():
        if name in weights and len(weights[name]) > len(wanted):
            weights[name] = weights[name][: len(wanted)]
    fit(head, weights, folder / "head.safetensors")


def _check_speakers(path: Path, speakers: list[str]) -> None:
    try:
        before = path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror}); --init needs a folder that train made") from None
    if before == speakers:
        return
    new = sorted(set(speakers) - set(before))
    gone = sorted(set(before) - set(speakers))
    which = f"'{new[0]}' is not among its speakers" if new else f"'{gone[0]}' is missing now"
    raise SpkverError(
        f"{path}: the model was trained on {len(before)} speakers, this run has {len(speakers)} ({which}); "
        "use the same data directory, seed and data.held_out_speakers"
    )
