"""The stages between a model and its metrics: embeddings, scores, and what back ends are fitted to.

Each reads the files of the stage before and writes its own into the experiment's folder, so any of
them can be run again alone. What is fitted lies in the model's folder, and scores any list from then on.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory, read_data_directory
from spkver.errors import SpkverError
from spkver.model_folder import read_speakers
from spkver.schema import Scoring
from spkver.scoring.backend import IMPORTED, Cohort
from spkver.scoring.calibration import fit_calibration
from spkver.scoring.cllr import cllr, min_cllr
from spkver.scoring.embeddings import write_embeddings
from spkver.scoring.enrolment import read_models
from spkver.scoring.interchange import export_kaldi, export_npz, import_embeddings
from spkver.scoring.lookup import Rows, look_up
from spkver.scoring.metrics import actual_dcf
from spkver.scoring.pairs import unit_rows
from spkver.scoring.plda_fit import fit_plda
from spkver.scoring.score_norm import speaker_means
from spkver.scoring.scores import file_fingerprint, score_list
from spkver.scoring.systems import Qualified, ScoreMean, Voices, build_system, enrolled_voices, parse_system
from spkver.scoring.trial_making import make_trials
from spkver.scoring.trials import Trials
from spkver.systems import Embedded, System
from spkver.whole_file import whole_file


def import_directory(source: Path, data: DataDirectory, exp: Path, utts: Path | None, basenames: bool) -> str:
    """Take embeddings of another toolkit for those of a data directory; returns a line that says so.

    Raises:
        SpkverError: as `spkver.scoring.interchange.import_embeddings`; an utterance of the directory has none; or the
            experiment has a model of its own.
    """
    system = System(exp)
    if (system.model / "model.safetensors").exists():
        raise SpkverError(f"{system.model}: has a model of its own; import embeddings into another experiment")
    embeddings, names = import_embeddings(source, utts=utts, basenames=basenames)
    row_of = {name: row for row, name in enumerate(names)}
    wanted = [utterance.id for utterance in data.utterances]
    missing = [utt for utt in wanted if utt not in row_of]
    if missing:
        raise SpkverError(f"{source}: no embedding of '{missing[0]}', {len(missing)} of {len(wanted)} are missing")
    rows = np.asarray(embeddings)[[row_of[utt] for utt in wanted]]
    magnitudes = np.linalg.norm(rows.astype(np.float64), axis=1)
    measures = {"magnitude": magnitudes}
    if data.durations and all(utt in data.durations for utt in wanted):
        measures["duration"] = np.array([data.durations[utt] for utt in wanted])
    folder = system.embeddings(data.path.name)
    write_embeddings(folder, rows, wanted, measures)
    if not (system.model / IMPORTED).exists():
        with whole_file(system.model / IMPORTED) as file:
            json.dump({"source": str(source.absolute()), "dimensions": rows.shape[1]}, file)
    return f"{len(wanted)} embeddings of {len(names)} in {source} -> {folder}"


def export_directory(exp: Path, data: Path, target: Path) -> str:
    """Write the embeddings of a data directory for other toolkits: ``X.ark`` with ``X.scp``, or ``X.npz``."""
    embedded = Embedded.of(System(exp), data)
    if target.suffix == ".npz":
        export_npz(embedded.embeddings, embedded.utts, target)
    elif target.suffix in (".ark", ".scp"):
        export_kaldi(embedded.embeddings, embedded.utts, target.with_suffix(".ark"), target.with_suffix(".scp"))
    else:
        raise SpkverError(f"{target}: unknown form; write .ark, .scp or .npz")
    return f"{len(embedded.utts)} embeddings -> {target}"


def score_trials(
    data: Path, trials_file: Path | None, system: System, models_file: Path | None = None, score_mean: bool = False
) -> str:
    """Score a trial list from stored embeddings; returns a line that says so.

    Args:
        data: the data directory whose utterances the list names.
        trials_file: the list; None: ``data/trials``.
        system: whose back end has been fitted, where it has one.
        models_file: ``MODEL utt utt ...`` a line: what the list enrols are then models of several utterances.
        score_mean: score a model by the mean of its utterances' scores, not by their mean embedding.
    """
    trials_file = trials_file or data / "trials"
    embedded = Embedded.of(system, data)
    backend = system.backend
    quality = []
    if system.name == system.calibrated.name:
        quality = backend.calibration(system.uncalibrated.name).belongs_to["quality"]
    if parse_system(system.name)[1]:
        _refuse_cohort_of(backend.cohort(), read_data_directory(data, check_files=False))
    rows = embedded.rows()
    with known_by_name(system.name):
        test = embedded.voices(backend, quality)
        enroll, enroll_rows = test, rows
        if models_file is not None:
            models = read_models(models_file, rows)
            enroll_rows = Rows(models.names, models_file)
            enroll = test if score_mean else enrolled_voices(test, models)
        score = build_system(system.name, enroll, test, backend)
        if models_file is not None and score_mean:
            score = ScoreMean(score, models)
        out = system.scores(data.resolve().name, trials_file)
        fingerprint = {
            "system": system.name,
            "embeddings": file_fingerprint(embedded.folder / "embeddings.npy"),
            "backend": backend.fingerprint(),
            "models": None if models_file is None else [file_fingerprint(models_file), score_mean],
        }
        n = score_list(out, trials_file, (enroll_rows, rows), score, fingerprint)
    return f"{n} scores -> {out}"


def fit_cohort(train: DataDirectory, system: System, settings: Scoring) -> str:
    """Keep the training speakers' means as the cohort of score normalisation; returns a line that says so."""
    embedded = Embedded.of(system, train.path)
    speakers, trained = _trained(embedded, train, system)
    unit = unit_rows(embedded.embeddings[trained])
    norm = settings.norm
    with known_by_name(str(embedded.folder)):
        means, names = speaker_means(unit, speakers[trained].tolist())
    if norm.method == "as" and len(names) < norm.top_n:
        raise SpkverError(
            f"{embedded.folder}: the cohort has {len(names)} training speakers, scoring.norm.top_n is {norm.top_n}; "
            "lower it, or take all by scoring.norm.method=s"
        )
    system.backend.write_cohort(Cohort(names, means, unit.mean(0, dtype=np.float64), norm.top_n, norm.centre))
    return f"a cohort of {len(names)} training speakers -> {system.backend.folder}"


