"""The verbs from embeddings to figures: embed, score, norm, plda, calibrate, fuse, evaluate, threshold, compare.

Heavy imports stand inside the verbs, so that ``spkver --help`` is instant.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from spkver.cli.json_output import add_json, show
from spkver.cli.parser import DEVICES, VerbParser
from spkver.errors import SpkverError

_SYSTEMS = "how to score: cosine, plda, cosine+asnorm, cosine+asnorm+calibration, ... (default: cosine)"
_UNTRAINED = "take the encoder as it was before its first step of training"
_TRIALS = "list of the trials (default: DATA/trials)"
_TRAIN = "data directory of the training speakers, which must be embedded"
_ON = "list of trials among them to calibrate on (default: drawn at random, of utterances and of longer recordings)"
_CALIBRATION = "data directory of the training speakers, of whom some were held out, or of others; it must be embedded"


def add_scoring_verbs(verb: Callable) -> None:
    """Give the parser its scoring verbs; ``verb(name, function)`` adds one."""

    def scoring_verb(name: str, function) -> VerbParser:
        added = verb(name, function)
        added.add_argument("data", type=Path, help="data directory: the folder with wav.scp and utt2spk")
        added.add_argument("exp", type=Path, help="folder of the experiment")
        return added

    def scoring_options(added: VerbParser) -> None:
        added.add_argument("--trials", type=Path, metavar="FILE", help=_TRIALS)
        added.add_overrides("scoring.key=value", "values of the scoring section that differ, as scoring.bootstrap=0")

    added = scoring_verb("embed", embed)
    added.add_argument("--device", default="auto", help=f"{DEVICES} (default: auto)")
    added.add_argument("--untrained", action="store_true", help=_UNTRAINED)
    added.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="how many threads read and embed (default: one a core)",
    )
    added.add_argument(
        "--onnx",
        type=Path,
        metavar="FILE",
        help="embed by the file that `spkver export` made; the system is then called onnx, or onnx_int8",
    )

    added = scoring_verb("import-embeddings", import_embeddings)
    added.add_argument(
        "source",
        type=Path,
        help="embeddings of another toolkit: an .ark, .scp, .npy or .npz file, or a folder of .npy files",
    )
    added.add_argument(
        "--utts",
        type=Path,
        metavar="FILE",
        help="with a .npy of all embeddings: the utterance ids of its rows, one a line",
    )
    added.add_argument(
        "--basenames",
        action="store_true",
        help="with a folder of .npy files: an utterance's id is the file's name without its folders",
    )
    scoring_verb("export-embeddings", export_embeddings).add_argument(
        "target", type=Path, help="the file to write: X.ark or X.scp (both are made), or X.npz"
    )

    added = scoring_verb("score", score)
    added.add_argument("--trials", type=Path, metavar="FILE", help=_TRIALS)
    added.add_argument("--system", default="cosine", help=_SYSTEMS)
    added.add_argument("--untrained", action="store_true", help=_UNTRAINED)
    added.add_argument(
        "--enrolment",
        type=Path,
        metavar="FILE",
        help="the first column of the trial list names models of several utterances: 'MODEL utt utt ...' a line",
    )
    added.add_argument(
        "--score-mean",
        action="store_true",
        help="with --enrolment: the mean of the utterances' scores, not the score of their mean embedding",
    )

    for name, function in (("norm", norm), ("plda", plda), ("calibrate", calibrate)):
        added = scoring_verb(name, function)
        of_whom = _CALIBRATION if name == "calibrate" else _TRAIN
        added.add_argument("--train", type=Path, required=True, metavar="DATA", help=of_whom)
        if name == "plda":
            added.add_argument(
                "--adapt",
                type=Path,
                metavar="DATA",
                help="data directory without speaker labels whose recordings PLDA is adapted to",
            )
        if name == "calibrate":
            added.add_argument("--system", default="cosine", help=_SYSTEMS)
            added.add_argument("--on", type=Path, metavar="FILE", help=_ON)
        scoring_options(added)

    added = verb("fuse", fuse)
    added.add_argument("data", type=Path, help="data directory that the trial list is about")
    added.add_argument(
        "systems",
        nargs="+",
        metavar="EXP[:SYSTEM]",
        help="two or more systems: an experiment, and which of its systems (default: cosine)",
    )
    added.add_argument("--train", type=Path, required=True, metavar="DATA", help=_TRAIN)
    added.add_argument("--exp", type=Path, required=True, help="folder that gets the scores and metrics of the fusion")
    added.add_argument("--trials", type=Path, metavar="FILE", help=_TRIALS)
    added.add_overrides("scoring.key=value", "values of the scoring section that differ, as scoring.bootstrap=0")

    added = verb("evaluate", evaluate)
    added.add_argument("data", type=Path, nargs="?", help="data directory that was scored")
    added.add_argument("exp", type=Path, nargs="?", help="folder of the experiment")
    added.add_argument("--system", default="cosine", help=_SYSTEMS)
    added.add_argument("--untrained", action="store_true", help=_UNTRAINED)
    added.add_argument(
        "--by",
        nargs="+",
        default=[],
        metavar="CONDITION",
        help="tables of the figures by gender, duration, or a column of a .csv or .tsv trial list",
    )
    added.add_argument(
        "--scores",
        type=Path,
        metavar="FILE",
        help="instead of DATA and EXP: a score file of any toolkit, for the trials of --trials",
    )
    added.add_argument(
        "--utt2spk",
        type=Path,
        metavar="FILE",
        help="with --scores: 'utterance speaker' a line, for intervals over speakers",
    )
    add_json(added)
    scoring_options(added)

    added = scoring_verb("threshold", threshold)
    added.add_argument(
        "--system", help=f"{_SYSTEMS.rpartition(' (')[0]} (default: the one by which `spkver verify` decides)"
    )
    added.add_argument("--trials", type=Path, metavar="FILE", help=_TRIALS)
    far = "strangers that may be accepted, fractions (default: 0.01 0.001)"
    added.add_argument("--far", type=float, nargs="+", default=[], metavar="RATE", help=far)
    keep = "keep the threshold of one --far RATE, or of equal error, in the model: verify and identify decide by it"
    added.add_argument("--save", action="store_true", help=keep)
    add_json(added)

    added = verb("compare", compare)
    added.add_argument("data", type=Path, help="data directory that the trial list is about")
    added.add_argument(
        "a",
        metavar="EXP[:SYSTEM]",
        help="system a, the one to compare with: an experiment, and which of its systems (default: cosine)",
    )
    added.add_argument("b", metavar="EXP[:SYSTEM]", help="system b, of which is asked whether it is better")
    add_json(added)
    scoring_options(added)


def embed(options) -> None:
    """Embed every utterance of a data directory."""
    from spkver.cli.memory import hold_memory_flat, tune_malloc
    from spkver.data.machine import usable_cores
    from spkver.embedding.extractor import Extractor
    from spkver.embedding.stage import embed_directory
    from spkver.experiment.model_fingerprint import weights_file
    from spkver.experiment.model_folder import load_model
    from spkver.models.device import choose_device

    tune_malloc()
    hold_memory_flat()
    device = choose_device(options.device, "--device")
    # Whether a file is there is found out when it is read: to look at a million first takes minutes.
    directory, system = _directory(options.data, check_files=False), _system(options)
    if options.onnx is not None and system.name == "untrained":
        raise SpkverError("embed: --onnx FILE holds a trained model; leave --untrained out")
    if options.onnx is None:
        loaded = load_model(system.model, device)
        extractor, weights, base = (
            Extractor(loaded.encoder, loaded.config),
            weights_file(system.model, loaded.config),
            system.name,
        )
    else:
        from spkver.export.onnx_extractor import OnnxExtractor

        extractor, weights = OnnxExtractor(options.onnx, system.model, device), options.onnx
        base = extractor.system
    workers = options.workers
    if workers is None and device.type == "cuda":
        workers = usable_cores()  # torch's own threads are not what reads here
    print(embed_directory(directory, system.exp, extractor, system.model, weights, base, workers))


def import_embeddings(options) -> None:
    """Take another toolkit's embeddings (Kaldi ark or scp, npy, npz, a folder) as those of a data directory."""
    from spkver.scoring.stages import import_directory

    data = _directory(options.data, check_files=False)
    print(import_directory(options.source, data, options.exp, options.utts, options.basenames))


