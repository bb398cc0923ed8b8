"""Starting from a trained model: fine-tuning, also with other speakers.

The encoder is taken whole. A class of a head is a speaker at a speed and a formant factor: classes that the model
has keep their rows to the bit, the others begin at the mean of their embeddings. So the same speakers without other
speeds are a cut head, other speakers a new one, and more speakers an old one with new rows between.
"""

from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from spkver.config import Config
from spkver.data.directory import DataDirectory
from spkver.data.variants import voices_of
from spkver.errors import SpkverError
from spkver.experiment.model_folder import fit, load_tensors, read_config, read_speakers
from spkver.heads import Head
from spkver.models.speech_encoder_v3 import SpeechEncoderV3
from spkver.training.centres import SpeakerClass, class_centres, spread_rows


class Start(NamedTuple):
    """What became of the model's head: numbers of speakers, and of classes of the new head."""

    kept: int
    new: int
    dropped: int
    classes: int
    classes_kept: int

    def __str__(self) -> str:
        line = f"kept {self.kept}, new {self.new}, dropped {self.dropped} speakers"
        means = self.classes - self.classes_kept
        return f"{line}; {self.classes_kept} of {self.classes} classes keep their rows" + (
            f", {means} start at the mean of their embeddings" if means else ""
        )


def start_from(folder: Path, encoder: SpeechEncoderV3, head: Head, directory: DataDirectory, config: Config) -> Start:
    """Load a model folder into a new encoder and a new head.

    Args:
        folder: with the weights, configuration and speakers of the model.
        encoder, head: changed in place.
        directory: the utterances trained on; the head's classes are its speakers, variant by variant.
        config: of the new run; ``init.head`` "rebuild" keeps no row.

    Raises:
        SpkverError: a weight does not fit, by name and with both shapes, or a file cannot be read.
    """
    folder = Path(folder)
    fit(encoder, load_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    before = read_speakers(folder)
    classes = _classes(directory.speakers, config)
    known = {} if config.init.head == "rebuild" else _places(_classes(before, read_config(folder)))
    kept = [place for place, each in enumerate(classes) if each in known]
    new = [place for place, each in enumerate(classes) if each not in known]

    # Of the fresh head: what its own initialisation takes as the length of a row.
    length = head.weight.detach().norm(dim=1).mean()
    if kept:
        _keep_rows(head, kept, [known[classes[place]] for place in kept], len(known), folder / "head.safetensors")
    if new:
        centres = class_centres(encoder, directory, [classes[place] for place in new], config)
        generator = torch.Generator().manual_seed(config.seed)
        rows = spread_rows(centres, head.rows_per_class, config.init.subcenter_spread, generator)
        _of_classes(head.weight.detach(), head.out_features)[new] = (length.cpu() * rows).to(head.weight.device)
    speakers = {each.speaker for each in known}
    n_kept = len(speakers & set(directory.speakers))
    return Start(n_kept, len(directory.speakers) - n_kept, len(before) - n_kept, len(classes), len(kept))


def _classes(speakers: list[str], config: Config) -> list[SpeakerClass]:
    """The classes of a head in the order of its rows: variant by variant."""
    return [SpeakerClass(speaker, *variant) for variant, speaker in product(voices_of(config.augment), speakers)]


def _places(classes: list[SpeakerClass]) -> dict[SpeakerClass, int]:
    return {each: place for place, each in enumerate(classes)}


def _keep_rows(head: Head, to: list[int], places: list[int], n_before: int, source: Path) -> None:
    """Copy the rows of classes ``places`` of the head in ``source`` to classes ``to``."""
    weights = load_tensors(source)
    wanted = head.state_dict()
    hint = f"the model's head has {n_before} classes; init.head=rebuild starts all of them at means instead"
    for name, tensor in wanted.items():
        shape = (len(tensor) // head.out_features * n_before, *tensor.shape[1:])
        if name not in weights:
            raise SpkverError(f"{source}: has no '{name}', wanted is {shape}; {hint}")
        if weights[name].shape != shape:
            raise SpkverError(f"{source}: '{name}' has shape {tuple(weights[name].shape)}, wanted is {shape}; {hint}")
    for name in weights:
        if name not in wanted:
            shape = tuple(weights[name].shape)
            raise SpkverError(f"{source}: '{name}' with shape {shape} has no place in the configuration's head; {hint}")
        of_classes = _of_classes(weights[name], n_before)[places]
        _of_classes(wanted[name], head.out_features)[to] = of_classes.to(wanted[name].device)


def _of_classes(tensor: Tensor, n_classes: int) -> Tensor:
    """A view of rows ``(n_classes * n, ..)`` as ``(n_classes, n, ..)``."""
    return tensor.view(n_classes, -1, *tensor.shape[1:])