def fit_plda_model(train: DataDirectory, system: System, settings: Scoring, adapt: Path | None = None) -> str:
    """Fit PLDA to the training speakers, and move it to the voices of ``adapt`` where given; returns a line."""
    embedded = Embedded.of(system, train.path)
    speakers, trained = _trained(embedded, train, system)
    chosen = settings.plda
    with known_by_name(str(embedded.folder)):
        plda = fit_plda(embedded.embeddings[trained], speakers[trained], chosen.lda_dim, chosen.iterations)
    backend = system.backend
    backend.write_plda(plda)
    said = f"PLDA of {len(set(speakers[trained]))} training speakers"
    if adapt is not None:
        other = Embedded.of(system, adapt)
        with known_by_name(str(other.folder)):
            adapted = plda.adapted(other.embeddings, chosen.adapt_within, chosen.adapt_between)
        backend.write_plda(adapted, "plda_adapted")
        said += f", adapted by {len(other.utts)} utterances of {adapt.name}"
    return f"{said} -> {backend.folder}"


def fit_calibration_of(train: DataDirectory, system: System, settings: Scoring, seed: int) -> str:
    """Calibrate a system on trials among the training speakers that were held out; returns what it did to them."""
    backend, chosen = system.backend, settings.calibration
    trials, voices = held_out_trials(train, system, settings, seed)
    with known_by_name(str(train.path)):
        score = build_system(system.name, voices, voices, backend)
        columns = Qualified(score, voices, voices).columns(trials.enroll_index, trials.test_index)
        n_targets = int(trials.labels.sum())
        belongs_to = {
            "system": system.name,
            "quality": chosen.quality,
            "targets": n_targets,
            "nontargets": len(trials) - n_targets,
        }
        calibration = fit_calibration(columns, trials.labels, chosen.p_target, chosen.regularisation, belongs_to)
    backend.write_calibration(system.name, calibration)
    made_of = f"{n_targets} target and {len(trials) - n_targets} nontarget trials of held-out training speakers"
    before = calibration_loss(columns["score"], trials.labels, settings)
    after = calibration_loss(calibration.llrs(columns), trials.labels, settings)
    return f"calibration by {made_of} -> {backend.folder}\nbefore  {before}\nafter   {after}"


