"""Which threshold to deploy a system with: from its scored trials, for the errors that one can live with."""

from collections.abc import Sequence
from pathlib import Path

from spkver.errors import SpkverError
from spkver.scoring.scores import read_scores
from spkver.scoring.sorted_scores import SortedScores
from spkver.systems import System


def thresholds_table(data: Path, trials_file: Path | None, system: System, rates: Sequence[float]) -> str:
    """Thresholds at equal error and at false acceptance rates, with the error rates that they have here.

    Args:
        data: the data directory that was scored.
        trials_file: its trial list; None: ``trials`` in it.
        system: of an experiment.
        rates: false acceptance rates, fractions.

    Raises:
        SpkverError: the list is not scored yet or has no labels, or a rate is not in [0, 1).
    """
    trials_file = trials_file or data / "trials"
    path = system.found_scores(data, trials_file)
    trials, scores = read_scores(path)
    if trials.labels is None:
        raise SpkverError(f"{path}: has no labels, as its trial list had none; without them no error can be counted")
    wrong = next((rate for rate in rates if not 0 <= rate < 1), None)
    if wrong is not None:
        raise SpkverError(f"--far {wrong:g}: a false acceptance rate is a fraction from 0 to below 1, as 0.01")
    try:
        ordered = SortedScores(scores, trials.labels)
    except ValueError as error:
        raise SpkverError(f"{path}: {error}") from None
    eer, threshold = ordered.equal_error_rate()
    points = [("equal error", threshold, eer, eer)]
    points += [(f"--far {rate:g}", *ordered.threshold_at_false_acceptance(rate)) for rate in rates]
    n = len(ordered.nontargets)
    lines = [f"{system.exp.name}, {system.name}: accept from this score on ({len(ordered.targets)} + {n} trials)"]
    lines.append(f"{'':<14}{'threshold':>10}   strangers accepted   speakers rejected")
    lines += [f"{name:<14}{at:>10.4f}{fpr:>21.2%}{fnr:>20.2%}" for name, at, fpr, fnr in points]
    # The "rule of 30" (Doddington): 30 errors tell a rate to within 30 % with 90 % confidence.
    lines += [
        f"--far {rate:g}: {n} nontarget trials are few for such a rate, {30 / rate:.0f} would tell it to within 30 %"
        for rate in rates
        if 0 < rate * n < 30
    ]
    return "\n".join(lines)
