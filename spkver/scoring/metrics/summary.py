"""The record of a scored trial list, the table that people see, and the file that both are kept in."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from spkver.errors import SpkverError
from spkver.experiment.provenance import has_part
from spkver.files import locked, read_json, write_json
from spkver.scoring.metrics import actual_dcf
from spkver.scoring.metrics.bootstrap import cllr_interval, intervals, min_dcf_key
from spkver.scoring.metrics.cllr import cllr, hull_cllr
from spkver.scoring.metrics.sorted_scores import SortedScores

# Figures of a record, with their intervals.
_FIGURE = re.compile(r"(eer|threshold|cllr|min_cllr|targets|nontargets|speakers|(min|act)_dcf_.*)(_interval)?")
_MIN_DCF = re.compile(r"min_dcf_(\d*\.?\d+(e-?\d+)?)")
MADE_OF_KEY = "made_of"  # of a record: the recordings and the trial list, see `spkver.experiment.provenance`
_METRICS_ADVICE = "mend or remove the file"
Record = dict[str, Any]  # a system's figures on a trial list by name, as JSON has them
_LONGEST_WAIT_SECONDS = 60.0  # for other processes to write their records, each of which takes milliseconds


def summary(
    scores: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray | None = None,
    test_speakers: Sequence[str] | np.ndarray | None = None,
    p_targets: Sequence[float] = (0.01, 0.05),
    n: int = 1000,
    seed: int = 0,
) -> Record:
    """The record of one system on one trial list, as ``metrics.json`` keeps it.

    Cllr and actual DCF take the scores for natural log-likelihood ratios: what a calibrated system gives, and what
    shows how far another one's scores are from that.

    Args:
        scores: (n_trials,) real numbers, those in memory rather than rounded text.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        enroll_speakers, test_speakers: n_trials speaker ids, or integers, for the 95 % intervals over speakers; without
            them the record has no intervals.
        p_targets: the prior probabilities of a target to give a minDCF for.
        n: resamples of the intervals; 0 leaves them out.
        seed: of the resamples.

    Returns:
        ``eer``, ``threshold`` (of the EER), for each prior ``min_dcf_0.01`` and ``act_dcf_0.01``, ``cllr``,
        ``min_cllr``, ``targets``, ``nontargets``, and the intervals ``eer_interval``, ``min_dcf_0.01_interval``,
        ``cllr_interval`` as ``[low, high]``.

    Raises:
        ValueError: as `spkver.scoring.metrics.bootstrap.intervals`, or the speakers of one side only are given.
    """
    if (enroll_speakers is None) != (test_speakers is None):
        raise ValueError("give both enroll_speakers and test_speakers, or neither")
    ordered = SortedScores(scores, labels)
    eer, threshold = ordered.equal_error_rate()
    record: Record = {"eer": eer, "threshold": threshold}
    record |= {min_dcf_key(p_target): ordered.min_dcf(p_target)[0] for p_target in p_targets}
    record |= {f"act_dcf_{p_target:g}": actual_dcf(scores, labels, p_target) for p_target in p_targets}
    record |= {"cllr": cllr(scores, labels), "min_cllr": hull_cllr(ordered)}
    record |= {"targets": len(ordered.targets), "nontargets": len(ordered.nontargets)}
    if enroll_speakers is None or test_speakers is None or n == 0:
        return record
    speakers = enroll_speakers, test_speakers
    found = intervals(scores, labels, *speakers, p_targets, n=n, seed=seed)
    found["cllr"] = cllr_interval(scores, labels, *speakers, n=n, seed=seed)
    return record | {f"{name}_interval": list(ends) for name, ends in found.items()}


def format_table(rows: Sequence[tuple[str, Record]], first_column: str = "system") -> str:
    """A table of systems and their figures with 95 % intervals, for a terminal.

    Args:
        rows: (system name, record of `summary`), a minDCF for each prior that any of them has; a figure that a
            record lacks is shown as ``-``.
        first_column: the heading of the names.
    """
    found = {key for _, record in rows for key in record if _MIN_DCF.fullmatch(key)}
    min_dcfs = sorted(found, key=lambda key: float(key.removeprefix("min_dcf_")))
    priors = (key.removeprefix("min_dcf_") for key in min_dcfs)
    header = (first_column, "EER", *(f"minDCF({prior})" for prior in priors), "Cllr", "threshold")
    lines = [header, *((system, *_cells(record, min_dcfs)) for system, record in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cells(record: Record, min_dcfs: Sequence[str]) -> tuple[str, ...]:
    plain = (_cell(record, key, "{:.3f}") for key in (*min_dcfs, "cllr", "threshold"))
    return _cell(record, "eer", "{:6.2%}"), *plain


def _cell(record: Record, key: str, form: str) -> str:
    """A figure, and its interval where there is one: ``5.06 % (4.19-6.05)``."""
    if record.get(key) is None:
        return "-"
    ends = [form.format(end).strip(" %") for end in record.get(f"{key}_interval", ())]
    figure = form.format(record[key]).replace("%", " %").rjust(6)
    return figure + (f" ({'-'.join(ends)})" if ends else "")


def update_metrics_json(path: str | os.PathLike[str], trial_list: str, system: str, record: Record) -> None:
    """Put a record into ``metrics.json`` as ``{trial_list: {system: record}}``; the other records stay.

    An earlier record of the same system on the same list is replaced as a whole. Processes that do this at the same
    time wait for one another, so that no record is lost.

    Raises:
        SpkverError: the file is there but is no such JSON; it is left as it is.
    """
    path = Path(path)
    with locked(path.with_name(f".{path.name}.lock"), f"writing {path.name}", wait_seconds=_LONGEST_WAIT_SECONDS):
        metrics = read_metrics(path) if path.exists() else {}
        metrics.setdefault(trial_list, {})[system] = record
        write_json(path, metrics)


def read_metrics(path: str | os.PathLike[str]) -> dict[str, dict[str, Record]]:
    """Read ``metrics.json``: ``{trial list: {system: record}}``.

    Raises:
        SpkverError: naming the file, and the record: it cannot be read, is not JSON, or a figure is no number.
    """
    path = Path(path)
    metrics = read_json(path, _METRICS_ADVICE)
    if not isinstance(metrics, dict) or not all(isinstance(systems, dict) for systems in metrics.values()):
        raise SpkverError(f'{path}: expected {{"trial list": {{"system": {{...}}}}}}; {_METRICS_ADVICE}')
    for trial_list, systems in metrics.items():
        for system, record in systems.items():
            _check_record(f"{path}: the record of '{system}' on '{trial_list}'", record)
    return metrics


def _check_record(where: str, record: object) -> None:
    """Refuse a record whose figures are none; it may lack some, as those of earlier versions do."""
    if not isinstance(record, dict):
        raise SpkverError(f"{where} is {_shown(record)}, expected figures by name; {_METRICS_ADVICE}")
    if MADE_OF_KEY in record and not _is_made_of(record[MADE_OF_KEY]):
        raise SpkverError(
            f"{where} has {_shown(record[MADE_OF_KEY])} for '{MADE_OF_KEY}', not what was written; {_METRICS_ADVICE}"
        )
    for key, value in record.items():
        if not _FIGURE.fullmatch(key) or value is None:
            continue
        ends = value if key.endswith("_interval") else [value]
        valid = isinstance(ends, list) and len(ends) == (2 if key.endswith("_interval") else 1)
        if not valid or not all(_is_number(end) for end in ends):
            wanted = "two numbers" if key.endswith("_interval") else "a number"
            raise SpkverError(f"{where} has {_shown(value)} for '{key}', expected {wanted}; {_METRICS_ADVICE}")


def _is_made_of(value: Any) -> bool:
    try:
        return has_part(value, "data") and has_part(value, "trials")
    except (AttributeError, TypeError, KeyError):
        return False


def _is_number(value: object) -> bool:
    # Not math.isfinite(), which fails for an integer of 400 digits.
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
