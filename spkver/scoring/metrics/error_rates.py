"""How good scores are: EER, minDCF, actual DCF, the points of the DET curve.

- A score >= threshold is an acceptance. Equal scores cannot be parted by any threshold, so trials are grouped
  by score first; nothing here depends on the order of the input, and constant scores have an EER of 50 %.
- The EER lies on the polyline through the (FPR, FNR) of those groups, as scikit-learn's ``roc_curve`` with
  linear interpolation has it and as the published VoxSRC figures were computed; the convex hull's EER is lower.
- Each function here sorts by itself; `spkver.scoring.metrics.sorted_scores` gives several figures from one sort.
- `DetCurve` keeps the order of the trials too, which takes more memory: it is for drawing, and for weighted
  rates (the bootstrap's), which are then one pass each.
- Rates are fractions, labels are 1 = target and 0 = nontarget, thresholds are always finite.
"""

import numpy as np
from numpy.typing import ArrayLike

from spkver.scoring.metrics.polyline import bayes_threshold, checked, detection_cost, just_above
from spkver.scoring.metrics.sorted_scores import SortedScores


class DetCurve:
    """Scored trials, sorted and grouped by score: error rates at every threshold, for any weights.

    Attributes:
        thresholds: (n_points,) float64, descending: first one just above every score (all are rejected), then
            each distinct score.
        targets_accepted: (n_points,) int64, targets with a score >= threshold.
        nontargets_accepted: (n_points,) int64, likewise.
        target_order: (n_targets,) int64, indices of the targets by descending score.
        nontarget_order: (n_nontargets,) int64, likewise.

    Raises:
        ValueError: see `det_points`.
    """

    def __init__(self, scores: ArrayLike, labels: ArrayLike) -> None:
        scores, is_target = checked(scores, labels)
        order = np.argsort(scores)[::-1]
        descending, is_target = scores[order], is_target[order]
        group_ends = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(scores) - 1)
        self.target_order = order[is_target]
        self.nontarget_order = order[~is_target]
        self.targets_accepted = np.append(0, np.cumsum(is_target)[group_ends])
        self.nontargets_accepted = np.append(0, group_ends + 1) - self.targets_accepted
        self.thresholds = np.append(just_above(descending[0]), descending[group_ends]).astype(np.float64)

    def rates(
        self, target_weights: np.ndarray | None = None, nontarget_weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """False positive and false negative rate at each threshold.

        Args:
            target_weights: (n_targets,) >= 0, not all zero, in the order of ``target_order``; None counts
                each once.
            nontarget_weights: (n_nontargets,) likewise.

        Returns:
            ``(fpr, fnr)``, each (n_points,) float64; fpr rises from 0 to 1, fnr falls from 1 to 0.
        """
        hits = _accepted_weight(self.targets_accepted, target_weights)
        false_alarms = _accepted_weight(self.nontargets_accepted, nontarget_weights)
        return false_alarms / false_alarms[-1], (hits[-1] - hits) / hits[-1]


def det_points(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points of the DET curve, one for each distinct score and one where all is rejected.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.

    Returns:
        ``(fpr, fnr, thresholds)``, each (n_points,) float64, by descending threshold.

    Raises:
        ValueError: a score is NaN or infinite, a label is neither 0 nor 1, one of the classes is missing,
            the lengths differ or the arrays are not one-dimensional; the message says which.

    Example:
        >>> fpr, fnr, thresholds = det_points([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0])
        >>> fpr.tolist(), fnr.tolist()
        ([0.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0])
    """
    curve = DetCurve(scores, labels)
    return *curve.rates(), curve.thresholds


def equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The error rate where false positives and false negatives are equally frequent, and its threshold.

    Both are interpolated on the polyline of `det_points`.

    Returns:
        ``(eer, threshold)``; the eer is a fraction.

    Raises:
        ValueError: as `det_points`.

    Example:
        >>> equal_error_rate([0.9, 0.8, 0.3, 0.2], [1, 1, 0, 0])
        (0.0, 0.8)
        >>> equal_error_rate([0.5, 0.5, 0.5], [1, 0, 0])[0]
        0.5
    """
    return SortedScores(scores, labels).equal_error_rate()


def min_dcf(
    scores: ArrayLike, labels: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """The least detection cost that any threshold reaches (NIST), and that threshold.

    Divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``, the cost of the better of accepting all and
    rejecting all; so it is at most 1. Of several thresholds with the least cost the highest is returned.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        p_target: prior probability of a target, between 0 and 1. Both 0.01 and 0.05 are in use: say which.
        c_miss: cost of a miss, above 0.
        c_fa: cost of a false alarm, above 0.

    Returns:
        ``(value, threshold)``; the threshold is finite even where rejecting all is best.

    Raises:
        ValueError: as `det_points`, or a prior or cost out of range.

    Example:
        >>> min_dcf([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0], p_target=0.01)
        (0.5, 0.9)
    """
    return SortedScores(scores, labels).min_dcf(p_target, c_miss, c_fa)


def actual_dcf(
    llrs: ArrayLike, labels: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> float:
    """The detection cost of the decisions that log-likelihood ratios call for: accepted from `bayes_threshold` on.

    Normalised as `min_dcf`, which is never above it: the difference is the cost of bad calibration. Above 1,
    the scores do harm: rejecting (or accepting) all trials would be cheaper.

    Args:
        llrs: (n_trials,) log-likelihood ratios, natural logarithm.
        labels: as in `min_dcf`, like all that follow.

    Source: N. Brümmer, J. du Preez, "Application-independent evaluation of speaker detection", Computer Speech
        and Language 20, 2006.

    Raises:
        ValueError: as `min_dcf`.

    Example:
        >>> actual_dcf([3.0, -1.0, -0.5, -4.0], [1, 1, 0, 0], p_target=0.5)
        0.5
    """
    threshold = bayes_threshold(p_target, c_miss, c_fa)
    llrs, is_target = checked(llrs, labels)
    # In an array: numpy would round a lone number to float32 before it compares it with float32 scores.
    accepted = llrs >= np.array([threshold])
    n_targets, n_accepted = np.count_nonzero(is_target), np.count_nonzero(accepted)
    hits = np.count_nonzero(accepted & is_target)
    fpr, fnr = (n_accepted - hits) / (len(llrs) - n_targets), (n_targets - hits) / n_targets
    return float(detection_cost(fpr, fnr, p_target, c_miss, c_fa))


def _accepted_weight(accepted: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The weight of the trials accepted at each threshold, given how many are."""
    return accepted if weights is None else np.append(0, np.cumsum(weights))[accepted]
