"""The EER after each epoch: trials among training speakers that training never sees."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory, Utterance, dealt_by_gender
from spkver.data.trial_making import make_trials
from spkver.data.trials import map_trials
from spkver.embedding.extractor import Embeds
from spkver.errors import SpkverError
from spkver.experiment.model_folder import read_speakers
from spkver.scoring.backends.cosine import cosine_scores
from spkver.scoring.metrics import equal_error_rate


def split_speakers(
    directory: DataDirectory, n_held_out: int, seed: int, known: Collection[str] = ()
) -> tuple[list[str], list[str]]:
    """Training and held-out speakers, by the seed; sexes are held out in the shares they have.

    Only speakers with two utterances or more are held out, as one alone makes no target trial, and none
    of those ``known`` to the model that training starts from: their EER would be too good.

    Raises:
        SpkverError: fewer speakers than that.
    """
    n_utterances = np.bincount(directory.utterances.speaker_index, minlength=len(directory.speakers))
    counts = dict(zip(directory.speakers, n_utterances.tolist()))
    order = np.random.default_rng([seed, 0x5E1D]).permutation(len(directory.speakers))
    permuted, known = [directory.speakers[index] for index in order], set(known)
    candidates = [speaker for speaker in permuted if counts[speaker] > 1 and speaker not in known]
    if n_held_out and (n_held_out < 2 or len(candidates) < n_held_out or len(counts) < n_held_out + 2):
        unknown = " and new to the model of --init" if known else ""
        raise SpkverError(
            f"{directory.path}: data.held_out_speakers is {n_held_out} of {len(counts)} speakers, "
            f"{len(candidates)} of them with two utterances{unknown}; choose 0 or at least 2, and leave 2 to train on"
        )
    held_out = set(dealt_by_gender(candidates, directory.genders)[:n_held_out])
    return [s for s in directory.speakers if s not in held_out], [s for s in directory.speakers if s in held_out]


def split_as_begun(directory: DataDirectory, untrained: Path) -> tuple[list[str], list[str]]:
    """The same for a run that has begun, from the training speakers in its folder ``untrained``."""
    trained = read_speakers(untrained) or []
    others = set(directory.speakers) - set(trained)
    return trained, [speaker for speaker in directory.speakers if speaker in others]


@dataclass(frozen=True)
class HeldOut:
    """Utterances of held-out speakers and trials among them."""

    utterances: Sequence[Utterance]
    enroll: np.ndarray
    test: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, directory: DataDirectory, max_nontargets: int, seed: int) -> "HeldOut":
        """All target pairs and a seeded sample of nontarget pairs (of the same gender where known)."""
        utterances = directory.utterances
        ids = utterances.ids.to_pylist()
        trials = make_trials(
            ids,
            [utterances.speakers[index] for index in utterances.speaker_index],
            seed=seed,
            max_nontargets=max_nontargets,
            genders=directory.genders,
        )
        enroll, test = map_trials(trials, ids, directory.path / "wav.scp")
        return cls(utterances, enroll, test, trials.known_labels)

    def equal_error_rate(self, extractor: Embeds) -> tuple[float, float]:
        """EER (a fraction) and its threshold of cosine scores with the encoder as it is."""
        embeddings = extractor.embed_utterances(self.utterances, "held-out EER")
        scores = cosine_scores(embeddings, self.enroll, self.test)
        return equal_error_rate(scores, self.labels)
