"""What all figures of scored trials are built from: the checks of the input, the cost of errors, the polyline.

Rates are fractions, labels are 1 = target and 0 = nontarget.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def checked(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores as floats and labels as truth values, after the checks that every figure of both needs.

    Scores that are floats already are not copied, and nothing is made that is wider than one byte a trial.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.

    Returns:
        ``(scores, is_target)``, each (n_trials,): floats of the given type (float64 for integers), and bool.

    Raises:
        ValueError: a score is NaN or infinite, a label is neither 0 nor 1, one of the classes is missing,
            the lengths differ or the arrays are not one-dimensional; the message says which.
    """
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
    if not np.isfinite([scores.min(), scores.max()]).all():  # both are NaN where any score is
        first = int(np.argmin(np.isfinite(scores)))
        what = "NaN" if np.isnan(scores[first]) else "an infinity"
        raise ValueError(f"scores hold {what}, first at index {first}")
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"labels must be 0 or 1; found '{labels[0]}' at index 0")
    is_target = labels == 1
    n_targets = np.count_nonzero(is_target)
    if np.count_nonzero(labels) != n_targets:
        first = int(np.argmax((labels != 0) & ~is_target))
        raise ValueError(f"labels must be 0 or 1; found '{labels[first]}' at index {first}")
    if n_targets == len(labels):
        raise ValueError("labels hold only targets (1); error rates need nontargets too")
    if not n_targets:
        raise ValueError("labels hold only nontargets (0); error rates need targets too")
    return scores, is_target


def just_above(score: np.floating) -> np.floating:
    """A threshold that rejects ``score``: one step above it in its own type, but no infinity.

    A float64 step above a float32 score would be lost when compared in float32.
    """
    with np.errstate(over="ignore"):  # above the largest number of the type lies infinity: stay there
        above = np.nextafter(score, np.inf, dtype=score.dtype)
    return np.minimum(above, np.finfo(score.dtype).max)


def detection_cost(
    fpr: ArrayLike, fnr: ArrayLike, p_target: float, c_miss: float = 1.0, c_fa: float = 1.0
) -> np.ndarray:
    """The normalised detection cost of each pair of error rates (NIST).

    Divided by ``min(c_miss * p_target, c_fa * (1 - p_target))``, the cost of the better of accepting all and
    rejecting all.

    Raises:
        ValueError: ``p_target`` is not between 0 and 1, or a cost is not above 0.
    """
    _check_application(p_target, c_miss, c_fa)
    miss, false_alarm = c_miss * p_target, c_fa * (1 - p_target)
    lesser = min(miss, false_alarm)
    return miss / lesser * np.asarray(fnr) + false_alarm / lesser * np.asarray(fpr)


def bayes_threshold(p_target: float, c_miss: float = 1.0, c_fa: float = 1.0) -> float:
    """The log-likelihood ratio (natural logarithm) from which on accepting costs no more than rejecting.

    Source: N. Brümmer, J. du Preez, "Application-independent evaluation of speaker detection", Computer Speech
        and Language 20, 2006.

    Raises:
        ValueError: ``p_target`` is not between 0 and 1, or a cost is not above 0.

    Example:
        >>> round(bayes_threshold(0.01), 3)
        4.595
    """
    _check_application(p_target, c_miss, c_fa)
    return math.log(c_fa) - math.log(c_miss) + math.log1p(-p_target) - math.log(p_target)


def crossing(fpr: np.ndarray, fnr: np.ndarray) -> tuple[int, float]:
    """Where a polyline crosses fpr = fnr: the point before, and the share of the way to the next."""
    difference = fpr - fnr
    index = max(int(np.searchsorted(difference, 0.0)) - 1, 0)
    before, after = difference[index], difference[index + 1]
    return index, float(-before / (after - before))


def interpolated(values: np.ndarray, index: int, share: float) -> float:
    """The value on a polyline, ``share`` of the way from point ``index`` to the next."""
    return float(values[index] + share * (values[index + 1] - values[index]))


def _check_application(p_target: float, c_miss: float, c_fa: float) -> None:
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must lie between 0 and 1, got {p_target}")
    if not (0 < c_miss < np.inf and 0 < c_fa < np.inf):
        raise ValueError(f"c_miss and c_fa must be above 0 and finite, got {c_miss} and {c_fa}")
