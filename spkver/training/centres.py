"""Where the classes of speakers that a model does not know begin: at the mean of their embeddings."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spkver.config import Config
from spkver.data.directory import DataDirectory, Utterance
from spkver.data.variants import View
from spkver.embedding.extractor import Extractor
from spkver.models.speech_encoder_v3 import SpeechEncoderV3


class SpeakerClass(NamedTuple):
    """A class of a head: a speaker's voice, as recorded (1, 1) or changed."""

    speaker: str
    speed_factor: float
    formant_factor: float


def class_centres(
    encoder: SpeechEncoderV3, directory: DataDirectory, classes: Sequence[SpeakerClass], config: Config
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
        extractor = Extractor(encoder, config, [View(*variant)])
        title = "centres (speed {:g}, formants {:g})".format(*variant)
        embeddings = torch.from_numpy(extractor.embed_utterances(utterances, directory.durations, title))
        centres[places] = torch.stack([part.mean(0) for part in embeddings.split(counts)])
    return F.normalize(centres)


def spread_rows(centres: Tensor, n_rows: int, spread: float, generator: torch.Generator) -> Tensor:
    """Rows of unit length around centres of unit length: ``(n, embed_dim)`` -> ``(n, n_rows, embed_dim)``.

    The first row is the centre, the others lie ``arctan(spread)`` from it, each in a direction of its own: equal
    rows would never part, as all of them would always be nearest alike.
    """
    noise = torch.randn(len(centres), n_rows, centres.shape[1], generator=generator)
    along = (noise * centres[:, None]).sum(2, keepdim=True) * centres[:, None]
    rows = centres[:, None] + spread * F.normalize(noise - along, dim=2)
    rows = F.normalize(rows, dim=2)
    rows[:, 0] = centres
    return rows


def _choose(directory: DataDirectory, n: int, seed: int) -> dict[str, list[Utterance]]:
    """At most ``n`` utterances of each speaker."""
    of_speaker = {speaker: [] for speaker in directory.speakers}
    for utterance in directory.utterances:
        of_speaker[utterance.speaker].append(utterance)
    rng = np.random.default_rng([seed, 0xCE7])
    return {
        speaker: [all_[index] for index in sorted(rng.permutation(len(all_))[:n])]
        for speaker, all_ in of_speaker.items()
    }
