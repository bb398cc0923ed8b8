"""From scores to figures: metrics of a system, of another toolkit's scores, and of two systems side by side."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spkver.config.schema import Evaluation
from spkver.data.directory import DataDirectory, read_pairs
from spkver.data.trial_table import is_table, read_trial_table
from spkver.data.trials import Trials, read_trials
from spkver.errors import SpkverError
from spkver.experiment.provenance import data_name, read_record, same_data
from spkver.scoring.backends.enrolment import kept_models
from spkver.scoring.external_scores import match_scores
from spkver.scoring.metrics.comparison import compare
from spkver.scoring.metrics.conditions import Column, by_condition, column, lesser, shared
from spkver.scoring.metrics.summary import (
    MADE_OF_KEY,
    Record,
    format_table,
    read_metrics,
    summary,
    update_metrics_json,
)
from spkver.scoring.outcome import Outcome
from spkver.scoring.score_files import read_scores
from spkver.scoring.system_files import System

# Of fewer, an interval over resampled speakers says little.
FEW_SPEAKERS = 20


def evaluate_scores(
    directory: DataDirectory, trials_file: Path | None, system: System, settings: Evaluation, by: list[str]
) -> Outcome:
    """Metrics of a system's score file, into ``metrics.json``, too.

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
    known = _Known.of(directory, path)
    record = _summary(path, trials, scores, known, settings)
    # By which `spkver results` tells two lists of one name apart.
    made_of = read_record(system.scores_record(directory.path, trials_file), "data", "trials")
    if made_of is not None:
        record[MADE_OF_KEY] = {part: made_of[part] for part in ("data", "trials")}
    list_name = f"{data_name(directory.path)}/{trials_file.name}"
    update_metrics_json(system.exp / "metrics.json", list_name, system.name, record)
    columns = {title: _condition(title, known, trials, trials_file) for title in by}
    found = by_condition(scores, trials.labels, columns, settings.p_targets)
    told = {"experiment": str(system.exp), "system": system.name, "trials": list_name, "figures": record, "by": found}
    return Outcome("\n\n".join([_table([(system.name, record)]), *_breakdown(found)]), told)


def evaluate_foreign(
    scores_file: Path, trials_file: Path, utt2spk: Path | None, settings: Evaluation, by: list[str]
) -> Outcome:
    """Metrics of a score file of any toolkit, and how it was matched to the trials.

    Args:
        scores_file: see `spkver.scoring.external_scores`.
        trials_file: a trial list or table with labels.
        utt2spk: ``utterance speaker`` a line, for intervals over speakers.
        settings: priors and resamples.
        by: columns of a trial table to break the trials down by.
    """
    trials = read_trials(trials_file)
    if trials.labels is None:
        raise SpkverError(f"{trials_file}: has no labels; without them nothing can be counted")
    matched = match_scores(scores_file, trials)
    known: _Known | None = None
    if utt2spk is not None:
        speaker_of = read_pairs(utt2spk)
        known = _Known(utt2spk, speaker_of, speaker_of)
    record = _summary(scores_file, trials, matched.scores, known, settings)
    columns = {title: _table_column(title, trials_file) for title in by}
    found = by_condition(matched.scores, trials.labels, columns, settings.p_targets)
    told = {"scores": str(scores_file), "trials": str(trials_file), "matched": matched.report()}
    parts = [matched.report(), _table([(scores_file.name, record)]), *_breakdown(found)]
    return Outcome("\n\n".join(parts), told | {"figures": record, "by": found})


def compare_systems(
    directory: DataDirectory, trials_file: Path | None, a: System, b: System, settings: Evaluation
) -> Outcome:
    """Is system b better than a on the same trials? Differences with their intervals."""
    trials_file = trials_file or directory.path / "trials"
    paths = [system.found_scores(directory.path, trials_file) for system in (a, b)]
    (trials, scores_a), (others, scores_b) = map(read_scores, paths)
    if (trials.enroll, trials.test) != (others.enroll, others.test):
        raise SpkverError(f"{paths[1]}: holds other trials than {paths[0]}; score both lists again")
    if trials.labels is None:
        raise SpkverError(f"{paths[0]}: has no labels; without them nothing can be compared")
    if not settings.bootstrap:
        raise SpkverError("compare: scoring.bootstrap is 0, and a comparison needs resamples; set it, as to 1000")
    speakers = _speakers(paths[0], trials, _Known.of(directory, paths[0]))
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
    n_speakers = len(np.unique(speakers))
    told: Record = {name: {"experiment": str(one.exp), "system": one.name} for name, one in (("a", a), ("b", b))}
    told |= {"speakers": n_speakers, "figures": {name: d._asdict() for name, d in found.items()}}
    return Outcome("\n".join([*lines, *_few_speakers(n_speakers)]), told)


