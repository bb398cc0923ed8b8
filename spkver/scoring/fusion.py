"""Several systems made one: their scores, and quality measures, into one log-likelihood ratio a trial."""

from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory
from spkver.data.trials import read_trials
from spkver.errors import SpkverError
from spkver.experiment.model_folder import read_scoring
from spkver.experiment.provenance import data_record, file_record, write_record
from spkver.scoring.backends.calibration import fit_calibration
from spkver.scoring.score_files import write_scores
from spkver.scoring.stages import calibration_loss, held_out_trials, known_by_name, scored_already, trials_and_voices
from spkver.scoring.system_files import FUSION, System
from spkver.scoring.systems import RatedScores, build_system


def fuse_systems(
    train: DataDirectory, data: Path, trials_file: Path | None, systems: list[System], exp: Path, overrides: list[str]
) -> str:
    """Fuse systems by logistic regression on held-out training speakers, and score a trial list; returns a report.

    The quality measures are those of the first system's utterances. Scores go to ``exp/scores/``, weights to
    ``exp/fusion.json``.

    Args:
        train: the training speakers' directory; the systems must have been trained with the same ones held out.
        data: the data directory that the trial list names.
        trials_file: None: ``data/trials``.
        systems: two or more.
        exp: a folder of its own for what comes out.
        overrides: ``scoring.key=value``.

    Raises:
        SpkverError: fewer than two systems, one twice, or systems that held out different speakers.
    """
    names = [f"{system.exp.name}:{system.name}" for system in systems]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise SpkverError(f"fuse: name two different systems or more, got {', '.join(names)}")
    settings, seed = read_scoring(systems[0].model, overrides)
    found = [held_out_trials(train, data, system, settings, seed) for system in systems]
    trials = found[0]
    for name, others in zip(names, found):
        if others.names != trials.names:
            raise SpkverError(
                f"{train.path}: {name} and {names[0]} did not hold out the same speakers; fusion needs that"
            )
    trials_file = trials_file or data / "trials"
    asked = read_trials(trials_file)
    train_columns: dict[str, np.ndarray] = {}
    test_columns: dict[str, np.ndarray] = {}
    for name, system, held_out in zip(names, systems, found):
        backend, voices = system.backend, held_out.voices
        with known_by_name(name):
            score = RatedScores(build_system(system.name, voices, voices, backend), voices, voices)
            columns = score.columns(trials.enroll_index, trials.test_index)
            index, sides = trials_and_voices(system, data, asked, settings.calibration.quality)
            tested = RatedScores(build_system(system.name, sides, sides, backend), sides, sides).columns(*index)
        train_columns[name], test_columns[name] = columns.pop("score"), tested.pop("score")
        if name == names[0]:
            qualities, test_qualities = columns, tested
    chosen = settings.calibration
    train_columns |= qualities  # behind the scores
    with known_by_name(str(train.path)):
        made_for = chosen.p_target, chosen.regularisation
        fusion = fit_calibration(
            train_columns, trials.labels, *made_for, {"systems": names}, qualities.keys(), trials.weights
        )
        llrs = fusion.llrs(test_columns | test_qualities)
    fusion.write(exp / "fusion.json")
    fused = System(exp, FUSION)
    out, record = fused.scores(data, trials_file), fused.scores_record(data, trials_file)
    made_of = {"data": data_record(data), "trials": file_record(trials_file), "model": None}
    scored_already(out, record, made_of)  # refuses to replace the scores of another list
    record.unlink(missing_ok=True)
    write_scores(out, asked, llrs)
    write_record(record, made_of)
    lines = [f"{name:<40} {calibration_loss(train_columns[name], trials.labels, settings)}" for name in names]
    lines.append(f"{FUSION:<40} {calibration_loss(fusion.llrs(train_columns), trials.labels, settings)}")
    return "\n".join([*lines, f"{len(asked)} scores -> {out}"])
