"""Enrolment from several utterances: what a trial list enrols is then the name of a model.

A model list has Kaldi's ``spk2utt`` form, ``MODEL utt utt ...`` a line. Two ways to score a model: the mean of its
utterances' embeddings, each at unit length first, as one embedding; or the mean of the scores that each of them has.

For the cosine the second is the first without bringing the mean to unit length again. With normalisation
or PLDA they differ.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.data.lookup import Rows, check_index
from spkver.data.text_tables import table_rows
from spkver.errors import SpkverError
from spkver.files import atomic_write
from spkver.scoring.backends.cosine import unit_rows


@dataclass(frozen=True, eq=False)
class Models:
    """Enrolled models as rows of embeddings.

    Attributes:
        names: M model names.
        rows: (n_rows,) int64, the rows of the first model's utterances, then of the second's, and so on.
        starts: (M + 1,) int64, where each model's rows begin; the last is n_rows.
    """

    names: list[str]
    rows: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(M,) utterances of each model."""
        return np.diff(self.starts)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of each model's values; (N, ...) -> (M, ...) float64."""
        return np.add.reduceat(np.asarray(values)[self.rows].astype(np.float64), self.starts[:-1], axis=0)


def read_models(path: str | os.PathLike[str], rows: Rows) -> Models:
    """Read a model list and look its utterances up.

    Args:
        path: ``MODEL utt utt ...`` a line.
        rows: of the embeddings.

    Raises:
        SpkverError: naming file and line: a model without utterances or there twice, an utterance twice within a
            model or without an embedding; or an empty or unreadable file.
    """
    names, lines, found, counts = [], [], [], []
    for line, (name, *utts) in table_rows(path):
        if not utts:
            raise SpkverError(f"{path}:{line}: model '{name}' has no utterance; expected 'MODEL utt utt ...'")
        if len(set(utts)) < len(utts):
            twice = Counter(utts).most_common(1)[0][0]
            raise SpkverError(f"{path}:{line}: model '{name}' has '{twice}' twice")
        names.append(name)
        lines.append(line)
        found += utts
        counts.append(len(utts))
    first: dict[str, int] = {}
    for line, name in zip(lines, names):
        if first.setdefault(name, line) != line:
            raise SpkverError(f"{path}:{line}: model '{name}' is there twice, first on line {first[name]}")
    # One look-up for all models: each one goes through the whole list of ids.
    places, starts = rows.find_names(found), np.cumsum([0, *counts])
    unknown = np.flatnonzero(places < 0)
    if unknown.size:
        model = int(np.searchsorted(starts, unknown[0], side="right")) - 1
        who = f"utterance '{found[unknown[0]]}' of model '{names[model]}'"
        raise SpkverError(f"{path}:{lines[model]}: {who} is in no line of {rows.source}")
    return Models(names, places, starts)


def keep_models(scores: Path, models_file: str | os.PathLike[str] | None) -> None:
    """Keep a model list beside the scores of its models, or note that these scores are of none."""
    kept = _kept(scores)
    if models_file is None:
        kept.unlink(missing_ok=True)
        return
    with atomic_write(kept) as file:
        file.writelines(" ".join(columns) + "\n" for _, columns in table_rows(models_file))


def kept_models(scores: Path) -> dict[str, list[str]]:
    """The utterances of each model that a score file is of; none where it is of utterances.

    Raises:
        SpkverError: the list that was kept cannot be read.
    """
    kept = _kept(scores)
    return {name: utts for _, (name, *utts) in table_rows(kept)} if kept.exists() else {}


def _kept(scores: Path) -> Path:
    return scores.parent / "enrolled" / scores.name


def enrolment_means(embeddings: np.ndarray, models: Models) -> np.ndarray:
    """One embedding for each model: the mean of its utterances' at unit length, brought to unit length itself.

    Args:
        embeddings: (N, D).
        models: whose rows lie in them.

    Returns:
        (M, D) float32.

    Raises:
        ValueError: a row is NaN, infinite or zero, or the utterances of a model cancel each other out.
    """
    sums = models.sums(unit_rows(embeddings))
    lengths = np.linalg.norm(sums, axis=1)
    # Sums of float32 unit rows that cancel leave rounding, not zero.
    cancelled = np.flatnonzero(lengths <= 1e-6 * models.counts)
    if cancelled.size:
        raise ValueError(f"the utterances of model '{models.names[cancelled[0]]}' cancel each other out")
    return (sums / lengths[:, None]).astype(np.float32)


def expand_trials(
    model_index: np.ndarray, test_index: np.ndarray, models: Models
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trials of models, (n_trials,) integers on either side, as trials of their utterances.

    Returns:
        ``(enroll_index, test_index, starts)``: rows of both sides, a trial for each utterance of each model, and
        (n_trials,) where the trials of each model begin, for `score_means`.

    Raises:
        ValueError: there is no model of such a number.
    """
    model_index = check_index("model_index", model_index, len(models.names))
    counts = models.counts[model_index]
    ends = np.cumsum(counts)
    starts = ends - counts
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(starts, counts)
    return models.rows[np.repeat(models.starts[model_index], counts) + within], np.repeat(test_index, counts), starts


def score_means(scores: np.ndarray, starts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The mean score of each stretch of scores that begins at ``starts``; (n_trials,) float64.

    Raises:
        ValueError: a stretch is empty, or the first does not begin at 0.
    """
    counts = np.diff(np.append(starts, len(scores)))
    if len(counts) and (starts[0] != 0 or counts.min() < 1):
        raise ValueError(f"starts must begin with 0 and increase to less than {len(scores)}")
    return np.add.reduceat(np.asarray(scores, np.float64), starts) / counts
