"""EER, minDCF and the ROC convex hull from one sort of each class: exact, and small beside 1e8 scores.

- Targets and nontargets are sorted apart, as plain floats: no order of the trials is kept, no label is carried
  along, and what lies above a threshold is counted by bisection.
- The functions of `spkver.scoring.metrics` are these methods for a single figure.
"""

from bisect import bisect_left
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from spkver.scoring.metrics.polyline import checked, crossing, detection_cost, interpolated, just_above


class SortedScores:
    """The scores of each class in ascending order, for several figures from one sort.

    Memory beyond the input: the scores once more, and for `corners` some 10 bytes a target.

    Attributes:
        targets: (n_targets,) ascending, floats of the given type (float64 for integers).
        nontargets: (n_nontargets,) likewise.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points`.

    Example:
        >>> scores = SortedScores([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0])
        >>> scores.equal_error_rate(), scores.min_dcf(p_target=0.01)
        ((0.5, 0.6), (0.5, 0.9))
    """

    def __init__(self, scores: ArrayLike, labels: ArrayLike) -> None:
        scores, is_target = checked(scores, labels)
        self.targets = scores[is_target]
        self.nontargets = scores[~is_target]
        # numpy's default sort (2.4) leaves float16 with many ties in disorder on processors with AVX-512.
        kind = "stable" if scores.dtype == np.float16 else None
        self.targets.sort(kind=kind)
        self.nontargets.sort(kind=kind)

    def equal_error_rate(self) -> tuple[float, float]:
        """As `spkver.scoring.metrics.equal_error_rate`, from the two thresholds on either side of the crossing."""

        def before_crossing(threshold: np.floating) -> bool:
            # The threshold is of the scores' own type: for any other, the search would copy them all to that type.
            fpr, fnr = self._rates(*(np.searchsorted(part, threshold) for part in parts))
            return fpr < fnr

        parts = self.targets, self.nontargets
        n_crossed = [bisect_left(part, True, key=before_crossing) for part in parts]
        lower = max(part[n - 1] for part, n in zip(parts, n_crossed) if n)
        upper = min((part[n] for part, n in zip(parts, n_crossed) if n < len(part)), default=self._above_all())
        n_below = [np.searchsorted(part, lower) for part in parts]
        fpr, fnr = np.transpose([self._rates(*n_crossed), self._rates(*n_below)])
        _, share = crossing(fpr, fnr)
        # Not a + share * (b - a): the difference of two large scores may overflow.
        return interpolated(fpr, 0, share), (1 - share) * float(upper) + share * float(lower)

    def min_dcf(self, p_target: float = 0.01, c_miss: float = 1.0, c_fa: float = 1.0) -> tuple[float, float]:
        """As `spkver.scoring.metrics.min_dcf`, from the `corners`."""
        misses, false_alarms = self.corners
        fpr, fnr = false_alarms / len(self.nontargets), misses / len(self.targets)
        cost = detection_cost(fpr, fnr, p_target, c_miss, c_fa)
        best = int(np.argmin(cost))
        threshold = self.targets[misses[best]] if best else self._above_all()
        return float(cost[best]), float(threshold)

    def threshold_at_false_acceptance(self, rate: float) -> tuple[float, float, float]:
        """The lowest threshold that accepts no more than a share of the nontargets, and its error rates.

        That is one step above the first score to reject. Where equal scores straddle the share, all of them are
        rejected. With fewer than 1 / ``rate`` nontargets none is accepted, which says little about the share.

        Args:
            rate: of nontargets that may be accepted, a fraction from 0 to below 1.

        Returns:
            ``(threshold, fpr, fnr)``: scores from the threshold on are accepted; fpr <= rate.

        Raises:
            ValueError: the rate is out of range.

        Example:
            >>> SortedScores([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0]).threshold_at_false_acceptance(0.5)[1:]
            (0.5, 0.0)
        """
        if not 0 <= rate < 1:
            raise ValueError(f"the false acceptance rate must lie in [0, 1), got {rate}")
        # The product may fall just short of the whole number that it stands for: 0.07 * 100.
        n_accepted = int(rate * len(self.nontargets) * (1 + 1e-12))
        threshold = just_above(self.nontargets[-1 - n_accepted])
        fpr, fnr = self._rates(*(np.searchsorted(part, threshold) for part in (self.targets, self.nontargets)))
        return float(threshold), float(fpr), float(fnr)

    @cached_property
    def corners(self) -> tuple[np.ndarray, np.ndarray]:
        """``(misses, false_alarms)``, each (n_corners,) int64: the thresholds that can be the best for some cost.

        By descending threshold. First is the one above all scores; each other is the target score
        ``targets[misses]``. A threshold elsewhere is never better than the next target score above it, which
        accepts the same targets and no more nontargets; and of target scores with no nontarget score between
        them the lowest accepts the most targets at the same false alarms.
        """
        nontargets_below = np.searchsorted(self.nontargets, self.targets)
        starts = np.append(0, 1 + np.flatnonzero(nontargets_below[1:] != nontargets_below[:-1]))[::-1]
        misses = np.append(len(self.targets), starts)
        return misses, np.append(0, len(self.nontargets) - nontargets_below[starts])

    @cached_property
    def hull(self) -> tuple[np.ndarray, np.ndarray]:
        """``(misses, false_alarms)``, each (n_vertices,) int64: the vertices of the ROC curve's convex hull.

        By descending threshold, from rejecting all to the highest threshold without a miss. The trials between
        two neighbours are those that isotonic regression of the labels (pool adjacent violators) pools.

        Source: T. Fawcett, A. Niculescu-Mizil, "PAV and the ROC convex hull", Machine Learning 68, 2007.
        """
        from scipy.optimize import isotonic_regression  # a fifth of what `spkver results` takes

        misses, false_alarms = self.corners
        targets, trials = -np.diff(misses), np.diff(false_alarms - misses)
        vertices = isotonic_regression(targets / trials, weights=trials, increasing=False).blocks
        return misses[vertices], false_alarms[vertices]

    def _rates(self, targets_below: int, nontargets_below: int) -> tuple[float, float]:
        """``(fpr, fnr)``, given how many scores of each class lie below the threshold."""
        return (len(self.nontargets) - nontargets_below) / len(self.nontargets), targets_below / len(self.targets)

    def _above_all(self) -> np.floating:
        return just_above(max(self.targets[-1], self.nontargets[-1]))
