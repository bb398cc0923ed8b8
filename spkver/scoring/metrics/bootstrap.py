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

`scipy.stats.bootstrap` draws trials, or pairs of them, and has no weights for what two speakers share. Here trials are
sorted once; each resample is a pass of weighted sums, shared by all figures and, where systems are compared
(`spkver.scoring.metrics.comparison`), by all systems.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm

from spkver.scoring.metrics import DetCurve
from spkver.scoring.metrics.cllr import bits
from spkver.scoring.metrics.polyline import checked, crossing, detection_cost, interpolated


def intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
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
        enroll_speakers: n_trials speaker ids, or (n_trials,) integers that number the speakers in any way;
            long lists are better served by integers.
        test_speakers: likewise.
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
    check_resampling(n, level)
    curve = DetCurve(scores, labels)
    replicates = resampled_figures([curve], labels, enroll_speakers, test_speakers, p_targets, n, seed)
    lows, highs = percentile_interval(replicates[:, 0], level)
    names = figure_names(p_targets)
    return {name: (float(low), float(high)) for name, low, high in zip(names, lows, highs)}


def cllr_interval(
    llrs: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of Cllr, over the resamples that `intervals` draws with the same seed.

    Source: as `spkver.scoring.metrics.cllr.cllr`; under weights, the mean cost of each class is a weighted mean.

    Args:
        llrs: (n_trials,) log-likelihood ratios, natural logarithm.
        labels: as `intervals`, like all that follow.

    Returns:
        ``(low, high)``, in bits.

    Raises:
        ValueError: as `intervals`.
    """
    check_resampling(n, level)
    llrs, is_target = checked(llrs, labels)
    order = np.flatnonzero(is_target), np.flatnonzero(~is_target)
    target_bits, nontarget_bits = bits(-llrs[order[0]]), bits(llrs[order[1]])
    resamples = _resampled_weights([order], labels, enroll_speakers, test_speakers, seed)
    replicates = np.empty(n)
    for i, [(targets, nontargets)] in zip(_progress(n), resamples):
        means = targets @ target_bits / targets.sum(), nontargets @ nontarget_bits / nontargets.sum()
        replicates[i] = sum(means) / 2
    low, high = percentile_interval(replicates, level)
    return float(low), float(high)


def min_dcf_key(p_target: float) -> str:
    """The name of minDCF at a prior in records: ``min_dcf_0.01``."""
    return f"min_dcf_{p_target:g}"


def figure_names(p_targets: Sequence[float]) -> list[str]:
    """The names, in records, of what `figures` gives: the EER, and minDCF at each prior."""
    return ["eer", *map(min_dcf_key, p_targets)]


def figures(fpr: np.ndarray, fnr: np.ndarray, p_targets: Sequence[float]) -> list[float]:
    """The EER, and minDCF (costs 1 and 1) at each prior, from the points of a DET curve."""
    eer = interpolated(fpr, *crossing(fpr, fnr))
    return [eer, *(float(detection_cost(fpr, fnr, p_target).min()) for p_target in p_targets)]


def resampled_figures(
    curves: Sequence[DetCurve],
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    p_targets: Sequence[float],
    n: int,
    seed: int,
) -> np.ndarray:
    """The `figures` of systems on one trial list, each resample being the same speakers for all of them.

    Returns:
        (n, n_curves, 1 + n_priors) float64.

    Raises:
        ValueError: as `intervals`.
    """
    orders = [(curve.target_order, curve.nontarget_order) for curve in curves]
    resamples = _resampled_weights(orders, labels, enroll_speakers, test_speakers, seed)
    replicates = np.empty((n, len(curves), 1 + len(p_targets)))
    for i, weights in zip(_progress(n), resamples):
        replicates[i] = [figures(*curve.rates(*own), p_targets) for curve, own in zip(curves, weights)]
    return replicates


def percentile_interval(replicates: np.ndarray, level: float) -> np.ndarray:
    """(2, ...) float64: the ends of the middle ``level`` of (n, ...) replicates."""
    return np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)


def check_resampling(n: int, level: float) -> None:
    """Refuse, with a ValueError, a number of resamples below 1 and a level that is not between 0 and 1."""
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")


def _progress(n: int) -> Iterable[int]:
    return tqdm(range(n), desc="resampling speakers", disable=None, leave=False)


def _resampled_weights(
    orders: Sequence[tuple[np.ndarray, np.ndarray]],
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    seed: int,
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """How often each target and each nontarget trial counts, resample after resample, without an end.

    Args:
        orders: of each system, the indices of the target trials and of the nontarget trials in its order.

    Yields:
        of each system, (n_targets,) and (n_nontargets,) int64 in its order.
    """
    enroll, test, n_speakers = _speaker_indices(np.asarray(labels), enroll_speakers, test_speakers)
    sides = [(enroll[targets], enroll[nontargets], test[nontargets]) for targets, nontargets in orders]
    rng = np.random.default_rng(seed)
    while True:
        count = rng.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers))
        weights = [(count[target], count[enroll] * count[test]) for target, enroll, test in sides]
        if all(of_class.any() for of_class in weights[0]):
            yield weights


def _speaker_indices(
    labels: np.ndarray, enroll_speakers: Sequence[str] | np.ndarray, test_speakers: Sequence[str] | np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Speakers as numbers: (n_trials,) of enrolment, (n_trials,) of test, and how many speakers there are."""
    if not len(labels) == len(enroll_speakers) == len(test_speakers):
        raise ValueError(
            f"lengths differ: {len(labels)} labels, {len(enroll_speakers)} enroll_speakers, "
            f"{len(test_speakers)} test_speakers"
        )
    sides = [np.asarray(enroll_speakers), np.asarray(test_speakers)]
    if not all(side.dtype.kind in "iu" for side in sides):
        sides = [side.astype(str) for side in sides]
    names, index = np.unique(np.concatenate(sides), return_inverse=True)
    enroll, test = np.split(index, 2)
    wrong = np.flatnonzero((enroll == test) != (labels == 1))
    if wrong.size:
        first = wrong[0]
        raise ValueError(
            f"trial at index {first} has label {labels[first]}, but its speakers are "
            f"'{names[enroll[first]]}' and '{names[test[first]]}'"
        )
    return enroll, test, len(names)
