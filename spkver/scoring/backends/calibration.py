"""Scores into log-likelihood ratios: calibration of one system, fusion of several.

A calibrated score is llr = w . features + b, the natural logarithm of how much likelier the trial is if it is a
target. One column of scores is calibration; a column for each of several systems is linear fusion; columns of
quality measures (`spkver.scoring.backends.quality`) may stand beside the scores in both. Nothing else differs, so one
function fits them all.

The fit is prior-weighted logistic regression, as in the FoCal and BOSARIS toolkits of N. Brümmer; formula and
sources are in `spkver.scoring.backends.logistic_regression`.

- Targets and nontargets are weighed by the prior and not by their number in the list: a list with ten times the
  nontargets gives the same llrs, and the llrs serve at any prior. The prior in training only says where on the
  scale they should be best.
- Train on trials of speakers that neither the model nor the test has seen, such as
  `spkver.data.trial_making.make_trials` draws among training speakers that were held out: trials of the
  speakers that a model was trained on are too well separated.
- Features go by name, never by position: a model fitted on other columns is refused when it is applied.
- A weight says nothing of values that no trial of the fit had: with trials of 3 to 6 s, the weight of the log duration
  made any two recordings of a minute one speaker's. Columns named in ``held`` are kept within the range of the fit.
"""

