"""The record of a scored trial list, the table that people see, and the file that both are kept in."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from spkver.errors import SpkverError
from spkver.files import locked
from spkver.scoring.bootstrap import cllr_interval, intervals, min_dcf_key
from spkver.scoring.cllr import cllr, hull_cllr
from spkver.scoring.metrics import actual_dcf
from spkver.scoring.sorted_scores import SortedScores
from spkver.whole_file import whole_file

P_TARGETS = (0.01, 0.05)
_LONGEST_WAIT_SECONDS = 60.0  # for other processes to write their records, each of which takes milliseconds


def summary(
    scores: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | np.ndarray | None = None,
    test_speakers: Sequence[str] | np.ndarray | None = None,
    p_targets: Sequence[float] = (0.01, 0.05),
    n: int = 1000,
    seed: int = 0,
) -> dict[str, float | int | list[float]]:
    """The record of one system on one trial list, as ``metrics.json`` keeps it.

    Cllr and actual DCF take the scores for natural log-likelihood ratios: what a calibrated system gives, and what
    shows how far another one's scores are from that.

    Args:
        scores: (n_trials,) real numbers, those in memory rather than rounded text.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        enroll_speakers: n_trials speaker ids, or integers; with ``test_speakers`` they give the 95 % intervals
            over speakers, without them the record has no intervals.
        test_speakers: n_trials speaker ids.
        p_targets: the prior probabilities of a target to give a minDCF for.
        n: resamples of the intervals; 0 leaves them out.
        seed: of the resamples.

    Returns:
        ``eer``, ``threshold`` (of the EER), for each prior ``min_dcf_0.01`` and ``act_dcf_0.01``, ``cllr``,
        ``min_cllr``, ``targets``, ``nontargets``, and the intervals ``eer_interval``, ``min_dcf_0.01_interval``,
        ``cllr_interval`` as ``[low, high]``.

    Raises:
        ValueError: as `spkver.scoring.bootstrap.intervals`, or the speakers of one side only are given.
    """
    if (enroll_speakers is None) != (test_speakers is None):
        raise ValueError("give both enroll_speakers and test_speakers, or neither")
    ordered = SortedScores(scores, labels)
    eer, threshold = ordered.equal_error_rate()
    record = {"eer": eer, "threshold": threshold}
    record |= {min_dcf_key(p_target): ordered.min_dcf(p_target)[0] for p_target in p_targets}
    record |= {f"act_dcf_{p_target:g}": actual_dcf(scores, labels, p_target) for p_target in p_targets}
    record |= {"cllr": cllr(scores, labels), "min_cllr": hull_cllr(ordered)}
    record |= {"targets": len(ordered.targets), "nontargets": len(ordered.nontargets)}
    if enroll_speakers is None or n == 0:
        return record
    speakers = enroll_speakers, test_speakers
    found = intervals(scores, labels, *speakers, p_targets, n=n, seed=seed)
    found["cllr"] = cllr_interval(scores, labels, *speakers, n=n, seed=seed)
    return record | {f"{name}_interval": list(ends) for name, ends in found.items()}


def format_table(rows: Sequence[tuple[str, dict]], first_column: str = "system") -> str:
    """A table of systems and their figures with 95 % intervals, for a terminal.

    Args:
        rows: (system name, record of `summary`); a figure that a record lacks is shown as ``-``.
        first_column: the heading of the names.
    """
    header = (first_column, "EER", "minDCF(.01)", "minDCF(.05)", "Cllr", "threshold")
    lines = [header, *((system, *_cells(record)) for system, record in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cells(record: dict) -> tuple[str, ...]:
    plain = (_cell(record, key, "{:.3f}") for key in (*map(min_dcf_key, P_TARGETS), "cllr", "threshold"))
    return _cell(record, "eer", "{:6.2%}"), *plain


def _cell(record: dict, key: str, form: str) -> str:
    """A figure, and its interval where there is one: ``5.06 % (4.19-6.05)``."""
    if record.get(key) is None:
        return "-"
    ends = [form.format(end).strip(" %") for end in record.get(f"{key}_interval", ())]
    figure = form.format(record[key]).replace("%", " %").rjust(6)
    return figure + (f" ({'-'.join(ends)})" if ends else "")


def update_metrics_json(path: str | os.PathLike, trial_list: str, system: str, record: dict) -> None:
    """Put a record into ``metrics.json`` as ``{trial_list: {system: record}}``; the other records stay.

    An earlier record of the same system on the same list is replaced as a whole. Processes that do this at the same
    time wait for one another, so that no record is lost.

    Raises:
        SpkverError: the file is there but is no such JSON; it is left as it is.
    """
    path = Path(path)
    with locked(path.with_name(f".{path.name}.lock"), f"writing {path.name}", wait_seconds=_LONGEST_WAIT_SECONDS):
        metrics = _read_metrics(path)
        metrics.setdefault(trial_list, {})[system] = record
        text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
        with whole_file(path) as file:
            file.write(text + "\n")


def _read_metrics(path: Path) -> dict[str, dict]:
    if not path.exists():
        return {}
    try:
        metrics = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise SpkverError(f"{path}:{error.lineno}: not JSON ({error.msg}); mend or remove the file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpkverError(f"{path}: cannot be read ({error}); mend or remove the file") from None
    if not isinstance(metrics, dict) or not all(isinstance(systems, dict) for systems in metrics.values()):
        raise SpkverError(f'{path}: expected {{"trial list": {{"system": {{...}}}}}}; mend or remove the file')
    return metrics
