"""What the report says of scored systems: figures, curves, counts at thresholds, trials most wrong, differences."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.provenance import read_record
from spkver.pictures.detection import on_axes, operating_points, score_axis, thinned
from spkver.pictures.page import numbers, packed
from spkver.pictures.run import Run
from spkver.pictures.run_data import Scored
from spkver.scoring.evaluation import compare_systems
from spkver.scoring.metrics import det_points, equal_error_rate
from spkver.scoring.metrics.summary import MADE_OF_KEY, read_metrics, summary
from spkver.scoring.system_files import System

# Points of a curve: more cannot be told apart on a page.
_DET_POINTS = 300
_HISTOGRAM_BINS = 80
# Places of the threshold's slider less one.
_STEPS = 1000
_WORST = 8
# Resamples of a difference times trials: a page of long lists must not take hours.
_MOST_RESAMPLED_TRIALS = 50_000_000
_FEWEST_RESAMPLES = 200
UNTRAINED = "untrained"


def systems_of(runs: Mapping[str, Run], note: Callable[[str], None]) -> list[dict]:
    """Every system of every run: its record, and what is drawn of it where its scores are there.

    Args:
        runs: by their names in the page.
        note: is told what could not be made and why.

    Returns:
        One dictionary a system, as the page has it; besides ``"folder"``, the data directory that it was scored on,
        or None.
    """
    found: list[dict] = []
    for index, (name, run) in enumerate(runs.items()):
        records = _noted(note, f"no metrics of {name}: ", lambda run=run: _records(run)) or {}
        scored = _noted(note, f"no scores of {name}: ", lambda run=run: run.scored()) or []
        by_name = {(part.list, part.system): part for part in scored}
        for key in dict.fromkeys([*records, *by_name]):
            part = by_name.get(key)
            record = records.get(key) or _record_of(part, run)
            system = {"run": index, "list": key[0], "name": key[1], "axis": score_axis(key[1]), "record": record}
            made_of = _made_of(key, record, run)
            system |= {"made_of": made_of, "folder": _scored_data(made_of, run)}
            found.append(system | ({} if part is None else {"curves": _curves(part, run)}))
    _number_kinds(found)
    _mark_best(found)
    for system in found:
        _noted(
            note,
            f"no difference of {list(runs)[system['run']]}, {system['name']}: ",
            lambda system=system: _add_difference(system, found, runs),
        )
    # Paths are for the comparison alone, and no matter of a page's readers.
    for system in found:
        del system["made_of"]
        system["record"] = {key: value for key, value in system["record"].items() if key != MADE_OF_KEY}
    return found


def _made_of(key: tuple[str, str], record: dict, run: Run) -> dict | None:
    """On what data and which list a system was scored: what lies beside its scores, or its record."""
    trials, name = key
    folder, _, file = trials.rpartition("/")
    beside = run.folder / "scores" / folder / "made_of" / f"{file}-{name}.json"
    return read_record(beside, "data", "trials") or record.get(MADE_OF_KEY)


def _scored_data(made_of: dict | None, run: Run) -> Path | None:
    """The data directory that a system was scored on, as long as it is there."""
    folder = None if made_of is None else run.experiment.recorded_path(made_of["data"]["path"])
    return folder if folder is not None and folder.is_dir() else None


def _records(run: Run) -> dict[tuple[str, str], dict]:
    path = run.experiment.metrics_file
    if not path.is_file():
        raise SpkverError(f"{path}: there are no metrics yet; run `spkver evaluate`")
    return {
        (trials, system): record for trials, systems in read_metrics(path).items() for system, record in systems.items()
    }


def _record_of(part: Scored | None, run: Run) -> dict:
    """The figures of scores that were not evaluated, without intervals."""
    return {} if part is None else summary(part.scores, part.labels, p_targets=run.config.scoring.p_targets)


def _curves(part: Scored, run: Run) -> dict:
    scores, is_target = np.asarray(part.scores, float), np.asarray(part.labels) == 1
    low, high = float(scores.min()), float(scores.max())
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
    thresholds = np.linspace(low, high, _STEPS + 1)
    targets, nontargets = np.sort(scores[is_target]), np.sort(scores[~is_target])
    _, threshold = equal_error_rate(scores, part.labels)
    return {
        "det": _deviates(*thinned(*det_points(scores, part.labels)[:2], _DET_POINTS), part.labels),
        "points": [
            (what, *(axis[0] for axis in _deviates([fpr], [fnr], part.labels)))
            for what, fpr, fnr in operating_points(scores, part.labels, run.config.scoring.p_targets)
        ],
        "low": low,
        "high": high,
        "n_steps": _STEPS,
        "n_targets": len(targets),
        "n_nontargets": len(nontargets),
        # A score at the threshold is accepted.
        "accepted": packed(len(nontargets) - np.searchsorted(nontargets, thresholds, "left"), "u4"),
        "refused": packed(np.searchsorted(targets, thresholds, "left"), "u4"),
        "equal_error_step": round((threshold - low) / (high - low) * _STEPS),
        "targets": numbers(np.histogram(scores[is_target], edges, density=True)[0]),
        "nontargets": numbers(np.histogram(scores[~is_target], edges, density=True)[0]),
        "worst": {"nontargets": _worst(part, ~is_target, -scores), "targets": _worst(part, is_target, scores)},
    }


def _worst(part: Scored, chosen: np.ndarray, order: np.ndarray) -> list[tuple[str, str, float]]:
    """The chosen trials that come first in an order: enrolled, tested, score."""
    index = np.flatnonzero(chosen)
    index = index[np.argsort(order[index], kind="stable")[:_WORST]]
    return [(*part.trials.pair(int(trial)), float(f"{part.scores[trial]:.5g}")) for trial in index]


def _deviates(fpr, fnr, labels: np.ndarray) -> list[list]:
    return [numbers(values) for values in on_axes(fpr, fnr, labels)]


def _number_kinds(systems: list[dict]) -> None:
    """The same number for the same system of every run: its dash in the charts."""
    names = list(dict.fromkeys(system["name"] for system in systems if system["name"] != UNTRAINED))
    for system in systems:
        system["kind"] = names.index(system["name"]) if system["name"] in names else 0


def _mark_best(systems: list[dict]) -> None:
    """The lowest EER on the first list; an untrained encoder is no result."""
    rated = [one for one in systems if one["list"] == systems[0]["list"] and one["name"] != UNTRAINED]
    rated = [one for one in rated if one["record"].get("eer") is not None]
    if rated:
        min(rated, key=lambda one: one["record"]["eer"])["best"] = True


def _add_difference(system: dict, systems: list[dict], runs: Mapping[str, Run]) -> None:
    """How much lower or higher the EER is than the same system's of the first run, or than the first run's cosine."""
    if "curves" not in system or system["name"] == UNTRAINED:
        return
    same_list = [one for one in systems if one["list"] == system["list"] and one["run"] == 0 and "curves" in one]
    wanted = system["name"] if system["run"] else "cosine"
    other = next((one for one in same_list if one["name"] == wanted), None)
    if other is None or other is system:
        return
    names = list(runs)
    run, first = runs[names[system["run"]]], runs[names[0]]
    if system["folder"] is None:
        raise SpkverError(f"{run.folder}/scores: it is not known on what data, or they are not there any more")
    trials = run.experiment.recorded_path(system["made_of"]["trials"]["path"])
    n_trials = system["curves"]["n_targets"] + system["curves"]["n_nontargets"]
    resamples = min(run.config.scoring.bootstrap, max(_FEWEST_RESAMPLES, _MOST_RESAMPLED_TRIALS // n_trials))
    compared = compare_systems(
        read_data_directory(system["folder"], check_files=False),
        trials,
        System(first.folder, other["name"]),
        System(run.folder, system["name"]),
        run.config.scoring.model_copy(update={"bootstrap": resamples}),
    )
    eer = compared.record["figures"]["eer"]
    to = f"{names[0]}, {other['name']}" if len(names) > 1 else other["name"]
    system["difference"] = {key: eer[key] for key in ("difference", "low", "high")} | {"to": to}


def _noted(note: Callable[[str], None], begin: str, make: Callable):
    """What ``make`` gives; None where it cannot, which is said."""
    try:
        return make()
    except SpkverError as error:
        note(f"{begin}{error}")
        return None
