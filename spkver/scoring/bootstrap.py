"""Confidence intervals over speakers: would other speakers have given the same figures?

Trials are not independent, speakers are: with 125 speakers, 90,000 trials hold the evidence of 125 draws, and
an interval over trials is too narrow. So speakers are drawn with replacement, as many as there are, and a
trial counts as often as it would in a list made from the drawn speakers:

- a target trial of speaker a: count[a] times (the subsets bootstrap: R. M. Bolle, N. K. Ratha, S. Pankanti,
  "Error analysis of pattern recognition systems - the subsets bootstrap", Computer Vision and Image
  Understanding 93, 2004; N. Poh, A. Martin, S. Bengio, "Performance generalization in biometric
  authentication using joint user-specific and sample bootstraps", IEEE TPAMI 29, 2007);
- a nontarget trial of speakers a and b: count[a] * count[b] times. That is the product weight of A. B. Owen,
  "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007, with one draw for both sides, as
  enrolled and tested speakers are the same people (L. Davezies, X. D'Haultfoeuille, Y. Guyonvarch, "Empirical
  process results for exchangeable arrays", Annals of Statistics 49, 2021).
  Two copies of one speaker make no nontarget trial.

Notable: trials are sorted once; each resample is a pass of weighted sums, shared by all figures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from spkver.scoring.metrics import DetCurve, crossing, detection_cost, interpolated


def intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str],
    test_speakers: Sequence[str],
    p_targets: Sequence[float] = (0.01, 0.05),
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the EER and of minDCF (costs 1 and 1) at some priors, over resampled speakers.

    A resample that happens to hold no target or no nontarget trial (two or three speakers only) is drawn
    again. The result does not depend on the order of the trials.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        enroll_speakers: n_trials speaker ids.
        test_speakers: n_trials speaker ids.
        p_targets: the priors of minDCF.
        n: resamples.
        level: of confidence, between 0 and 1.
        seed: of the draw.

    Returns:
        ``{"eer": (low, high), "min_dcf_0.01": (low, high), ...}``, fractions.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points`; or a target trial of two speakers, a nontarget
            trial of one, or ``p_targets``, ``n`` or ``level`` out of range.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    curve = DetCurve(scores, labels)
    enroll, test, n_speakers = _speaker_indices(np.asarray(labels), enroll_speakers, test_speakers)
    of_target = enroll[curve.target_order]
    of_nontarget = enroll[curve.nontarget_order], test[curve.nontarget_order]
    rng = np.random.default_rng(seed)
    replicates = np.empty((n, 1 + len(p_targets)))
    for figures in tqdm(replicates, desc="resampling speakers", disable=None, leave=False):
        fpr, fnr = curve.rates(*_drawn_weights(rng, n_speakers, of_target, of_nontarget))
        figures[0] = interpolated(fpr, *crossing(fpr, fnr))
        figures[1:] = [detection_cost(fpr, fnr, p_target).min() for p_target in p_targets]
    ends = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    names = ["eer", *(min_dcf_key(p_target) for p_target in p_targets)]
    return {name: (float(low), float(high)) for name, low, high in zip(names, *ends)}


def min_dcf_key(p_target: float) -> str:
    """The name of minDCF at a prior in records: ``min_dcf_0.01``."""
    return f"min_dcf_{p_target:g}"


def _drawn_weights(
    rng: np.random.Generator,
    n_speakers: int,
    of_target: np.ndarray,
    of_nontarget: tuple[np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """How often each target and each nontarget trial counts when speakers are drawn with replacement."""
    while True:
        count = rng.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers))
        targets = count[of_target]
        nontargets = count[of_nontarget[0]] * count[of_nontarget[1]]
        if targets.any() and nontargets.any():
            return targets, nontargets


def _speaker_indices(
    labels: np.ndarray, enroll_speakers: Sequence[str], test_speakers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Speakers as numbers: (n_trials,) of enrolment, (n_trials,) of test, and how many speakers there are."""
    if not len(labels) == len(enroll_speakers) == len(test_speakers):
        raise ValueError(
            f"lengths differ: {len(labels)} labels, {len(enroll_speakers)} enroll_speakers, "
            f"{len(test_speakers)} test_speakers"
        )
    sides = np.concatenate([np.asarray(enroll_speakers, dtype=str), np.asarray(test_speakers, dtype=str)])
    names, index = np.unique(sides, return_inverse=True)
    enroll, test = np.split(index, 2)
    wrong = np.flatnonzero((enroll == test) != (labels == 1))
    if wrong.size:
        first = wrong[0]
        raise ValueError(
            f"trial at index {first} has label {labels[first]}, but its speakers are "
            f"'{names[enroll[first]]}' and '{names[test[first]]}'"
        )
    return enroll, test, len(names)
