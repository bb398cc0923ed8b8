"""The stages between a model and its metrics: embeddings, scores, and what back ends are fitted to.

Each reads the files of the stage before and writes its own into the experiment's folder, so any of
them can be run again alone. What is fitted lies in the model's folder, and scores any list from then on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.config.schema import Calibration, Scoring
from spkver.data.directory import DataDirectory, read_data_directory
from spkver.data.lookup import Rows, check_ids
from spkver.data.names import composed
from spkver.data.trial_making import make_trials
from spkver.data.trials import Trials, look_up, map_trials, read_trials
from spkver.embedding.extractor import Extractor
from spkver.embedding.folder import MADE_OF, read_embeddings, refuse_other_data, write_embeddings
from spkver.embedding.interchange import export_kaldi, export_npz, import_embeddings
from spkver.embedding.joined_speech import JoinedSpeech, embed_joined, joined_trials
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import IMPORTED, embedding_fingerprint
from spkver.experiment.model_folder import load_model, read_speakers
from spkver.experiment.provenance import data_record, file_record, read_record, refuse_to_replace, write_record
from spkver.files import write_json
from spkver.scoring.backend_folder import Cohort
from spkver.scoring.backends.calibration import fit_calibration
from spkver.scoring.backends.cosine import unit_rows
from spkver.scoring.backends.enrolment import keep_models, read_models
from spkver.scoring.backends.plda import fit_plda
from spkver.scoring.backends.score_norm import cluster_means, speaker_means
from spkver.scoring.metrics import actual_dcf
from spkver.scoring.metrics.cllr import cllr, min_cllr
from spkver.scoring.metrics.sorted_scores import SortedScores
from spkver.scoring.score_files import file_fingerprint, score_list
from spkver.scoring.system_files import Embedded, System
from spkver.scoring.systems import (
    EQUAL_ERROR_THRESHOLD,
    EmbeddingSet,
    RatedScores,
    ScoreMean,
    build_system,
    enrolled_embeddings,
    parse_system,
    rated_embeddings,
)


def import_directory(source: Path, data: DataDirectory, exp: Path, utts: Path | None, basenames: bool) -> str:
    """Take embeddings of another toolkit for those of a data directory; returns a line that says so.

    Raises:
        SpkverError: as `spkver.embedding.interchange.import_embeddings`; an utterance of the directory has none; or the
            experiment has a model of its own.
    """
    system = System(exp)
    if (system.model / "model.safetensors").exists():
        raise SpkverError(f"{system.model}: has a model of its own; import embeddings into another experiment")
    embeddings, names = import_embeddings(source, utts=utts, basenames=basenames)
    names = [composed(name) for name in names]
    check_ids(names, lambda _: source)
    row_of = {name: row for row, name in enumerate(names)}
    wanted = [utterance.id for utterance in data.utterances]
    missing = [utt for utt in wanted if utt not in row_of]
    if missing:
        raise SpkverError(f"{source}: no embedding of '{missing[0]}', {len(missing)} of {len(wanted)} are missing")
    rows = np.asarray(embeddings)[[row_of[utt] for utt in wanted]]
    magnitudes = np.linalg.norm(rows.astype(np.float64), axis=1)
    measures = {"magnitude": magnitudes}
    if not np.isnan(data.utterances.seconds).any():
        measures["duration"] = data.utterances.seconds
    folder = system.embeddings(data.path)
    made_of = {"data": data_record(data.path), "model": None}
    refuse_other_data(folder, made_of)
    if not _of_the_imported_network(system, folder, rows, wanted):
        digest = hashlib.sha256(rows.tobytes()).hexdigest()
        imported = {"source": str(source.absolute()), "dimensions": rows.shape[1], "embeddings": digest}
        write_json(system.model / IMPORTED, imported)
    (folder / MADE_OF).unlink(missing_ok=True)
    write_embeddings(folder, rows, wanted, measures)
    write_record(folder / MADE_OF, made_of | {"model": system.backend.digest})
    return f"{len(wanted)} embeddings of {len(names)} in {source} -> {folder}"


def _of_the_imported_network(system: System, folder: Path, rows: np.ndarray, utts: list[str]) -> bool:
    """Whether embeddings can be of the network whose embeddings were imported into the experiment last.

    They cannot where an utterance has another embedding than it has of that network, or another number of dimensions.
    What was imported before, and what was fitted to it, then belongs to another network, and is refused.
    """
    imported = read_record(system.model / IMPORTED)
    if imported is None or imported.get("dimensions") != rows.shape[1]:
        return False
    record = read_record(folder / MADE_OF, "data", "model")
    if record is None or record["model"] != embedding_fingerprint(system.model):
        return True
    old_rows, old_utts = read_embeddings(folder)
    row_of = {utt: row for row, utt in enumerate(old_utts)}
    both = [(row, row_of[utt]) for row, utt in enumerate(utts) if utt in row_of]
    new, old = np.array(both, np.int64).reshape(-1, 2).T
    return np.array_equal(rows[new].astype(np.float32), old_rows[old])


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
        quality = backend.calibration(system.uncalibrated.name).quality
    if parse_system(system.name)[1]:
        _refuse_cohort_of(backend.cohort(), read_data_directory(data, check_files=False))
    out, record = system.scores(data, trials_file), system.scores_record(data, trials_file)
    made_of = {
        "system": system.name,
        "data": data_record(data),
        "trials": file_record(trials_file),
        "enrolment": None if models_file is None else file_record(models_file) | {"score_mean": score_mean},
        "model": backend.digest,
        "embeddings": file_fingerprint(embedded.folder / "embeddings.npy"),
        "backend": backend.fingerprint(),
    }
    n = scored_already(out, record, made_of)
    if n:
        return f"{n} scores, from the same embeddings as before -> {out}"
    rows = embedded.rows()
    with known_by_name(system.name):
        test = embedded.voices(backend, quality)
        enroll, enroll_rows = test, rows
        if models_file is not None:
            models = read_models(models_file, rows)
            enroll_rows = Rows(models.names, models_file)
            enroll = test if score_mean else enrolled_embeddings(test, models)
        score = build_system(system.name, enroll, test, backend)
        if models_file is not None and score_mean:
            score = ScoreMean(score, models)
        record.unlink(missing_ok=True)  # never the old record beside new scores
        keep_models(out, models_file)
        n = score_list(out, trials_file, (enroll_rows, rows), score, _contents(made_of))
    write_record(record, made_of | {"n_trials": n, "scores": file_fingerprint(out)})
    return f"{n} scores -> {out}"


def scored_already(out: Path, record: Path, made_of: dict) -> int:
    """The number of trials of a score file that was made of the very same; 0 of any other.

    Raises:
        SpkverError: the scores are of another list of the same name.
    """
    old = read_record(record, "data", "trials", "model")
    if old is None:
        return 0
    is_same = old["trials"]["digest"] == made_of["trials"]["digest"]
    if out.is_file():
        refuse_to_replace(out, old["trials"], made_of["trials"], is_same, "scores")
        kept = {name: value for name, value in old.items() if name not in ("n_trials", "scores")}
        if old.get("scores") == file_fingerprint(out) and _contents(kept) == _contents(made_of):
            return old.get("n_trials", 0)
    return 0


def _contents(made_of: dict) -> dict:
    """The same without the paths of the list and of the data directory, which may have been moved."""
    return {
        name: {key: value for key, value in part.items() if key != "path"} if isinstance(part, dict) else part
        for name, part in made_of.items()
    }


def fit_cohort(train: DataDirectory, system: System, settings: Scoring) -> str:
    """Keep means of training speakers, or of clusters of them, as the cohort of score normalisation.

    Returns:
        A line that says so.
    """
    embedded = Embedded.of(system, train.path)
    speakers, trained = _trained(embedded, train, system)
    unit = unit_rows(embedded.embeddings[trained])
    norm = settings.norm
    with known_by_name(str(embedded.folder)):
        means, names = speaker_means(unit, speakers[trained].tolist())
        shown = f"{len(names)} training speakers"
        if norm.clusters is not None:
            means, smallest = cluster_means(means, norm.clusters)
            shown = f"{len(means)} clusters of {len(names)} training speakers, {smallest} in the smallest"
    if norm.method == "as" and len(means) < norm.top_n:
        raise SpkverError(
            f"{embedded.folder}: the cohort has {shown}, scoring.norm.top_n is {norm.top_n}; "
            "lower it, or take all by scoring.norm.method=s"
        )
    system.backend.write_cohort(Cohort(names, means, unit.mean(0, dtype=np.float64), norm.top_n, norm.centre))
    return f"a cohort of {shown} -> {system.backend.folder}"


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


def fit_calibration_of(
    train: DataDirectory, tested: Path, system: System, settings: Scoring, seed: int, on: Path | None = None
) -> str:
    """Calibrate a system on trials among speakers that it was not trained on; returns what it did to them.

    Args:
        train: of the training speakers, some held out; or of others.
        tested: the data directory that is to be scored.
        system: what is calibrated.
        settings: with the calibration's.
        seed: of the trials that are drawn.
        on: a list of trials to calibrate on, instead of drawn ones.

    Raises:
        SpkverError: `held_out_trials` does, or the weights cannot be fitted.
    """
    backend, chosen = system.backend, settings.calibration
    trials = held_out_trials(train, tested, system, settings, seed, on)
    labels, n_targets = trials.labels, int(trials.labels.sum())
    with known_by_name(str(train.path)):
        score = build_system(system.name, trials.voices, trials.voices, backend)
        columns = RatedScores(score, trials.voices, trials.voices).columns(trials.enroll_index, trials.test_index)
        belongs_to = {
            "system": system.name,
            "quality": chosen.quality,
            "targets": n_targets,
            "nontargets": len(labels) - n_targets,
        }
        held = columns.keys() - {"score"}
        made_for = chosen.p_target, chosen.regularisation
        calibration = fit_calibration(columns, labels, *made_for, belongs_to, held, trials.weights)
        llrs = calibration.llrs(columns)
        belongs_to |= {EQUAL_ERROR_THRESHOLD: _equal_error_threshold(SortedScores(llrs, labels))}
    backend.write_calibration(system.name, replace(calibration, belongs_to=belongs_to))
    made_of = f"{n_targets} target and {len(labels) - n_targets} nontarget trials"
    before = calibration_loss(columns["score"], labels, settings)
    after = calibration_loss(llrs, labels, settings)
    said = f"calibration by {made_of} of {trials.n_speakers} speakers it was not trained on -> {backend.folder}"
    return f"{said}\n{trials.lengths()}\nbefore  {before}\nafter   {after}"


def _equal_error_threshold(llrs: SortedScores) -> float:
    """The threshold of the equal error rate; midway where no trial is on the wrong side."""
    highest, lowest = float(llrs.nontargets[-1]), float(llrs.targets[0])
    return (highest + lowest) / 2 if highest < lowest else float(llrs.equal_error_rate()[1])


class HeldOutTrials(NamedTuple):
    """Trials among speakers that the model was not trained on.

    Of two kinds, where utterances can be joined: the utterances as they are, and recordings joined of them.
    """

    names: list[str]  # utterances, then the speakers of joined recordings
    voices: EmbeddingSet  # of the same
    enroll_index: np.ndarray  # (n_trials,) by position among them
    test_index: np.ndarray
    labels: np.ndarray  # 1 = target
    weights: np.ndarray  # (n_trials,) each kind counts half, among the targets and among the nontargets
    seconds: np.ndarray  # of the joined recordings; none where none were joined
    n_speakers: int

    def lengths(self) -> str:
        """A line about the lengths that the trials are of."""
        if not len(self.seconds):
            return "no recordings were joined: of other lengths than these utterances' it knows nothing"
        low, high = self.seconds.min(), self.seconds.max()
        return f"half of their weight has utterances, half has recordings of {low:.0f} to {high:.0f} s joined of them"


def held_out_trials(
    train: DataDirectory, tested: Path, system: System, settings: Scoring, seed: int, listed: Path | None = None
) -> HeldOutTrials:
    """Trials among the speakers of ``train`` that the model was not trained on: drawn, or those of a list.

    Raises:
        SpkverError: there are fewer than two such speakers, or they are no training data's and those of ``tested``,
            which is to be scored; or the list has no labels, or other utterances.
    """
    embedded = Embedded.of(system, train.path)
    # Nobody was trained on, as far as is known, where the embeddings were imported.
    speakers, trained = embedded.speakers(train), read_speakers(system.model) or []
    held_out = np.flatnonzero(np.isin(speakers, trained, invert=True))
    names = set(speakers[held_out])
    if len(names) < 2:
        raise SpkverError(
            f"{train.path}: {system.model} was trained on all of its speakers; calibration needs some held out, "
            "train with data.held_out_speakers, or name a directory of other speakers"
        )
    both = names & set(read_data_directory(tested, check_files=False).speakers)
    if both and len(held_out) == len(speakers):
        raise SpkverError(
            f"{train.path}: speaker '{min(both)}' is tested by {tested} too ({len(both)} in all), who would tell what "
            "the test is to find out; name the training data, or other speakers, by --train"
        )
    chosen = settings.calibration
    with known_by_name(str(embedded.folder)):
        voices = embedded.voices(system.backend, chosen.quality)
    measures = {name: values[held_out] for name, values in voices.measures.items()}
    utts = [embedded.utts[row] for row in held_out]
    if listed is not None:
        made = read_trials(listed)
        if made.labels is None:
            raise SpkverError(f"{listed}: has no labels; a calibration learns from target and nontarget trials")
        index = map_trials(made, utts, f"{train.path} among speakers that {system.model} was not trained on")
    else:
        of_whom = speakers[held_out].tolist()
        made = make_trials(utts, of_whom, seed, max_nontargets=chosen.max_nontargets, genders=train.genders)
        index = made.enroll_index, made.test_index
    singles = HeldOutTrials(
        utts,
        EmbeddingSet(embedded.embeddings[held_out], measures),
        *index,
        made.known_labels,
        np.ones(len(made)),
        np.zeros(0),
        len(names),
    )
    if listed is not None:
        return singles
    joined = _joined(train, system, set(utts), chosen, seed)
    return singles if joined is None else _with_joined(singles, joined, train, system, chosen, seed)


def _joined(
    train: DataDirectory, system: System, utts: set[str], chosen: Calibration, seed: int
) -> JoinedSpeech | None:
    """Recordings joined of utterances; None where the embeddings are not those of the model's encoder."""
    if system.of_onnx or (system.model / IMPORTED).is_file():
        return None
    model = load_model(system.model)
    shortest, longest = chosen.joined_seconds
    # What is longer is cut before it is embedded, which would only repeat the longest.
    lengths = [shortest, max(shortest, min(longest, model.config.scoring.max_seconds))]
    chosen = chosen.model_copy(update={"joined_seconds": lengths})
    utterances = [utterance for utterance in train.utterances if utterance.id in utts]
    return embed_joined(Extractor(model.encoder, model.config), utterances, chosen, seed)


