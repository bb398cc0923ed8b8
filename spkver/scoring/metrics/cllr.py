"""Cllr: how good scores are as log-likelihood ratios, over all priors at once, and the least that they could cost.

Cllr is the mean cost, in bits, of believing the scores: 0 for certain and right, 1 for scores that say nothing,
and without a bound for scores that are sure of the wrong thing. min Cllr is what remains when the scores are
replaced by the best log-likelihood ratios in the same order: it tells discrimination from calibration.

Source: N. Brümmer, J. du Preez, "Application-independent evaluation of speaker detection", Computer Speech and
    Language 20, 2006.

Log-likelihood ratios are natural logarithms, costs are in bits (logarithms to base 2).
"""

import numpy as np
from numpy.typing import ArrayLike

from spkver.scoring.metrics.polyline import checked
from spkver.scoring.metrics.sorted_scores import SortedScores

CHUNK = 1 << 20  # costs are float64 and pass through several steps: a million at a time


def cllr(llrs: ArrayLike, labels: ArrayLike) -> float:
    """The cost of log-likelihood ratios: both classes weigh the same, whatever their numbers of trials.

    ``(mean of log2(1 + e^-llr) over the targets + mean of log2(1 + e^llr) over the nontargets) / 2``

    Args:
        llrs: (n_trials,) log-likelihood ratios, finite.
        labels: (n_trials,) 1 = target, 0 = nontarget.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points`.

    Example:
        >>> cllr([0, 0, 0], [1, 0, 0])
        1.0
        >>> round(cllr([4, 2, -3], [1, 1, 0]), 3)
        0.087
    """
    llrs, is_target = checked(llrs, labels)
    return (_mean_bits(-llrs[is_target]) + _mean_bits(llrs[~is_target])) / 2


def bits(misleading: np.ndarray) -> np.ndarray:
    """The cost of each trial: ``log2(1 + e^x)``, where x is the llr of a nontarget or minus that of a target.

    Returns:
        float64 of the same shape.
    """
    return np.logaddexp(0, misleading, dtype=np.float64) / np.log(2)


def min_cllr(scores: ArrayLike, labels: ArrayLike) -> float:
    """The least Cllr of any log-likelihood ratios that rise with the scores: the Cllr of `pav_llrs`.

    Never above `cllr` of the scores nor above 1; a strictly increasing transform of the scores changes nothing.

    Args:
        scores: (n_trials,) real numbers, of any scale.
        labels: (n_trials,) 1 = target, 0 = nontarget.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points`.

    Example:
        >>> min_cllr([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
        0.0
        >>> min_cllr([0.7, 0.7, 0.7], [1, 0, 0])
        1.0
    """
    return hull_cllr(SortedScores(scores, labels))


def hull_cllr(scores: SortedScores) -> float:
    """`min_cllr` of scores that are sorted already, for use with other figures of the same sort."""
    llrs, targets, nontargets = _blocks(scores)
    # Without nontargets the llr of a block is infinite, and costs its targets nothing. Those below every target
    # are in no block: theirs is minus infinity, and costs nothing either.
    mixed = nontargets > 0
    target_bits = targets[mixed] @ bits(-llrs[mixed]) / len(scores.targets)
    nontarget_bits = nontargets[mixed] @ bits(llrs[mixed]) / len(scores.nontargets)
    return float(target_bits + nontarget_bits) / 2


def pav_llrs(scores: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """The log-likelihood ratios, rising with the scores, that cost these very trials least.

    Isotonic regression (pool adjacent violators) of the labels on the scores, less the log odds of the labels.
    They fit the trials they are made from; to calibrate other trials, a smoother fit serves better.

    Source: N. Brümmer, J. du Preez, "The PAV algorithm optimizes binary proper scoring rules", 2013. As there,
        nothing is added to the counts: nontargets below every target have minus infinity, targets above every
        nontarget plus infinity, and the cost of either is its limit, 0.

    Returns:
        (n_trials,) float64, in the order of the trials.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points`.

    Example:
        >>> pav_llrs([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0]).tolist()
        [inf, 0.0, 0.0, -inf]
    """
    scores = np.asarray(scores)
    in_order = SortedScores(scores, labels)
    llrs, _, _ = _blocks(in_order)
    lowest = in_order.targets[in_order.hull[0][1:]]
    return np.append(llrs, -np.inf)[len(llrs) - np.searchsorted(lowest[::-1], scores, side="right")]


def _blocks(scores: SortedScores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each block that PAV pools, by descending score: its llr, its number of targets (> 0), of nontargets."""
    misses, false_alarms = scores.hull
    targets, nontargets = -np.diff(misses), np.diff(false_alarms)
    with np.errstate(divide="ignore"):
        llrs = np.log(targets / len(scores.targets)) - np.log(nontargets / len(scores.nontargets))
    return llrs, targets, nontargets


def _mean_bits(misleading: np.ndarray) -> float:
    starts = range(0, len(misleading), CHUNK)
    return sum(float(bits(misleading[start : start + CHUNK]).sum()) for start in starts) / len(misleading)
