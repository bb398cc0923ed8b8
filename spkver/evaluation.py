"""From scores to figures: metrics of a system, of another toolkit's scores, and of two systems side by side."""

import json
from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory, read_pairs
from spkver.errors import SpkverError
from spkver.provenance import data_name
from spkver.schema import Evaluation
from spkver.scoring.comparison import compare
from spkver.scoring.conditions import Column, by_condition, column, lesser, shared
from spkver.scoring.foreign_scores import match_scores
from spkver.scoring.scores import read_scores
from spkver.scoring.summary import format_table, summary, update_metrics_json
from spkver.scoring.trial_table import is_table, read_trial_table
from spkver.scoring.trials import Trials, read_trials
from spkver.systems import System


def evaluate_scores(
    directory: DataDirectory, trials_file: Path | None, system: System, settings: Evaluation, by: list[str]
) -> str:
    """Metrics of a system's score file into ``metrics.json``; returns them as a table.

    Args:
        directory: the data directory that was scored.
        trials_file: its trial list; None: ``trials`` in it.
        system: of an experiment.
        settings: priors and resamples.
        by: conditions to break the trials down by: ``gender``, ``duration``, or a column of a trial table.
    """
    trials_file = trials_file or directory.path / "trials"
    path = system.found_scores(directory.path, trials_file)
    trials, scores = read_scores(path)
    if trials.labels is None:
        raise SpkverError(f"{path}: has no labels, as its trial list had none; without them nothing can be counted")
    speaker_of = {utterance.id: utterance.speaker for utterance in directory.utterances}
    record = _summary(path, trials, scores, speaker_of, settings)
    update_metrics_json(
        system.exp / "metrics.json", f"{data_name(directory.path)}/{trials_file.name}", system.name, record
    )
    parts = [_counts(record) + "\n" + format_table([(system.name, record)])]
    columns = {title: _condition(title, directory, trials, trials_file) for title in by}
    return "\n\n".join(parts + _breakdown(path, scores, trials.labels, columns, settings))


def evaluate_foreign(
    scores_file: Path, trials_file: Path, utt2spk: Path | None, settings: Evaluation, by: list[str]
) -> str:
    """Metrics of a score file of any toolkit; returns how it was matched to the trials, and a table.

    Args:
        scores_file: see `spkver.scoring.foreign_scores`.
        trials_file: a trial list or table with labels.
        utt2spk: ``utterance speaker`` a line, for intervals over speakers.
        settings: priors and resamples.
        by: columns of a trial table to break the trials down by.
    """
    trials = read_trials(trials_file)
    if trials.labels is None:
        raise SpkverError(f"{trials_file}: has no labels; without them nothing can be counted")
    matched = match_scores(scores_file, trials)
    speaker_of = None if utt2spk is None else read_pairs(utt2spk)
    record = _summary(scores_file, trials, matched.scores, speaker_of, settings)
    parts = [matched.report(), _counts(record) + "\n" + format_table([(scores_file.name, record)])]
    columns = {title: _table_column(title, trials_file) for title in by}
    return "\n\n".join(parts + _breakdown(scores_file, matched.scores, trials.labels, columns, settings))


def compare_systems(
    directory: DataDirectory, trials_file: Path | None, a: System, b: System, settings: Evaluation
) -> str:
    """Is system b better than a on the same trials? A table of differences with their intervals."""
    trials_file = trials_file or directory.path / "trials"
    paths = [system.found_scores(directory.path, trials_file) for system in (a, b)]
    (trials, scores_a), (others, scores_b) = map(read_scores, paths)
    if (trials.enroll, trials.test) != (others.enroll, others.test):
        raise SpkverError(f"{paths[1]}: holds other trials than {paths[0]}; score both lists again")
    if trials.labels is None:
        raise SpkverError(f"{paths[0]}: has no labels; without them nothing can be compared")
    if not settings.bootstrap:
        raise SpkverError("compare: scoring.bootstrap is 0, and a comparison needs resamples; set it, as to 1000")
    speaker_of = {utterance.id: utterance.speaker for utterance in directory.utterances}
    speakers = _speakers(paths[0], trials, speaker_of)
    try:
        found = compare(scores_a, scores_b, trials.labels, *speakers, settings.p_targets, settings.bootstrap)
    except ValueError as error:
        raise SpkverError(f"{paths[0]}: {error}") from None
    lines = [f"a: {a.exp.name}, {a.name}", f"b: {b.exp.name}, {b.name}", ""]
    lines.append(f"{'figure':<14}{'a':>9}{'b':>9}{'b - a':>10}   {'95 % of b - a':<20}{'b better':>9}{'p':>8}")
    for name, d in found.items():
        interval = f"{d.low:+.4f} .. {d.high:+.4f}"
        figures = f"{d.a:>9.4f}{d.b:>9.4f}{d.difference:>+10.4f}"
        lines.append(f"{name:<14}{figures}   {interval:<20}{d.b_better:>8.0%} {d.p_value:>7.3f}")
    return "\n".join(lines)