def results_table(exps: list[Path]) -> Outcome:
    """What experiments reached, one table for each trial list; the untrained encoder once, first.

    Lists of one name that differ, or were scored on other recordings, have a table each. Records of earlier versions
    do not say what they were made of and go by the name alone.

    Raises:
        SpkverError: an experiment has no metrics yet.
    """
    tables: list[_Results] = []
    for exp in exps:
        path = exp / "metrics.json"
        if not path.is_file():
            raise SpkverError(f"{path}: there are no metrics yet; run `spkver evaluate`")
        for trials, systems in read_metrics(path).items():
            for system, record in systems.items():
                made_of = record.pop(MADE_OF_KEY, None)
                table = next((table for table in tables if table.is_of(trials, made_of)), None)
                if table is None:
                    table = _Results(trials, made_of)
                    tables.append(table)
                table.made_of = table.made_of or made_of
                # Two heads of one configuration begin with the same encoder: one floor is enough.
                if system != "untrained" or record not in [r for name, r in table.rows if name.endswith("untrained")]:
                    table.rows.append((_row_name(exp, system, exps), record))
    names = [table.trials for table in tables]
    parts = []
    for table in tables:
        table.rows.sort(key=lambda row: not row[0].endswith("untrained"))
        where = f" ({table.made_of['trials']['path']})" if names.count(table.trials) > 1 and table.made_of else ""
        parts.append(f"{table.trials}{where}: {_table(table.rows)}")
    told = [{"trials": table.trials, "systems": dict(table.rows)} for table in tables]
    return Outcome("\n\n".join(parts), {"tables": told})


@dataclass
class _Results:
    """The systems that were scored on one trial list.

    Attributes:
        trials: the name of the list in ``metrics.json``.
        made_of: the data directory and the list, see `spkver.experiment.provenance`; None where no record says it.
        rows: (row's name, record) of each system.
    """

    trials: str
    made_of: dict | None
    rows: list[tuple[str, dict]] = field(default_factory=list)

    def is_of(self, trials: str, made_of: dict | None) -> bool:
        """Whether a record belongs into this table."""
        if trials != self.trials:
            return False
        if made_of is None or self.made_of is None:
            return True
        same_list = made_of["trials"]["digest"] == self.made_of["trials"]["digest"]
        return same_list and same_data(made_of["data"], self.made_of["data"])


def _row_name(exp: Path, system: str, exps: list[Path]) -> str:
    return system if len(exps) == 1 else f"{exp.name}, {system}"


def _table(rows: list[tuple[str, dict]]) -> str:
    """How many trials there are, the figures of some systems on them, and what a reader should know of these."""
    record = rows[0][1]
    lines = [
        f"{record.get('targets', '?')} target, {record.get('nontargets', '?')} nontarget trials",
        format_table(rows),
    ]
    for name, found in rows:
        if (found.get("eer") or 0) > 0.5:
            lines.append(f"{name}: an EER above 50 %; is lower more alike, as of distances? Then change all signs")
    with_intervals = [found["speakers"] for _, found in rows if "eer_interval" in found and "speakers" in found]
    return "\n".join([*lines, *_few_speakers(min(with_intervals, default=FEW_SPEAKERS))])


def _few_speakers(n: int) -> list[str]:
    """A line about intervals over few speakers, or none."""
    if n >= FEW_SPEAKERS:
        return []
    return [f"the intervals are over {n} speakers only, so they are rough; {FEW_SPEAKERS} or more are wanted"]


def _summary(path: Path, trials: Trials, scores: np.ndarray, known: "_Known | None", settings: Evaluation) -> Record:
    enroll: np.ndarray | None = None
    test: np.ndarray | None = None
    n_speakers = {}
    if known is not None and settings.bootstrap > 0:
        enroll, test = _speakers(path, trials, known)
        n_speakers = {"speakers": len(np.unique([enroll, test]))}
    try:
        record = summary(scores, trials.known_labels, enroll, test, settings.p_targets, settings.bootstrap)
    except ValueError as error:
        raise SpkverError(f"{path}: {error}") from None
    return record | n_speakers


