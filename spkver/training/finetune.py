"""Starting from a trained model: fine-tuning, also with other speakers.

The encoder is taken whole. A class of a head is a speaker at a speed and a formant factor: classes that the model
has keep their rows to the bit, the others begin at the mean of their embeddings. So the same speakers without other
speeds are a cut head, other speakers a new one, and more speakers an old one with new rows between.

Layers may be frozen, or learn at a rate of their own. Patterns are a shell's (``front_end.*``, ``layers.[01].*``) on
the names that weights and statistics have in ``model.safetensors``. A module of which everything is frozen works in
training as it does in use, without dropout and layer drop, and with the BatchNorm statistics that it has; those stay
too, also in `spkver average`.
"""

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spkver.config import Config
from spkver.data.directory import DataDirectory, Utterance
from spkver.data.variants import Variant, variants_of
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import fit, load_tensors, read_config, read_speakers
from spkver.heads import Head
from spkver.models import Encoder

# New classes whose rows are spread at once.
_SPREAD_AT_ONCE = 1 << 14


class SpeakerClass(NamedTuple):
    """A class of a head: a speaker's voice, as recorded (1, 1) or changed."""

    speaker: str
    speed_factor: float
    formant_factor: float


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


def start_from(folder: Path, encoder: Encoder, head: Head, directory: DataDirectory, config: Config) -> Start:
    """Load a model folder into a new encoder and a new head.

    Args:
        folder: with the weights, configuration and speakers of the model.
        encoder, head: changed in place; the head may be a slice.
        directory: the utterances trained on; the head's classes are its speakers, variant by variant.
        config: of the new run; ``init.head`` "rebuild" keeps no row.

    Raises:
        SpkverError: a weight does not fit, by name and with both shapes, or a file cannot be read.
    """
    folder = Path(folder)
    fit(encoder, load_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    before = read_speakers(folder) or []
    classes = _classes(directory.speakers, config)
    known = {} if config.init.head == "rebuild" else _places(_classes(before, read_config(folder)))
    kept = [place for place, each in enumerate(classes) if each in known]
    new = [place for place, each in enumerate(classes) if each not in known]

    held = [place for place in kept if place in head.classes]
    if held:
        _keep_rows(head, held, [known[classes[place]] for place in held], len(known), folder / "head.safetensors")
    if new:
        _start_at_centres(encoder, head, directory, classes, new, config)
    speakers = {each.speaker for each in known}
    n_kept = len(speakers & set(directory.speakers))
    return Start(n_kept, len(directory.speakers) - n_kept, len(before) - n_kept, len(classes), len(kept))


def _start_at_centres(
    encoder: Encoder,
    head: Head,
    directory: DataDirectory,
    classes: list[SpeakerClass],
    new: list[int],
    config: Config,
) -> None:
    """Let those of the ``new`` classes that the head holds begin at the means of their embeddings."""
    held = [place for place in new if place in head.classes]
    centres = class_centres(encoder, directory, [classes[place] for place in held], config)
    generator = torch.Generator().manual_seed(config.seed)
    weight = _of_classes(head.weight.detach(), len(head.classes))
    for first in range(0, len(new), _SPREAD_AT_ONCE):
        # Drawn for all, so that a class has the same whatever else is held.
        block = new[first : first + _SPREAD_AT_ONCE]
        noise = torch.randn(len(block), head.rows_per_class, centres.shape[1], generator=generator)
        mine = [index for index, place in enumerate(block) if place in head.classes]
        rows = spread_rows(centres[: len(mine)], noise[mine], config.init.subcenter_spread)
        centres = centres[len(mine) :]
        to = [block[index] - head.classes.start for index in mine]
        weight[to] = (head.row_length * rows).to(weight.device)


def _classes(speakers: list[str], config: Config) -> list[SpeakerClass]:
    """The classes of a head in the order of its rows: variant by variant."""
    return [SpeakerClass(speaker, *variant) for variant, speaker in product(variants_of(config.augment), speakers)]


def _places(classes: list[SpeakerClass]) -> dict[SpeakerClass, int]:
    return {each: place for place, each in enumerate(classes)}


def _keep_rows(head: Head, to: list[int], places: list[int], n_before: int, source: Path) -> None:
    """Copy the rows of classes ``places`` of the head in ``source`` to classes ``to``, which the head holds."""
    weights = load_tensors(source)
    wanted = head.state_dict()
    hint = f"the model's head has {n_before} classes; init.head=rebuild starts all of them at means instead"
    for name, tensor in wanted.items():
        shape = (head.per_class(tensor) * n_before, *tensor.shape[1:])
        if name not in weights:
            raise SpkverError(f"{source}: has no '{name}', wanted is {shape}; {hint}")
        if weights[name].shape != shape:
            raise SpkverError(f"{source}: '{name}' has shape {tuple(weights[name].shape)}, wanted is {shape}; {hint}")
    for name in weights:
        if name not in wanted:
            shape = tuple(weights[name].shape)
            raise SpkverError(f"{source}: '{name}' with shape {shape} has no place in the configuration's head; {hint}")
        of_classes = _of_classes(weights[name], n_before)[places]
        held = [place - head.classes.start for place in to]
        _of_classes(wanted[name], len(head.classes))[held] = of_classes.to(wanted[name].device)


def _of_classes(tensor: Tensor, n_classes: int) -> Tensor:
    """A view of rows ``(n_classes * n, ..)`` as ``(n_classes, n, ..)``."""
    return tensor.view(n_classes, -1, *tensor.shape[1:])


def class_centres(
    encoder: Encoder, directory: DataDirectory, classes: Sequence[SpeakerClass], config: Config
) -> Tensor:
    """Mean embeddings ``(len(classes), embed_dim)``, each of unit length.

    A class's utterances are changed by its speed and its formant factor, as in training, but whole and without
    noise; a seeded ``init.utterances`` of each speaker, or all that there are.

    Raises:
        SpkverError: a file cannot be read, with its path.
    """
    chosen = _choose(directory, config.init.utterances, config.seed)
    centres = torch.zeros(len(classes), encoder.embed_dim)
    for variant in dict.fromkeys(each[1:] for each in classes):
        places = [place for place, each in enumerate(classes) if each[1:] == variant]
        counts = [len(chosen[classes[place].speaker]) for place in places]
        utterances = [utterance for place in places for utterance in chosen[classes[place].speaker]]
        extractor = Extractor(encoder, config, [Variant(*variant)])
        title = "centres (speed {:g}, formants {:g})".format(*variant)
        embeddings = torch.from_numpy(extractor.embed_utterances(utterances, title))
        centres[places] = torch.stack([part.mean(0) for part in embeddings.split(counts)])
    return F.normalize(centres)


def spread_rows(centres: Tensor, noise: Tensor, spread: float) -> Tensor:
    """Rows of unit length around centres of unit length: ``(n, embed_dim)`` -> ``(n, n_rows, embed_dim)``.

    The first row is the centre, the others lie ``arctan(spread)`` from it, each in a direction of its own, which the
    ``noise``, of the result's shape, gives: equal rows would never part, as all of them would always be nearest alike.
    """
    along = (noise * centres[:, None]).sum(2, keepdim=True) * centres[:, None]
    rows = centres[:, None] + spread * F.normalize(noise - along, dim=2)
    rows = F.normalize(rows, dim=2)
    rows[:, 0] = centres
    return rows


def _choose(directory: DataDirectory, n: int, seed: int) -> dict[str, list[Utterance]]:
    """At most ``n`` utterances of each speaker."""
    rng = np.random.default_rng([seed, 0xCE7])
    return {
        speaker: list(directory.utterances.take(places[np.sort(rng.permutation(len(places))[:n])]))
        for speaker, places in zip(directory.speakers, directory.utterances.places_by_speaker())
    }


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
    frozen_modules, names_of_still = [], set()
    for prefix, module in encoder.named_modules():
        names = module.state_dict(prefix=f"{prefix}." if prefix else "").keys()
        if names and names <= frozen:
            frozen_modules.append(module)
            names_of_still |= names
    parameters = dict(encoder.named_parameters())
    for name in sorted(frozen - names_of_still - parameters.keys()):
        module = name.rpartition(".")[0]
        raise SpkverError(f"optimizer.freeze: '{name}' moves while '{module}' learns; freeze '{module}.*'")
    for name in frozen & parameters.keys():
        parameters[name].requires_grad_(False)
    return frozen_modules


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
