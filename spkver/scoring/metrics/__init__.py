"""Metrics of scored trials: error rates, DCF, DET curves; the rest in modules of its own.

Rates are fractions; labels are 1 for target and 0 for nontarget.
"""

from spkver.scoring.metrics.error_rates import (
    DetCurve,
    actual_dcf,
    det_points,
    equal_error_rate,
    min_dcf,
)

__all__ = [
    "DetCurve",
    "actual_dcf",
    "det_points",
    "equal_error_rate",
    "min_dcf",
]