def _with_joined(
    singles: HeldOutTrials, joined: JoinedSpeech, train: DataDirectory, system: System, chosen: Calibration, seed: int
) -> HeldOutTrials:
    """Trials of utterances, and as many again by weight of joined recordings."""
    first, second, labels = joined_trials(joined, train.genders, chosen.max_nontargets, seed)
    if not len(labels):
        return singles
    embeddings, magnitudes, seconds = joined.extracted
    more = rated_embeddings(embeddings, {"duration": seconds, "magnitude": magnitudes}, chosen.quality, system.backend)
    voices = EmbeddingSet(
        np.concatenate([singles.voices.embeddings, more.embeddings]),
        {name: np.concatenate([values, more.measures[name]]) for name, values in singles.voices.measures.items()},
    )
    n = len(singles.names)
    return HeldOutTrials(
        singles.names + joined.speakers.tolist(),
        voices,
        np.concatenate([singles.enroll_index, first + n]),
        np.concatenate([singles.test_index, second + n]),
        np.concatenate([singles.labels, labels]),
        np.concatenate([_equal_weights(singles.labels), _equal_weights(labels)]),
        seconds,
        singles.n_speakers,
    )


def _equal_weights(labels: np.ndarray) -> np.ndarray:
    """Weights of trials that sum to 1 among the targets, and among the nontargets."""
    return np.where(labels == 1, 1 / np.count_nonzero(labels == 1), 1 / np.count_nonzero(labels == 0))


def trials_and_voices(
    system: System, data: Path, trials: Trials, quality: Sequence[str]
) -> tuple[tuple[np.ndarray, np.ndarray], EmbeddingSet]:
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
