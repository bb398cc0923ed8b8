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
    """The least Cllr of any log-likelihood ratios that rise with the scores.

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
    """`min_cllr` of scores that are sorted already, for use with other figures of the same sort.

    The best log-likelihood ratios are those of isotonic regression (pool adjacent violators): the same for all trials
    of a block that it pools. Source: N. Brümmer, J. du Preez, "The PAV algorithm optimizes binary proper scoring
    rules", 2013.
    """
    misses, false_alarms = scores.hull
    targets, nontargets = -np.diff(misses), np.diff(false_alarms)
    # Without nontargets the llr of a block is infinite, and costs its targets nothing. Those below every target
    # are in no block: theirs is minus infinity, and costs nothing either.
    mixed = nontargets > 0
    target_share, nontarget_share = targets[mixed] / len(scores.targets), nontargets[mixed] / len(scores.nontargets)
    llrs = np.log(target_share) - np.log(nontarget_share)
    return float(target_share @ bits(-llrs) + nontarget_share @ bits(llrs)) / 2


def _mean_bits(misleading: np.ndarray) -> float:
    starts = range(0, len(misleading), CHUNK)
    return sum(float(bits(misleading[start : start + CHUNK]).sum()) for start in starts) / len(misleading)