def export_embeddings(options) -> None:
    """Write the embeddings of a data directory for other toolkits (.ark with .scp, or .npz)."""
    from spkver.scoring.stages import export_directory

    print(export_directory(options.exp, options.data, options.target))


def score(options) -> None:
    """Score a trial list by a system: the cosine of embeddings, or one that norm, plda or calibrate made."""
    from spkver.scoring.stages import score_trials

    print(score_trials(options.data, options.trials, _system(options), options.enrolment, options.score_mean))


def norm(options) -> None:
    """Score normalisation: keep the training speakers as a cohort, and score a trial list with it."""
    from spkver.scoring.stages import fit_cohort, score_trials
    from spkver.scoring.system_files import System

    system, (settings, _) = _system(options), _scoring(options)
    print(fit_cohort(_directory(options.train, check_files=False), system, settings))
    normalised = System(options.exp, f"cosine+{settings.norm.method}norm")
    print(score_trials(options.data, options.trials, normalised))


def plda(options) -> None:
    """Fit two-covariance PLDA to the training speakers, and score a trial list with it."""
    from spkver.scoring.stages import fit_plda_model, score_trials
    from spkver.scoring.system_files import System

    system, (settings, _) = _system(options), _scoring(options)
    print(fit_plda_model(_directory(options.train, check_files=False), system, settings, options.adapt))
    fitted = System(options.exp, "plda" if options.adapt is None else "plda_adapted")
    print(score_trials(options.data, options.trials, fitted))


