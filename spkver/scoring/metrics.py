"""How good scores are: EER, minDCF, the points of the DET curve.

Notable:
- A score >= threshold is an acceptance. Equal scores cannot be parted by any threshold, so trials are grouped
  by score first; nothing here depends on the order of the input, and constant scores have an EER of 50 %.
- The EER lies on the polyline through the (FPR, FNR) of those groups, as scikit-learn's ``roc_curve`` with
  linear interpolation has it and as the published VoxSRC figures were computed. The convex hull's EER, which
  is lower, has its own name.
- The sort is done once in `DetCurve`; weighted rates (the bootstrap's) are then one pass each.
- Rates are fractions, labels are 1 = target and 0 = nontarget, thresholds are always finite.
"""

import numpy as np
from numpy.typing import ArrayLike


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
        scores, is_target = _checked(scores, labels)
        order = np.argsort(scores)[::-1]
        descending, is_target = scores[order], is_target[order]
        group_ends = np.append(np.flatnonzero(descending[1:] != descending[:-1]), len(scores) - 1)
        self.target_order = order[is_target]
        self.nontarget_order = order[~is_target]
        self.targets_accepted = np.append(0, np.cumsum(is_target)[group_ends])
        self.nontargets_accepted = np.append(0, group_ends + 1) - self.targets_accepted
        # One step in the scores' own type: a float64 step above a float32 score is lost when compared in
        # float32.
        with np.errstate(over="ignore"):  # above the largest number of the type lies infinity: stay there
            above = np.nextafter(descending[0], np.inf, dtype=scores.dtype)
        above = np.minimum(above, np.finfo(scores.dtype).max)
        self.thresholds = np.append(above, descending[group_ends]).astype(np.float64)

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
    fpr, fnr, thresholds = det_points(scores, labels)
    index, share = crossing(fpr, fnr)
    # Not a + share * (b - a): the difference of two large scores may overflow.
    threshold = (1 - share) * thresholds[index] + share * thresholds[index + 1]
    return interpolated(fpr, index, share), float(threshold)


def rocch_equal_error_rate(scores: ArrayLike, labels: ArrayLike) -> float:
    """The EER on the convex hull of the ROC curve: never above `equal_error_rate`, never above 50 %.

    It has no threshold: an edge of the hull stands for choosing between two thresholds by lot.

    Source: N. Brümmer, E. de Villiers, "The BOSARIS Toolkit: theory, algorithms and code for surviving the
        new DCF"
    (2013), which reports this EER.

    Raises:
        ValueError: as `det_points`.
    """
    curve = DetCurve(scores, labels)
    false_alarms = curve.nontargets_accepted
    misses = curve.targets_accepted[-1] - curve.targets_accepted
    n_targets, n_nontargets = misses[0], false_alarms[-1]
    # The one edge of the hull that crosses the diagonal is wanted, not the hull: take the chord from (0, 1)
    # to (1, 0) and move its ends to the point lowest below it until there is none. Integers, so that "below"
    # is exact.
    left, right = 0, len(misses) - 1
    while True:
        run, fall = false_alarms[right] - false_alarms[left], misses[left] - misses[right]
        height = fall * false_alarms[left : right + 1] + run * misses[left : right + 1]
        lowest = left + int(np.argmin(height))
        if height[lowest - left] >= height[0]:
            break
        if misses[lowest] * n_nontargets >= false_alarms[lowest] * n_targets:
            left = lowest
        else:
            right = lowest
    edge = [left, right]
    fpr, fnr = false_alarms[edge] / n_nontargets, misses[edge] / n_targets
    return interpolated(fpr, *crossing(fpr, fnr))


def min_dcf(
    scores: ArrayLike, labels: ArrayLike, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0
) -> tuple[float, float]:
    """The least detection cost that any threshold reaches (NIST), and that threshold.

    Divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``, the cost of the better of accepting all and
    rejecting all; so it is at most 1. Of several thresholds with the least cost the highest is returned.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        p_target: prior probability of a target, between 0 and 1. Both .01 and .05 are in use: say which.
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
    fpr, fnr, thresholds = det_points(scores, labels)
    cost = detection_cost(fpr, fnr, p_target, c_miss, c_fa)
    best = int(np.argmin(cost))
    return float(cost[best]), float(thresholds[best])


def detection_cost(
    fpr: np.ndarray, fnr: np.ndarray, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> np.ndarray:
    """The normalised detection cost of each pair of error rates; the minimum is what `min_dcf` reports.

    Raises:
        ValueError: ``p_target`` is not between 0 and 1, or a cost is not above 0.
    """
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must lie between 0 and 1, got {p_target}")
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise ValueError(f"c_miss and c_fa must be above 0 and finite, got {c_miss} and {c_fa}")
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    lesser = min(miss, false_alarm)
    return miss / lesser * fnr + false_alarm / lesser * fpr


def crossing(fpr: np.ndarray, fnr: np.ndarray) -> tuple[int, float]:
    """Where a polyline crosses fpr = fnr: the point before, and the share of the way to the next."""
    difference = fpr - fnr
    index = max(int(np.searchsorted(difference, 0.0)) - 1, 0)
    before, after = difference[index], difference[index + 1]
    return index, float(-before / (after - before))


def interpolated(values: np.ndarray, index: int, share: float) -> float:
    """The value on a polyline, ``share`` of the way from point ``index`` to the next."""
    return float(values[index] + share * (values[index + 1] - values[index]))


def _accepted_weight(accepted: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The weight of the trials accepted at each threshold, given how many are."""
    return accepted if weights is None else np.append(0, np.cumsum(weights))[accepted]


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores as floats and labels as truth values, after the checks that `det_points` promises."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 1 or labels.ndim != 1:
        raise ValueError(f"scores and labels must have one dimension; shapes are {scores.shape}, {labels.shape}")
    if len(scores) != len(labels):
        raise ValueError(f"lengths differ: {len(scores)} scores, {len(labels)} labels")
    if not len(scores):
        raise ValueError("scores are empty")
    if scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be real numbers, not {scores.dtype}")
    if scores.dtype.kind != "f":
        scores = scores.astype(np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"scores hold NaN, first at index {np.flatnonzero(np.isnan(scores))[0]}")
    if np.isinf(scores).any():
        raise ValueError(f"scores hold an infinity, first at index {np.flatnonzero(np.isinf(scores))[0]}")
    is_target = labels == 1 if labels.dtype.kind in "biuf" else np.zeros(len(labels), dtype=bool)
    wrong = np.flatnonzero(~is_target & (labels != 0))
    if wrong.size:
        raise ValueError(f"labels must be 0 or 1; found '{labels[wrong[0]]}' at index {wrong[0]}")
    if is_target.all():
        raise ValueError("labels hold only targets (1); error rates need nontargets too")
    if not is_target.any():
        raise ValueError("labels hold only nontargets (0); error rates need targets too")
    return scores, is_target
