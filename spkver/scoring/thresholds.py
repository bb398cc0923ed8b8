"""Which threshold to deploy a system with: from its scored trials, for the errors that one can live with."""

from collections.abc import Sequence
from pathlib import Path

from spkver.errors import SpkverError
from spkver.experiment.provenance import read_record
from spkver.scoring.backend_folder import Backend
from spkver.scoring.metrics.sorted_scores import SortedScores
from spkver.scoring.outcome import Outcome
from spkver.scoring.score_files import read_scores
from spkver.scoring.stored_threshold import Threshold, threshold_text
from spkver.scoring.system_files import FUSION, System
from spkver.scoring.systems import check_can_decide, deciding_system

DEFAULT_RATES = (0.01, 0.001)


def deciding(exp: Path) -> System:
    """The system by which an experiment's model decides: the one of `spkver.load`; of a fusion, the fusion."""
    if (exp / "fusion.json").is_file():
        return System(exp, FUSION)
    if not (exp / "model").is_dir():
        return System(exp)
    return System(exp, deciding_system(Backend(exp / "model")))


def thresholds_table(data: Path, trials_file: Path | None, system: System, rates: Sequence[float]) -> Outcome:
    """Thresholds at equal error and at false acceptance rates, with the error rates that they have here.

    Args:
        data: the data directory that was scored.
        trials_file: its trial list; None: ``trials`` in it.
        system: of an experiment.
        rates: false acceptance rates, fractions.

    Raises:
        SpkverError: the list is not scored yet or has no labels, or a rate is not in [0, 1).
    """
    ordered = _scored(data, trials_file or data / "trials", system)
    points = [_equal_error(ordered), *(_at_rate(ordered, rate) for rate in rates)]
    n = len(ordered.nontargets)
    texts = [threshold_text(system.name, at) for _, at, _, _ in points]
    width = max(map(len, texts))
    lines = [f"{system.exp.name}, {system.name}: accept from this score on ({len(ordered.targets)} + {n} trials)"]
    lines.append(f"{'':<14}{'--threshold':>{width}}   strangers accepted   speakers rejected")
    for (name, _, fpr, fnr), text in zip(points, texts):
        lines.append(f"{name:<14}{text:>{width}}{fpr:>21.2%}{fnr:>20.2%}")
    # The "rule of 30" (Doddington): 30 errors tell a rate to within 30 % with 90 % confidence.
    lines += [
        f"--far {rate:g}: {n} nontarget trials are few for such a rate, {30 / rate:.0f} would tell it to within 30 %"
        for rate in rates
        if 0 < rate * n < 30
    ]
    names = ("at", "threshold", "false_acceptance_rate", "false_rejection_rate")
    told = {"experiment": str(system.exp), "system": system.name, "targets": len(ordered.targets), "nontargets": n}
    return Outcome("\n".join(lines), told | {"thresholds": [dict(zip(names, point)) for point in points]})


def save_threshold(data: Path, trials_file: Path | None, system: System, rates: Sequence[float]) -> str:
    """Keep a threshold in the model, so that it decides by it from then on; returns a line that says so.

    Args:
        data, trials_file, system: as in `thresholds_table`.
        rates: one false acceptance rate, or none for equal error.

    Raises:
        SpkverError: as `thresholds_table`; several rates; or no model decides by the system.
    """
    if len(rates) > 1:
        raise SpkverError("threshold --save: keeps one threshold; give one --far RATE, or none for equal error")
    if system.name == FUSION:
        raise SpkverError("threshold --save: a fusion has no model that could decide by it")
    check_can_decide(system.name)
    trials_file = trials_file or data / "trials"
    _refuse_earlier_back_end(data, trials_file, system)
    ordered = _scored(data, trials_file, system)
    _, value, fpr, _ = _at_rate(ordered, rates[0]) if rates else _equal_error(ordered)
    rate = f"{100 * rates[0]:g} % false acceptances" if rates else f"equal error, {100 * fpr:.2f} %,"
    source = f"{rate} on {data.resolve().name}/{trials_file.name}"
    system.backend.write_threshold(system.name, Threshold(float(value), source))
    return f"{threshold_text(system.name, value)}, {source}: saved, {system.model} decides by it from now on"


def _scored(data: Path, trials_file: Path, system: System) -> SortedScores:
    path = system.found_scores(data, trials_file)
    trials, scores = read_scores(path)
    if trials.labels is None:
        raise SpkverError(f"{path}: has no labels, as its trial list had none; without them no error can be counted")
    try:
        return SortedScores(scores, trials.labels)
    except ValueError as error:
        raise SpkverError(f"{path}: {error}") from None


def _refuse_earlier_back_end(data: Path, trials_file: Path, system: System) -> None:
    """Refuse scores that were made before what makes them was fitted anew: their threshold would be another's."""
    record = read_record(system.scores_record(data, trials_file), "model") or {}
    then, now = record.get("backend") or {}, system.backend.fingerprint()
    changed = next((name for name in system.backend.makers(system.name) if then.get(name) != now[name]), None)
    if changed is not None:
        raise SpkverError(
            f"{system.scores(data, trials_file)}: are scores from before {changed} was fitted anew; "
            f"run `spkver score {data} {system.exp} --trials {trials_file} --system {system.name}` again"
        )


def _equal_error(ordered: SortedScores) -> tuple[str, float, float, float]:
    eer, threshold = ordered.equal_error_rate()
    return "equal error", threshold, eer, eer


def _at_rate(ordered: SortedScores, rate: float) -> tuple[str, float, float, float]:
    if not 0 <= rate < 1:
        raise SpkverError(f"--far {rate:g}: a false acceptance rate is a fraction from 0 to below 1, as 0.01")
    return f"--far {rate:g}", *ordered.threshold_at_false_acceptance(rate)