def results_table(exps: list[Path]) -> str:
    """What experiments reached, one table for each trial list; the untrained encoder once, first.

    Raises:
        SpkverError: an experiment has no metrics yet.
    """
    tables: dict[str, list[tuple[str, dict]]] = {}
    for exp in exps:
        path = exp / "metrics.json"
        if not path.is_file():
            raise SpkverError(f"{path}: there are no metrics yet; run `spkver evaluate`")
        for trials, systems in json.loads(path.read_text(encoding="utf-8")).items():
            rows = tables.setdefault(trials, [])
            # Two heads of one configuration begin with the same encoder: one floor is enough.
            seen = [record for name, record in rows if name.endswith("untrained")]
            rows += [
                (_row_name(exp, system, exps), record)
                for system, record in systems.items()
                if system != "untrained" or record not in seen
            ]
    parts = []
    for trials, rows in tables.items():
        rows.sort(key=lambda row: not row[0].endswith("untrained"))
        parts.append(f"{trials}: {_counts(rows[0][1])}\n{format_table(rows)}")
    return "\n\n".join(parts)


def _row_name(exp: Path, system: str, exps: list[Path]) -> str:
    return system if len(exps) == 1 else f"{exp.name}, {system}"


def _counts(record: dict) -> str:
    return f"{record['targets']} target, {record['nontargets']} nontarget trials"


def _summary(
    path: Path, trials: Trials, scores: np.ndarray, speaker_of: dict[str, str] | None, settings: Evaluation
) -> dict[str, float | int | list[float]]:
    speakers = () if speaker_of is None else _speakers(path, trials, speaker_of)
    try:
        return summary(scores, trials.labels, *speakers, p_targets=settings.p_targets, n=settings.bootstrap)
    except ValueError as error:
        raise SpkverError(f"{path}: {error}") from None


def _speakers(path: Path, trials: Trials, speaker_of: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The speaker of each side of each trial, as numbers."""
    names = trials.names.to_pylist()
    stranger = next((name for name in names if name not in speaker_of), None)
    if stranger is not None:
        raise SpkverError(f"{path}: the speaker of '{stranger}' is not known; its utterance is in no utt2spk")
    _, number = np.unique([speaker_of[name] for name in names], return_inverse=True)
    return number[trials.enroll_index], number[trials.test_index]


def _condition(title: str, directory: DataDirectory, trials: Trials, trials_file: Path) -> Column:
    """The condition of each trial under this title, from what the data directory or a trial table knows."""
    if is_table(trials_file):
        return _table_column(title, trials_file)
    index = trials.enroll_index, trials.test_index
    names = trials.names.to_pylist()
    if title == "duration" and directory.durations:
        return column(lesser(np.array([directory.durations[name] for name in names]), *index))
    if title == "gender" and directory.genders:
        speaker_of = {utterance.id: utterance.speaker for utterance in directory.utterances}
        return shared(np.array([directory.genders.get(speaker_of[name], "unknown") for name in names]), *index)
    raise SpkverError(
        f"--by {title}: {directory.path} knows no such condition; there are gender (spk2gender), duration (utt2dur), "
        "and the columns of a .csv or .tsv trial table"
    )


def _table_column(title: str, trials_file: Path) -> Column:
    known = read_trial_table(trials_file).conditions if is_table(trials_file) else {}
    if title not in known:
        there = ", ".join(known) or "none"
        raise SpkverError(f"--by {title}: {trials_file} has no such column (columns of conditions: {there})")
    try:
        return column(np.asarray(known[title], str if known[title].dtype == object else None))
    except ValueError as error:
        raise SpkverError(f"--by {title}: {error}") from None


def _breakdown(
    path: Path, scores: np.ndarray, labels: np.ndarray, columns: dict[str, Column], settings: Evaluation
) -> list[str]:
    """A table for each column of conditions."""
    found = by_condition(scores, labels, columns, settings.p_targets)
    tables = []
    for title, records in found.items():
        rows = [(f"{name}  ({r['targets']} + {r['nontargets']} trials)", r) for name, r in records.items()]
        tables.append(format_table(rows, title))
    return tables