import json
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spkver.errors import SpkverError
from spkver.files import read_json, write_json
from spkver.scoring.backends.logistic_regression import fit_logistic
from spkver.scoring.backends.quality import measures_of
from spkver.scoring.metrics.polyline import checked

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Calibration:
    """llr = w . features + b, and what it was made for.

    Attributes:
        weights: feature name -> w, in the order of the fit.
        offset: b, in nats.
        p_target: the prior probability of a target that it was trained for.
        belongs_to: whatever tells it from another one, as JSON can hold it: system, fingerprint of the model,
            numbers of trials and speakers.
        ranges: feature name -> [lowest, highest]; a value beyond counts as the nearer of them. Other features are
            taken as they are.

    Raises:
        ValueError: an attribute is not as described; the message names it.
    """

    weights: dict[str, float]
    offset: float
    p_target: float
    belongs_to: dict[str, Any] = field(default_factory=dict)
    ranges: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.weights, dict) or not self.weights:
            raise ValueError(f"weights must map feature names to numbers, got {self.weights!r}")
        for name, weight in self.weights.items():
            if not isinstance(name, str) or not _is_finite_number(weight):
                raise ValueError(f"weights must map feature names to finite numbers, got {name!r}: {weight!r}")
        if not _is_finite_number(self.offset):
            raise ValueError(f"offset must be a finite number, got {self.offset!r}")
        if not _is_finite_number(self.p_target):
            raise ValueError(f"p_target must be a number, got {self.p_target!r}")
        _check_prior(self.p_target)
        if not isinstance(self.belongs_to, dict) or not _survives_json(self.belongs_to):
            raise ValueError(f"belongs_to must be a dictionary that JSON can hold, got {self.belongs_to!r}")
        if not isinstance(self.ranges, dict) or not set(self.ranges) <= set(self.weights):
            raise ValueError(f"ranges must map names of weights to [lowest, highest], got {self.ranges!r}")
        for name, ends in self.ranges.items():
            is_pair = isinstance(ends, list) and len(ends) == 2 and all(map(_is_finite_number, ends))
            if not is_pair or ends[0] > ends[1]:
                raise ValueError(f"ranges must map names to [lowest, highest], got {name!r}: {ends!r}")

    @property
    def quality(self) -> list[str]:
        """The quality measures among its features."""
        return measures_of(self.weights)

    def llrs(self, features: Mapping[str, ArrayLike]) -> np.ndarray:
        """The log-likelihood ratio of each trial.

        Each trial is computed by itself: a list in parts gives the same bytes as the whole.

        Args:
            features: the columns of the fit by name, in any order; each (n_trials,).

        Returns:
            (n_trials,) float32, natural logarithms; `spkver.scoring.metrics.polyline.bayes_threshold` accepts by them.

        Raises:
            ValueError: a column is missing or not one of the fit's, the lengths differ, or a value is NaN,
                infinite or beyond float32.
        """
        columns = _checked_columns(features)
        missing = [name for name in self.weights if name not in columns]
        unknown = [name for name in columns if name not in self.weights]
        if missing or unknown:
            raise ValueError(
                f"features must be those of the fit, {_quoted(self.weights)}; "
                f"missing: {_quoted(missing)}; unknown: {_quoted(unknown)}"
            )
        llrs = np.full(len(next(iter(columns.values()))), self.offset, dtype=np.float64)
        for name, weight in self.weights.items():
            column = columns[name]
            if name in self.ranges:
                lowest, highest = self.ranges[name]
                column = column.clip(lowest, highest)
            llrs += np.multiply(column, weight, dtype=np.float64)
        return llrs.astype(np.float32)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all; every number is read back to the bit."""
        write_json(path, asdict(self))


def read_calibration(path: str | os.PathLike[str], advice: str = "make the calibration again") -> Calibration:
    """Read what `Calibration.write` wrote.

    Args:
        path: of the file.
        advice: ends each message: what to do.

    Raises:
        SpkverError: naming the file, and line or key: it cannot be read, is not JSON, or a key is missing, unknown
            or has a value of the wrong type or range.
    """
    record = read_json(path, advice)
    keys = [entry.name for entry in fields(Calibration)]
    if not isinstance(record, dict):
        raise SpkverError(f"{path}: expected a JSON object with the keys {_quoted(keys)}; {advice}")
    weights = record.get("weights")
    if "ranges" not in record and isinstance(weights, dict) and not measures_of(weights):
        record["ranges"] = {}  # of scores alone, which need none
    missing = [key for key in keys if key not in record]
    unknown = [key for key in record if key not in keys]
    if missing or unknown:
        raise SpkverError(f"{path}: missing keys: {_quoted(missing)}; unknown keys: {_quoted(unknown)}; {advice}")
    try:
        return Calibration(**record)
    except ValueError as error:
        raise SpkverError(f"{path}: {error}; {advice}") from None


def fit_calibration(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    p_target: float,
    regularisation: float,
    belongs_to: dict[str, Any] | None = None,
    held: Collection[str] = (),
    trial_weights: ArrayLike | None = None,
) -> Calibration:
    """Calibrate one system's scores, or fuse those of several, with or without quality measures.

    One column of scores is calibrated, several are fused: ``{"conformer": a, "resnet": b, "log_duration_min": c}``
    is the fusion of two systems with a quality measure. Objective: `spkver.scoring.backends.logistic_regression`.

    Args:
        features: columns by name, each (n_trials,): the scores of each system under its name, quality measures
            under theirs. The scales may differ; a column that is constant gets the weight 0.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        p_target: prior probability of a target, between 0 and 1; 0.01 and 0.05 are in use.
        regularisation: L2, at least 1e-12. 1e-6 changes the weight of a system with an EER of 2 % by less than a
            thousandth and keeps that of separable trials finite: they are no error, their llrs end at about +-15.
        belongs_to: see `Calibration`.
        held: names of columns whose values, when the calibration is applied, are kept within the range that they
            have here: quality measures, never scores, which would become equal beyond it.
        trial_weights: (n_trials,) finite numbers above 0, how much each trial counts among the targets, or among the
            nontargets; None: all alike.

    Raises:
        ValueError: a column is empty, not one-dimensional or of another length; a value is NaN, infinite or
            beyond float32 (the message names column and index); a label is neither 0 nor 1 or all are the same;
            a name in ``held`` is no column; ``trial_weights`` are not as described; ``p_target`` or ``regularisation``
            is out of range; or the only column is lower for targets than for nontargets. (Of several columns some may
            well have negative weights.)

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat([1, 0], [1000, 9000])
        >>> cosine = rng.normal(0.1 + 0.3 * labels, 0.1)
        >>> calibration = fit_calibration({"cosine": cosine}, labels, p_target=0.05, regularisation=1e-6)
        >>> llrs = calibration.llrs({"cosine": [0.1, 0.25, 0.4]})  # the truth: -4.5, 0, 4.5
        >>> [bool(abs(llr - truth) < 0.3) for llr, truth in zip(llrs, [-4.5, 0, 4.5])]
        [True, True, True]
    """
    _check_prior(p_target)
    columns = _checked_columns(features)
    _, is_target = checked(next(iter(columns.values())), labels)
    if not set(held) <= set(columns):
        raise ValueError(f"held must name columns, {_quoted(columns)}; got {_quoted(list(held))}")
    if trial_weights is not None:
        trial_weights = np.asarray(trial_weights, np.float64)
        if trial_weights.shape != is_target.shape or not (np.isfinite(trial_weights) & (trial_weights > 0)).all():
            raise ValueError(f"trial_weights must be {len(is_target)} finite numbers above 0")
    weights, offset = fit_logistic(list(columns.values()), is_target, p_target, regularisation, trial_weights)
    if len(weights) == 1 and weights[0] < 0:
        raise ValueError(
            f"'{next(iter(columns))}' is higher for nontargets than for targets (weight {weights[0]:.3g}); "
            "check the labels, or negate the scores if they are distances"
        )
    ranges = {name: [float(columns[name].min()), float(columns[name].max())] for name in columns if name in held}
    return Calibration(dict(zip(columns, weights)), offset, float(p_target), dict(belongs_to or {}), ranges)


def _checked_columns(features: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """The columns as arrays, after the checks that `fit_calibration` promises."""
    if not isinstance(features, Mapping) or not features:
        raise ValueError(f"features must map names to columns, at least one; got {type(features).__name__}")
    columns = {name: np.asarray(column) for name, column in features.items()}
    for name, column in columns.items():
        if column.ndim != 1 or column.dtype.kind not in "fiu":
            raise ValueError(f"'{name}' must be (n_trials,) real numbers, got {column.dtype} {column.shape}")
        bad = np.flatnonzero(~(np.abs(column) <= _FLOAT32_MAX))
        if bad.size:
            raise ValueError(f"'{name}' is {column[bad[0]]} at index {bad[0]}; it must be a finite float32 number")
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"'{name}' {len(column)}" for name, column in columns.items())
        raise ValueError(f"lengths differ: {lengths}")
    return columns


def _check_prior(p_target: float) -> None:
    if not 0 < p_target < 1:
        raise ValueError(f"p_target must lie between 0 and 1, got {p_target}")


def _is_finite_number(value: Any) -> bool:
    # Compared rather than converted: an integer of 400 digits cannot become a float, and NaN compares false.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _survives_json(value: Any) -> bool:
    """Whether JSON gives back the same: no NaN, tuples, numpy integers, keys that are not text, or broken text."""
    try:
        return json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False).encode()) == value
    except (TypeError, ValueError):
        return False


def _quoted(names: Mapping[str, Any] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
