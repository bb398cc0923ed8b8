"""EER and minDCF by condition: gender, channel, duration, or any other column of the trials.

A condition of a trial is made from what is known of its two utterances (`shared`, `lesser`), or
is a column of a trial table as it is.

- Each condition has thresholds of its own, so its EER says how well it orders its trials. A threshold for all
  conditions does worse, by what their scores are shifted against one another.
- Fewer trials and fewer speakers stand behind each row than behind the whole: rows differ by chance more.
- Conditions are held as integers, not as a string for each trial: there may be 1e7 and more of those.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from spkver.data.lookup import check_sides
from spkver.scoring.metrics.bootstrap import figure_names
from spkver.scoring.metrics.polyline import checked
from spkver.scoring.metrics.sorted_scores import SortedScores

MOST_PLAIN_NUMBERS = 5  # a column with more distinct numbers is cut into bins

_MIXED = "mixed"  # of trials whose utterances differ

Record = dict[str, float | int | None]


class Column(NamedTuple):
    """The condition of each trial: ``names[codes[trial]]``."""

    codes: np.ndarray  # (n_trials,) integers
    names: Sequence[str]


def by_condition(
    scores: ArrayLike, labels: ArrayLike, columns: Mapping[str, Column], p_targets: Sequence[float] = (0.01, 0.05)
) -> dict[str, dict[str, Record]]:
    """The figures of the trials of each condition, column by column.

    Args:
        scores: (n_trials,) real numbers.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        columns: of n_trials each.
        p_targets: the priors of minDCF (costs 1 and 1).

    Returns:
        ``{column: {condition: record}}``, the conditions that occur, in the order of their names or numbers.
        A record has ``targets`` and ``nontargets`` (how many), ``eer`` and ``min_dcf_0.01``, ... (fractions),
        the figures being None where one of the classes is missing.

    Raises:
        ValueError: as `spkver.scoring.metrics.det_points` for the whole list; or a column's length is not that of the
            scores.

    Example:
        >>> found = by_condition([0.9, 0.2, 0.8, 0.1], [1, 0, 1, 0], {"gender": column(["f", "f", "m", "mixed"])})
        >>> {name: (record["targets"], record["eer"]) for name, record in found["gender"].items()}
        {'f': (1, 0.0), 'm': (1, None), 'mixed': (0, None)}
    """
    scores, is_target = checked(scores, labels)
    breakdown = {}
    for title, (codes, names) in columns.items():
        if codes.shape != scores.shape:
            raise ValueError(
                f"column '{title}': shape {codes.shape}, expected a value for each of {len(scores)} trials"
            )
        # Sorted by code rather than one pass for each condition, of which there may be many; few bytes sort quickly.
        order = np.argsort(codes.astype(np.min_scalar_type(len(names))), kind="stable")
        parts = np.split(order, np.cumsum(np.bincount(codes)))
        breakdown[title] = {
            name: _record(scores[trials], is_target[trials], p_targets)
            for name, trials in zip(names, parts)
            if len(trials)
        }
    return breakdown


def column(values: ArrayLike) -> Column:
    """Conditions from values: each string or number is one, but many different numbers are cut into thirds.

    They are cut at quantiles rounded to a thirtieth of their range or finer, at one only where one value holds most
    trials. A bin includes its lower end and not its upper one; names are such as ``< 2.1``, ``2.1 - 4.0``, ``>= 4.0``.

    Args:
        values: (n_trials,) strings or finite numbers.

    Raises:
        ValueError: the values are not one-dimensional, neither strings nor numbers, or hold NaN or an infinity.

    Example:
        >>> column([1.0, 2.5, 3.0, 9.0, 4.0, 5.0, 8.0]).names
        ['< 3.0', '3.0 - 5.0', '>= 5.0']
    """
    values = _checked_values(values)
    distinct, codes = np.unique(values, return_inverse=True)
    if values.dtype.kind not in "iuf" or len(distinct) <= MOST_PLAIN_NUMBERS:
        return Column(codes, [str(value) for value in distinct])
    thirds = np.quantile(values, [1 / 3, 2 / 3])
    decimals = math.ceil(1.5 - math.log10(float(distinct[-1]) - float(distinct[0])))
    cuts = np.unique(thirds.round(decimals)) + 0.0  # no "-0.0"
    written = [f"{cut:.{max(decimals, 0)}f}" for cut in cuts]
    names = [f"< {written[0]}", *map(" - ".join, pairwise(written)), f">= {written[-1]}"]
    # Cuts of the values' own type: a float32 value of 2.1 is not below the cut at 2.1.
    cuts = cuts.astype(values.dtype if values.dtype.kind == "f" else np.float64)
    return Column(np.searchsorted(cuts, values, side="right"), names)


def shared(values: ArrayLike, enroll_index: np.ndarray, test_index: np.ndarray) -> Column:
    """The value that both utterances of each trial have, such as ``f`` and ``m``, or ``mixed``.

    Args:
        values: (N,) strings or numbers, of each utterance.
        enroll_index: (n_trials,) integers, positions in ``values``.
        test_index: (n_trials,) likewise.

    Raises:
        ValueError: the values are as `column` refuses them, or one of them is ``mixed``; or the indices differ in
            length or lie outside of them.
    """
    distinct, codes = np.unique(_checked_values(values), return_inverse=True)
    names = [str(value) for value in distinct]
    if _MIXED in names:
        raise ValueError(f"'{_MIXED}' is one of the values; call that otherwise")
    enroll, test = _sides(codes, enroll_index, test_index)
    return Column(np.where(enroll == test, enroll, len(names)), [*names, _MIXED])


def lesser(values: ArrayLike, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
    """The smaller number of the two utterances of each trial: durations, where the shorter one is what limits.

    Args:
        values: (N,) numbers of each utterance; the indices as `shared`.

    Returns:
        (n_trials,) of the type of ``values``, to be cut by `column`.

    Raises:
        ValueError: as `shared`, or the values are strings.
    """
    values = _checked_values(values)
    if values.dtype.kind not in "iuf":
        raise ValueError(f"values must be numbers, not {values.dtype}")
    return np.minimum(*_sides(values, enroll_index, test_index))


def _record(scores: np.ndarray, is_target: np.ndarray, p_targets: Sequence[float]) -> Record:
    n_targets = int(np.count_nonzero(is_target))
    record = {"targets": n_targets, "nontargets": len(scores) - n_targets}
    if not all(record.values()):
        return record | dict.fromkeys(figure_names(p_targets))
    in_order = SortedScores(scores, is_target)
    found = [in_order.equal_error_rate()[0], *(in_order.min_dcf(p_target)[0] for p_target in p_targets)]
    return record | dict(zip(figure_names(p_targets), found))


def _checked_values(values: ArrayLike) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must have one dimension and not be empty, their shape is {values.shape}")
    if values.dtype.kind not in "Ubiuf":
        raise ValueError(f"values must be strings or numbers, not {values.dtype}")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"values must be finite, found {values[first]} at index {first}")
    return values


def _sides(values: np.ndarray, enroll_index: np.ndarray, test_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of the enrolment and of the test utterance of each trial."""
    enroll_index, test_index = check_sides(enroll_index, test_index, len(values), len(values))
    return values[enroll_index], values[test_index]