def held_out_trials(train: DataDirectory, system: System, settings: Scoring, seed: int) -> tuple[Trials, Voices]:
    """Trials among the training speakers that the model was not trained on, and their voices, one for each name.

    Raises:
        SpkverError: there are fewer than two such speakers.
    """
    embedded = Embedded.of(system, train.path)
    speakers, trained = _trained(embedded, train, system)
    # Nobody here was trained on where the embeddings were imported.
    held_out = np.flatnonzero(~trained if read_speakers(system.model) is not None else trained)
    if len(set(speakers[held_out])) < 2:
        raise SpkverError(
            f"{train.path}: {system.model} was trained on all of its speakers; calibration needs some held out, "
            "train with data.held_out_speakers"
        )
    with known_by_name(str(embedded.folder)):
        voices = embedded.voices(system.backend, settings.calibration.quality)
    measures = {name: values[held_out] for name, values in voices.measures.items()}
    utts = [embedded.utts[row] for row in held_out]
    most = settings.calibration.max_nontargets
    trials = make_trials(utts, speakers[held_out].tolist(), seed, max_nontargets=most, genders=train.genders)
    return trials, Voices(embedded.embeddings[held_out], measures)


def trials_and_voices(
    system: System, data: Path, trials: Trials, quality: list[str]
) -> tuple[tuple[np.ndarray, np.ndarray], Voices]:
    """Trials as rows, and the voices of these rows, of a system's embeddings of a data directory."""
    embedded = Embedded.of(system, data)
    rows = embedded.rows()
    return look_up(trials, rows, rows), embedded.voices(system.backend, quality)


def calibration_loss(scores: np.ndarray, labels: np.ndarray, settings: Scoring) -> str:
    """Cllr and actual DCF of scores taken for log-likelihood ratios."""
    dcfs = (f"actDCF({p:g}) {actual_dcf(scores, labels, p):.3f}" for p in settings.p_targets)
    return "   ".join([f"Cllr {cllr(scores, labels):.3f}", f"min {min_cllr(scores, labels):.3f}", *dcfs])


def _trained(embedded: Embedded, train: DataDirectory, system: System) -> tuple[np.ndarray, np.ndarray]:
    """The speaker of each embedding, and whether the model was trained on that speaker; each (N,).

    Of imported embeddings nobody knows: all are taken for training speakers.
    """
    speakers = embedded.speakers(train)
    known = read_speakers(system.model)
    trained = np.full(len(speakers), True) if known is None else np.isin(speakers, known)
    if not trained.any():
        raise SpkverError(f"{train.path}: {system.model} was trained on none of its speakers; name its data by --train")
    return speakers, trained


def _refuse_cohort_of(cohort: Cohort, directory: DataDirectory) -> None:
    """A cohort that holds a test speaker would tell what the test is to find out."""
    both = sorted(set(cohort.speakers) & set(directory.speakers))
    if both:
        raise SpkverError(
            f"{directory.path}: speaker '{both[0]}' is in the cohort too ({len(both)} in all); "
            "score speakers that were not trained on, or rename those that only share a name"
        )


@contextmanager
def known_by_name(place: str) -> Iterator[None]:
    """What the array functions refuse is the user's to mend: one line that begins with the place."""
    try:
        yield
    except ValueError as error:
        raise SpkverError(f"{place}: {error}") from None
