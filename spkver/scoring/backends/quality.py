"""Quality measures of trials: how far a score deserves trust, an input of the calibration beside the score.

A score of two short utterances says less than the same score of two long ones. As further columns of
`spkver.scoring.backends.calibration.fit_calibration` such measures move the llr of each trial by its quality. Source:
J. Thienpondt, B. Desplanques, K. Demuynck, "The IDLAB VoxSRC-20 submission: large margin fine-tuning and
quality-aware score calibration in DNN based speaker verification", ICASSP 2021.

A trial has the lesser and the greater value of its two sides, never enrolment and test: the llr must
not change when they change places, as the score does not.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from spkver.data.lookup import check_sides

_COLUMN_OF_MEASURE = {"duration": "log_duration", "magnitude": "magnitude", "cohort_mean": "cohort_mean"}


def quality_columns(
    measures: Mapping[str, ArrayLike], enroll_index: ArrayLike, test_index: ArrayLike
) -> dict[str, np.ndarray]:
    """Columns of quality measures for trials, from a value for each utterance.

    Args:
        measures: any of these by name, each (n_utterances,) real numbers:

            - ``duration``: seconds of audio (or of speech, where that is known), above 0; its logarithm is used;
            - ``magnitude``: L2 norm of the embedding before it is normalised;
            - ``cohort_mean``: mean of the highest scores against a cohort, as AS-norm has it.
        enroll_index: (n_trials,) integers, utterances by position.
        test_index: (n_trials,) likewise.

    Returns:
        ``log_duration_min``, ``log_duration_max``, ``magnitude_min`` and so on, for the measures given and in
        their order; each (n_trials,) float32.

    Raises:
        ValueError: an unknown measure; a value is NaN, infinite or beyond float32, or a duration is not above 0
            (the message names measure and utterance index); or indices that are no integers, differ in length
            or lie outside of the utterances.

    Example:
        >>> columns = quality_columns({"magnitude": [11.0, 7.0, 9.0]}, enroll_index=[0, 2], test_index=[1, 0])
        >>> {name: column.tolist() for name, column in columns.items()}
        {'magnitude_min': [7.0, 9.0], 'magnitude_max': [11.0, 11.0]}
    """
    columns = {}
    for measure, values in measures.items():
        values = _checked(measure, values)
        enroll, test = (values[index] for index in check_sides(enroll_index, test_index, len(values), len(values)))
        columns[f"{_COLUMN_OF_MEASURE[measure]}_min"] = np.minimum(enroll, test)
        columns[f"{_COLUMN_OF_MEASURE[measure]}_max"] = np.maximum(enroll, test)
    return columns


def measures_of(columns: Iterable[str]) -> list[str]:
    """The measures that columns of `quality_columns` are made of; other columns are left out.

    >>> measures_of(["score", "log_duration_min", "log_duration_max"])
    ['duration']
    """
    known = set(columns)
    return [measure for measure, column in _COLUMN_OF_MEASURE.items() if {f"{column}_min", f"{column}_max"} & known]


def _checked(measure: str, values: ArrayLike) -> np.ndarray:
    """(n_utterances,) float32, the logarithm for durations, after the checks that `quality_columns` promises."""
    if measure not in _COLUMN_OF_MEASURE:
        raise ValueError(f"unknown measure '{measure}'; expected {', '.join(_COLUMN_OF_MEASURE)}")
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(f"'{measure}' must be (n_utterances,) real numbers, got {values.dtype} {values.shape}")
    usable = np.abs(values) <= np.finfo(np.float32).max
    if measure == "duration":
        usable &= values > 0
    bad = np.flatnonzero(~usable)
    if bad.size:
        expected = "a finite number above 0" if measure == "duration" else "a finite float32 number"
        found = values[bad[0]]
        raise ValueError(f"'{measure}' of the utterance at index {bad[0]} is {found}; it must be {expected}")
    return (np.log(values, dtype=np.float64) if measure == "duration" else values).astype(np.float32)
