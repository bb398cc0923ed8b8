"""Two systems on the same trials: is one better, or would other speakers have said otherwise?

The intervals of two systems may overlap widely and one still be better on nearly every draw of speakers: what is
hard for one system is hard for the other. So each resample (`spkver.scoring.metrics.bootstrap`) is scored by both, and
the difference is what is looked at.

Where two systems differ by chance from trial to trial rather than from speaker to speaker (systems that are nearly the
same, few trials for each speaker), intervals are too wide and p-values too high. That lies in resampling speakers with
the product weight (Owen, cited in `spkver.scoring.metrics.bootstrap`); it errs on the side of "no difference".
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spkver.scoring.metrics import DetCurve
from spkver.scoring.metrics.bootstrap import (
    check_resampling,
    figure_names,
    figures,
    percentile_interval,
    resampled_figures,
)


class Difference(NamedTuple):
    """One figure of two systems a and b; lower is better."""

    a: float
    b: float
    difference: float  # b - a: below 0 where b is better
    low: float  # the ends of its interval
    high: float
    b_better: float  # share of the resamples in which b has the lower figure
    p_value: float  # two-sided


def compare(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray,
    test_speakers: Sequence[str] | np.ndarray,
    p_targets: Sequence[float] = (0.01, 0.05),
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Difference]:
    """The difference of two systems in EER and minDCF (costs 1 and 1), with a paired bootstrap over speakers.

    The p-value inverts the interval: it is one less the highest level at which the percentile interval leaves
    out 0, that is twice the share of resamples on the far side of 0 (B. Efron, R. Tibshirani, "An introduction
    to the bootstrap", 1993, section 15.4). Both counts have one added, so that no finite number of resamples
    makes a p-value of 0 (A. C. Davison, D. V. Hinkley, "Bootstrap methods and their application", 1997, section
    4.2): with n = 1000 it is at least 0.002. A resample without a difference counts for either side.

    Args:
        scores_a: (n_trials,) real numbers, of the system to compare with.
        scores_b: (n_trials,) of the other system; the scales need not agree.
        labels: as in `spkver.scoring.metrics.bootstrap.intervals`, like all that follow; the interval is that of the
            difference.

    Returns:
        ``{"eer": Difference, "min_dcf_0.01": Difference, ...}``

    Raises:
        ValueError: as `spkver.scoring.metrics.bootstrap.intervals`; what is wrong with scores names which.
    """
    check_resampling(n, level)
    curves = [_curve("scores_a", scores_a, labels), _curve("scores_b", scores_b, labels)]
    of_a, of_b = (figures(*curve.rates(), p_targets) for curve in curves)
    replicates = resampled_figures(curves, labels, enroll_speakers, test_speakers, p_targets, n, seed)
    # Rounded, as no system is better for the last bit of an interpolation.
    differences = np.round(replicates[:, 1] - replicates[:, 0], 12)
    lows, highs = percentile_interval(differences, level)
    b_better = (differences < 0).mean(axis=0)
    far_side = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    p_values = np.minimum(2 * (far_side + 1) / (n + 1), 1)
    columns = of_a, of_b, np.subtract(of_b, of_a), lows, highs, b_better, p_values
    return {name: Difference(*map(float, row)) for name, *row in zip(figure_names(p_targets), *columns)}


def _curve(name: str, scores: ArrayLike, labels: ArrayLike) -> DetCurve:
    try:
        return DetCurve(scores, labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