def calibrate(options) -> None:
    """Calibrate a system on speakers that it was not trained on, and score a trial list: log-likelihood ratios."""
    from spkver.scoring.stages import fit_calibration_of, score_trials

    system = _system(options)
    train, (settings, seed) = _directory(options.train, check_files=False), _scoring(options)
    print(fit_calibration_of(train, options.data, system, settings, seed, options.on))
    print(score_trials(options.data, options.trials, system.calibrated))


def fuse(options) -> None:
    """Fuse systems on held-out training speakers, and score a trial list: log-likelihood ratios."""
    from spkver.config import scoring_overrides
    from spkver.scoring.fusion import fuse_systems

    overrides = scoring_overrides(options.overrides)
    systems = [_named_system(text) for text in options.systems]
    train = _directory(options.train, check_files=False)
    print(fuse_systems(train, options.data, options.trials, systems, options.exp, overrides))


def evaluate(options) -> None:
    """EER, minDCF, Cllr and their intervals, of an experiment's system or of any toolkit's score file."""
    from spkver.scoring.evaluation import evaluate_foreign, evaluate_scores

    if options.scores is not None:
        if options.data is not None or options.trials is None:
            raise SpkverError("evaluate: --scores FILE goes with --trials FILE, and without DATA and EXP")
        settings = _evaluation_settings(options.overrides)
        show(options, evaluate_foreign(options.scores, options.trials, options.utt2spk, settings, options.by))
        return
    if options.exp is None:
        taken = f" (no path {options.overrides[0]} is here)" if options.overrides else ""
        raise SpkverError(f"evaluate: name DATA and EXP, or --scores FILE and --trials FILE{taken}")
    directory, system = _directory(options.data, check_files=False), _system(options)
    # A fusion has no model, and so no configuration of its own.
    settings = _scoring(options)[0] if system.model.is_dir() else _evaluation_settings(options.overrides)
    show(options, evaluate_scores(directory, options.trials, system, settings, options.by))


def threshold(options) -> None:
    """Which threshold to deploy a system with: at equal error, and at chosen false acceptance rates."""
    from spkver.scoring.thresholds import DEFAULT_RATES, deciding, save_threshold, thresholds_table

    system = deciding(options.exp) if options.system is None else _system(options)
    show(options, thresholds_table(options.data, options.trials, system, options.far or DEFAULT_RATES))
    if options.save:
        saved = save_threshold(options.data, options.trials, system, options.far)
        print(saved, file=sys.stderr if options.json else sys.stdout)


def compare(options) -> None:
    """Is system B better than system A on the same trials? Differences with intervals over speakers."""
    from spkver.config import scoring_overrides
    from spkver.experiment.model_folder import read_scoring
    from spkver.scoring.evaluation import compare_systems

    a, b = _named_system(options.a), _named_system(options.b)
    settings, _ = read_scoring(a.model, scoring_overrides(options.overrides))
    directory = _directory(options.data, check_files=False)
    show(options, compare_systems(directory, options.trials, a, b, settings))


def _system(options):
    from spkver.scoring.system_files import System

    if getattr(options, "untrained", False):
        return System(options.exp, "untrained")
    return System(options.exp, getattr(options, "system", "cosine"))


def _named_system(text: str):
    """``EXP`` or ``EXP:SYSTEM``; the name of a folder may hold colons too."""
    from spkver.scoring.system_files import System

    exp, colon, name = text.rpartition(":")
    if not colon or os.path.lexists(text):
        return System(Path(text))
    try:
        return System(Path(exp), name)
    except SpkverError:
        if os.path.lexists(exp):
            raise
        return System(Path(text))


def _scoring(options):
    """The scoring settings of an experiment's model, with what the command line changes, and its seed."""
    from spkver.config import scoring_overrides
    from spkver.experiment.model_folder import read_scoring

    return read_scoring(_system(options).model, scoring_overrides(options.overrides))


def _evaluation_settings(overrides: list[str]):
    """Priors and resamples where there is no configuration, with the overrides ``scoring.key=value``."""
    from spkver.config import complete, scoring_overrides
    from spkver.config.schema import Evaluation

    values = [override.removeprefix("scoring.") for override in scoring_overrides(overrides)]
    return complete(Evaluation(), values, "evaluate")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return number


def _directory(path: Path, check_files: bool = True):
    from spkver.data.directory import read_data_directory

    return read_data_directory(path, check_files=check_files)
