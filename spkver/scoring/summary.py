"""The record of a scored trial list, the table that people see, and the file that both are kept in."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from spkver.errors import SpkverError
from spkver.scoring.bootstrap import intervals, min_dcf_key
from spkver.scoring.metrics import equal_error_rate, min_dcf
from spkver.whole_file import whole_file

P_TARGETS = (0.01, 0.05)


def summary(
    scores: ArrayLike,
    labels: ArrayLike,
    enroll_speakers: Sequence[str] | None = None,
    test_speakers: Sequence[str] | None = None,
    p_targets: Sequence[float] = (0.01, 0.05),
    n: int = 1000,
    seed: int = 0,
) -> dict[str, float | int | list[float]]:
    """The record of one system on one trial list, as ``metrics.json`` keeps it.

    Args:
        scores: (n_trials,) real numbers, those in memory rather than rounded text.
        labels: (n_trials,) 1 = target, 0 = nontarget.
        enroll_speakers: n_trials speaker ids; with ``test_speakers`` they give the 95 % intervals over
            speakers, without them the record has no intervals.
        test_speakers: n_trials speaker ids.
        p_targets: the prior probabilities of a target to give a minDCF for.
        n: resamples of the intervals; 0 leaves them out.
        seed: of the resamples.

    Returns:
        ``eer``, ``threshold`` (of the EER), ``min_dcf_0.01``, ``min_dcf_0.05``, ``targets``, ``nontargets``,
        and the intervals ``eer_interval``, ``min_dcf_0.01_interval``, ``min_dcf_0.05_interval`` as ``[low,
        high]``.

    Raises:
        ValueError: as `spkver.scoring.bootstrap.intervals`, or the speakers of one side only are given.
    """
    if (enroll_speakers is None) != (test_speakers is None):
        raise ValueError("give both enroll_speakers and test_speakers, or neither")
    eer, threshold = equal_error_rate(scores, labels)
    record = {"eer": eer, "threshold": threshold}
    record |= {min_dcf_key(p_target): min_dcf(scores, labels, p_target)[0] for p_target in p_targets}
    targets = int(np.count_nonzero(labels))
    record |= {"targets": targets, "nontargets": len(labels) - targets}
    if enroll_speakers is None or n == 0:
        return record
    found = intervals(scores, labels, enroll_speakers, test_speakers, p_targets, n=n, seed=seed)
    return record | {f"{name}_interval": list(ends) for name, ends in found.items()}


def format_table(rows: Sequence[tuple[str, dict]]) -> str:
    """A table of systems and their figures, for a terminal.

    Args:
        rows: (system name, record of `summary`); a figure that a record lacks is shown as ``-``.
    """
    header = ("system", "EER", "95 %", "minDCF(.01)", "minDCF(.05)", "threshold")
    lines = [header, *((system, *_cells(record)) for system, record in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    padded = ("   ".join(cell.ljust(width) for cell, width in zip(line, widths)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def _cells(record: dict) -> tuple[str, ...]:
    interval = record.get("eer_interval")
    return (
        f"{100 * record['eer']:5.2f} %" if "eer" in record else "-",
        f"{100 * interval[0]:5.2f} - {100 * interval[1]:5.2f}" if interval else "-",
        *(f"{record[key]:.3f}" if key in record else "-" for key in map(min_dcf_key, P_TARGETS)),
        f"{record['threshold']:.3f}" if "threshold" in record else "-",
    )


def update_metrics_json(path: str | os.PathLike, trial_list: str, system: str, record: dict) -> None:
    """Put a record into ``metrics.json`` as ``{trial_list: {system: record}}``; the other records stay.

    An earlier record of the same system on the same list is replaced as a whole.

    Raises:
        SpkverError: the file is there but is no such JSON; it is left as it is.
    """
    metrics = _read_metrics(Path(path))
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
