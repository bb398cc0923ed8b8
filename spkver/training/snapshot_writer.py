"""Taking snapshots while a run trains; see ``spkver.experiment.snapshots`` for what is in them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from spkver.data.directory import DataDirectory, Utterance
from spkver.embedding.extractor import Embeds
from spkver.experiment.snapshots import GRADIENT_EDGES, Snapshot, Subset, write_snapshot, write_subset
from spkver.heads import Head


class Snapshots:
    """Embeds a fixed, seeded subset of training and held-out speakers whenever asked.

    Args:
        folder: ``exp/NAME/snapshots``.
        training: the speakers trained on, in the order of the head's classes.
        held_out: the others, or None.
        n_speakers: at most so many of each kind.
        n_utterances: at most so many of each speaker.
        seed: of the choice.
    """

    def __init__(
        self,
        folder: Path,
        training: DataDirectory,
        held_out: DataDirectory | None,
        n_speakers: int,
        n_utterances: int,
        seed: int,
    ):
        self.folder = folder
        rng = np.random.default_rng([seed, 0x5A9])
        trained = _choose(training, n_speakers, n_utterances, rng)
        unseen = [] if held_out is None else _choose(held_out, n_speakers, n_utterances, rng)
        self.utterances = trained + unseen
        self.n_trained = len(trained)
        self.subset = Subset(
            np.array([utterance.id for utterance in self.utterances]),
            np.array([utterance.speaker for utterance in self.utterances]),
            np.arange(len(self.utterances)) >= len(trained),
        )
        place = {speaker: index for index, speaker in enumerate(training.speakers)}
        self.classes = torch.tensor([place[speaker] for speaker in self.subset.train_speakers])

    def begin(self) -> None:
        """Say whose embeddings the snapshots hold."""
        write_subset(self.folder, self.subset)

    def write(self, snapshot: Snapshot) -> None:
        """Write what `take` gave."""
        write_snapshot(self.folder, snapshot)

    def take(self, epoch: int, extractor: Embeds, head: Head, gradients: torch.Tensor | None) -> Snapshot:
        """The snapshot after an epoch (counted from 1; 0: before training).

        Args:
            head: of ``classes`` only.
            gradients: ``gradient_histogram`` before and after clipping, (2, n_bins), or None.
        """
        embeddings = extractor.embed_utterances(self.utterances, "snapshot")
        device = head.weight.device
        with torch.inference_mode():
            logits = head.plain_logits(torch.from_numpy(embeddings[: self.n_trained]).to(device))
            predicted = np.full(len(embeddings), -1)
            predicted[: self.n_trained] = logits.argmax(1).cpu().numpy()
            centres = head.weight.view(head.out_features, head.rows_per_class, -1).float().cpu().numpy()
        before, after = np.zeros((2, 0), int) if gradients is None else gradients.numpy()
        return Snapshot(epoch, embeddings, predicted, centres, before, after)


def gradient_histogram(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Counts of log10 |gradient| between ``GRADIENT_EDGES``; exact zeros are not counted."""
    counts = torch.zeros(len(GRADIENT_EDGES) - 1)
    low, high = float(GRADIENT_EDGES[0]), float(GRADIENT_EDGES[-1])
    for parameter in parameters:
        if parameter.grad is None:
            continue
        size = parameter.grad.detach().float().abs().flatten()
        powers = size[size > 0].log10().clamp(low, high).cpu()
        counts += torch.histc(powers, bins=len(counts), min=low, max=high)
    return counts.long()


def _choose(directory: DataDirectory, n_speakers: int, n_utterances: int, rng: np.random.Generator) -> list[Utterance]:
    """A seeded choice, speaker by speaker in the directory's order."""
    speakers = directory.speakers
    n = min(n_speakers, len(speakers))
    places = sorted(rng.choice(len(speakers), n, replace=False))
    of_speaker = directory.utterances.places_by_speaker()
    picked: list[Utterance] = []
    for own in (of_speaker[place] for place in places):
        n = min(n_utterances, len(own))
        picked += directory.utterances.take(own[np.sort(rng.choice(len(own), n, replace=False))])
    return picked