@dataclass(frozen=True)
class _Known:
    """What is known of the names in trials.

    Attributes:
        source: the data directory or list that says so.
        enroll: name -> speaker, of what is enrolled.
        test: utterance -> speaker; the same dictionary where single utterances are enrolled.
        genders: speaker -> gender.
        enroll_seconds, test_seconds: name -> seconds.
    """

    source: Path
    enroll: dict[str, str]
    test: dict[str, str]
    genders: dict[str, str] = field(default_factory=dict)
    enroll_seconds: dict[str, float] = field(default_factory=dict)
    test_seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: DataDirectory, scores: Path) -> "_Known":
        """From a data directory, and from the models that a score file is of.

        Raises:
            SpkverError: a model has utterances of two speakers, or one that is not in the directory.
        """
        speakers = {utterance.id: utterance.speaker for utterance in directory.utterances}
        seconds = directory.durations
        models = kept_models(scores)
        if not models:
            return cls(directory.path, speakers, speakers, directory.genders, seconds, seconds)
        enroll: dict[str, str] = {}
        for model, utts in models.items():
            if not all(utt in speakers for utt in utts):
                raise SpkverError(f"{scores}: model '{model}' has an utterance that is not in {directory.path}")
            found = list(dict.fromkeys(speakers[utt] for utt in utts))
            if len(found) != 1:
                raise SpkverError(f"{scores}: model '{model}' has utterances of '{found[0]}' and of '{found[1]}'")
            enroll[model] = found[0]
        complete = {model: utts for model, utts in models.items() if all(utt in seconds for utt in utts)}
        enrolled_seconds = {model: sum(seconds[utt] for utt in utts) for model, utts in complete.items()}
        return cls(directory.path, enroll, speakers, directory.genders, enrolled_seconds, seconds)


def _speakers(path: Path, trials: Trials, known: _Known) -> tuple[np.ndarray, np.ndarray]:
    """The speaker of each side of each trial, as numbers."""
    sides = [
        _of_names(path, trials, side, of, "speaker") for side, of in (("enroll", known.enroll), ("test", known.test))
    ]
    _, numbers = np.unique(np.concatenate(sides), return_inverse=True)
    enroll, test = np.split(numbers, 2)
    return enroll[trials.enroll_index], test[trials.test_index]


def _of_names(path: Path, trials: Trials, side: str, known: dict, what: str) -> np.ndarray:
    """(n_names,) what is known of the names on one side; of names on the other side only, anything.

    Raises:
        SpkverError: it is not known of a name.
    """
    names = trials.names.to_pylist()
    index = trials.enroll_index if side == "enroll" else trials.test_index
    used = np.bincount(index, minlength=len(names)) > 0
    stranger = next((name for name, is_used in zip(names, used) if is_used and name not in known), None)
    if stranger is not None:
        raise SpkverError(
            f"{path}: the {what} of '{stranger}' is not known; list its utterance in utt2spk and wav.scp, "
            "or score models of several utterances by `spkver score --enrolment`"
        )
    anything = next(iter(known.values()))
    return np.array([known.get(name, anything) for name in names])


def _condition(title: str, known: _Known, trials: Trials, trials_file: Path) -> Column:
    """The condition of each trial under this title, from what the data directory or a trial table knows."""
    if is_table(trials_file):
        return _table_column(title, trials_file)
    # The values of both sides stand one behind the other.
    index = trials.enroll_index, trials.test_index + len(trials.names)
    if title == "duration" and known.test_seconds:
        seconds = (("enroll", known.enroll_seconds), ("test", known.test_seconds))
        values = np.concatenate([_of_names(trials_file, trials, *side, title) for side in seconds])
        return column(lesser(values, *index))
    if title == "gender" and known.genders:
        both = (("enroll", known.enroll), ("test", known.test))
        speakers = np.concatenate([_of_names(trials_file, trials, *side, title) for side in both])
        return shared(np.array([known.genders.get(speaker, "unknown") for speaker in speakers.tolist()]), *index)
    raise SpkverError(
        f"--by {title}: {known.source} knows no such condition; there are gender (spk2gender), duration (utt2dur), "
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
        raise SpkverError(f"{trials_file}: column '{title}': {error}") from None


def _breakdown(found: dict[str, dict[str, Record]]) -> list[str]:
    """A table for each column of conditions."""
    tables = []
    for title, records in found.items():
        rows = [(f"{name}  ({r['targets']} + {r['nontargets']} trials)", r) for name, r in records.items()]
        tables.append(format_table(rows, title))
    return tables
