"""The ``spkver`` command: one short function a verb.

Heavy imports stand inside the verbs, so that ``spkver --help`` is instant. A user's mistake is one
line on standard error and exit status 1; being stopped by a signal has the shell's status for it.
"""

import codecs
import contextlib
import json
import os
import sys
from pathlib import Path

from spkver import __version__
from spkver.cli.completion import add_completion_verb
from spkver.cli.corpora import add_corpus_verbs, add_own_folder, add_pack_verb
from spkver.cli.doctor import add_doctor_verb
from spkver.cli.examples import EXAMPLES, GUIDE
from spkver.cli.export import add_export_verbs
from spkver.cli.json_output import add_json, show
from spkver.cli.parser import DEVICES, VerbParser
from spkver.cli.pictures import add_picture_verbs
from spkver.cli.recipes import add_recipe_verb
from spkver.cli.scoring import add_scoring_verbs
from spkver.cli.standard_streams import open_closed_streams, silence
from spkver.cli.verify import add_daily_verbs
from spkver.errors import SpkverError, one_line_for


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit status."""
    open_closed_streams()
    _print_any_name()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(GUIDE, end="")
        return 0
    options = command_parser().parse_args(arguments)
    # Before torch is loaded: its threads wait for one another at full speed for a millisecond and more, on the core
    # that the data worker needs. Training on two cores takes about a tenth less time so.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        status = options.verb(options) or 0
        sys.stdout.flush()  # here, where a full disk or a closed pipe can still be reported
        return status
    except SpkverError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # `spkver config ... | head`
        _forget_output()
        return 141
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        line = one_line_for(error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        _forget_output()
        return 1


def _forget_output() -> None:
    """Send what is still to be printed nowhere, so that Python does not stumble over it again when it ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _as_json(error: UnicodeError) -> tuple[str, int]:
    """What cannot be written, as an error handler of `codecs` gives it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _print_any_name() -> None:
    """Let standard output take every name: what its encoding lacks is written as JSON writes it, ``\\u674e``."""
    codecs.register_error("as_json", _as_json)
    if hasattr(sys.stdout, "reconfigure"):  # not where a caller has put something else in its place
        sys.stdout.reconfigure(errors="as_json")


def config(options) -> None:
    """Print the complete configuration of a file, as a run would use it."""
    from spkver.config import dump_config, load_config
    from spkver.config.shipped import titles

    if options.list:
        for name, title in titles().items():
            print(f"{name:28} {title}")
        return
    if options.config is None:
        raise SpkverError("config: name a configuration; `spkver config --list` names those that come with spkver")
    print(dump_config(load_config(options.config, options.overrides)), end="")


def prepare_mini(options) -> None:
    """Speak the built-in corpus."""
    from spkver.corpora.mini import prepare_mini

    print(prepare_mini(options.folder, options.seed, options.train_voices, options.test_voices, options.sentences))


def prepare_speechocean762(options) -> None:
    """Turn speechocean762 into data directories; without --corpus, download it first."""
    from spkver.corpora.speechocean762 import download_speechocean762, prepare_speechocean762

    corpus = options.corpus or download_speechocean762(options.downloads, checksum=options.checksum)
    print(prepare_speechocean762(corpus, options.folder))


def train(options) -> int:
    """Train an encoder and a head, in one process or, under torchrun, in several."""
    return _among_ranks(_train, options)


def _among_ranks(stage, options) -> int:
    """Do a stage in this process, and in the others that torchrun has started with it."""
    from spkver.training.distributed import OthersStopped, Ranks
    from spkver.training.stopping import TRY_AGAIN

    with Ranks.of_environment() as ranks:
        try:
            # The first process speaks for all.
            with contextlib.nullcontext() if ranks.is_first else silence():
                return stage(options, ranks)
        except OthersStopped:
            return TRY_AGAIN
        except RuntimeError as error:
            if not ranks.has_lost_one(error):
                raise
            raise SpkverError("another process ended before this was done; start again") from None


def _train(options, ranks) -> int:
    from spkver.cli.memory import tune_malloc
    from spkver.config import load_config
    from spkver.data.audio_check import keep_usable
    from spkver.experiment.model_folder import model_folder
    from spkver.experiment.paths import Experiment, describe_run
    from spkver.training.run_checks import check_start, remarks
    from spkver.training.stopping import Stopped
    from spkver.training.trainer import Trainer

    tune_malloc()
    with ranks.together():
        configuration = load_config(options.config, options.overrides)
        experiment = Experiment(options.exp or Path("exp") / Path(options.config).stem)
        if options.data is None:
            raise SpkverError("train: name the data directory with the training speakers by --data DIR")
        init = None if options.init is None else model_folder(options.init)
        if options.resume and init is None:
            init = experiment.recorded_path(experiment.read()[1].get("init"))
        check_start(configuration, init)
        for remark in remarks(configuration) if ranks.is_first else ():
            print(f"note: {remark}", file=sys.stderr)
        directory = keep_usable(
            _read(options.data),
            configuration.data.sample_rate,
            max_unusable_share=configuration.data.max_unusable_share,
        )
        trainer = Trainer(configuration, directory, experiment, init, options.resume, ranks)
    print(trainer.description(), flush=True)
    if options.profile:
        from spkver.training.profiling import profile_training

        print(profile_training(trainer, options.profile))
        return 0
    try:
        trainer.run(describe_run(experiment, options.data, init))
    except Stopped as stopped:
        if ranks.is_first:
            print(f"{experiment.folder}: {stopped}", file=sys.stderr)
        return stopped.status
    return 0


def average(options) -> int:
    """Make the final model of an experiment from its last epochs, in one process or, under torchrun, in several."""
    return _among_ranks(_average, options)


def _average(options, ranks) -> int:
    from spkver.cli.memory import tune_malloc
    from spkver.config import scoring_overrides
    from spkver.data.audio_check import keep_usable
    from spkver.experiment.paths import Experiment
    from spkver.models.device import choose_device
    from spkver.training.averaging import average_model, directory_of

    tune_malloc()
    device = choose_device(options.device, "--device")
    experiment = Experiment(options.exp)
    with ranks.together():
        configuration, _ = experiment.read()
        directory = keep_usable(
            _read(directory_of(experiment, options.data)),
            configuration.data.sample_rate,
            max_unusable_share=configuration.data.max_unusable_share,
        )
        averaged = average_model(experiment, directory, scoring_overrides(options.overrides), device, ranks)
    print(f"{averaged} -> {experiment.model}")
    return 0


def results(options) -> None:
    """One table of what several experiments reached."""
    from spkver.scoring.evaluation import results_table

    show(options, results_table(options.exps))


def _add_configuration(added: VerbParser, nargs: str | None = None) -> None:
    of_what = "configuration: a YAML file, or the name of one that comes with spkver, as mini"
    added.add_argument("config", type=Path, nargs=nargs, help=of_what)
    added.add_overrides("key.sub=value", "values of the configuration that differ, as optimizer.lr=0.1")


def _read(path: Path, check_files: bool = True):
    from spkver.data.directory import read_data_directory

    return read_data_directory(path, check_files=check_files)


def _alone(prepare):
    """A verb ``prepare``, for one process at a time in a folder: another would remove what the first has half made."""

    def prepare_alone(options):
        from spkver.files import locked

        folder = options.folder.absolute()
        with locked(folder.with_name(f".{folder.name}.preparing.lock"), f"preparing {options.folder}"):
            return prepare(options)

    return prepare_alone


def command_parser() -> VerbParser:
    """What reads the command's words; each verb has a parser of its own below it."""
    parser = VerbParser(
        prog="spkver", description="Speaker verification: train an encoder, score trials, say how good it is."
    )
    parser.add_argument("--version", action="version", version=f"spkver {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, function, parent=verbs) -> VerbParser:
        added = parent.add_parser(name, help=function.__doc__.rstrip("."), description=function.__doc__)
        added.set_defaults(verb=_alone(function) if parent is corpora else function)
        examples = EXAMPLES.get(added.prog.removeprefix("spkver "), ())
        added.epilog = "\n  ".join(["examples:", *examples]) if examples else None
        return added

    prepare = verbs.add_parser("prepare", help="turn a corpus into data directories")
    corpora = prepare.add_subparsers(title="corpora", metavar="CORPUS", required=True)
    mini = verb("mini", prepare_mini, corpora)
    mini.add_argument("folder", type=Path, help="where the data directories train/ and test/ are made")
    mini.add_argument("--seed", type=int, default=1, help="random seed of voices and sentences (default: 1)")
    mini.add_argument(
        "--train-voices", type=int, metavar="N", default=64, help="how many speakers train/ gets (default: 64)"
    )
    mini.add_argument(
        "--test-voices", type=int, metavar="N", default=24, help="how many speakers test/ gets (default: 24)"
    )
    mini.add_argument(
        "--sentences", type=int, metavar="N", default=12, help="how many utterances a speaker has (default: 12)"
    )
    ocean = verb("speechocean762", prepare_speechocean762, corpora)
    ocean.add_argument("folder", type=Path, help="where the data directories train/ and test/ are made")
    ocean.add_argument(
        "--corpus", type=Path, help="folder of the unpacked corpus, when it is here already: nothing is downloaded"
    )
    ocean.add_argument(
        "--downloads",
        type=Path,
        default=Path("downloads"),
        help="folder that the archive is downloaded to (default: downloads)",
    )
    ocean.add_argument("--checksum", help="the SHA-256 or MD5 that the downloaded archive must have")
    add_corpus_verbs(lambda name, function: verb(name, function, corpora))

    add_own_folder(verb, corpora)

    add_pack_verb(verb)
    added = verb("config", config)
    added.add_argument("--list", action="store_true", help="name the configurations that come with spkver, and end")
    _add_configuration(added, nargs="?")
    add_recipe_verb(verb)
    added = verb("train", train)
    _add_configuration(added)
    added.add_argument("--data", type=Path, help="data directory with the training speakers")
    added.add_argument(
        "--exp", type=Path, help="folder of the experiment (default: exp/NAME, where CONFIG is NAME.yaml)"
    )
    added.add_argument(
        "--init",
        type=Path,
        metavar="MODEL",
        help="model folder, or its experiment, that training begins with: fine-tuning",
    )
    added.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the experiment")
    added.add_argument(
        "--profile",
        type=int,
        nargs="?",
        const=30,
        metavar="STEPS",
        help="instead of training: time so many steps (default: 30), print where the time goes, keep nothing",
    )

    added = verb("average", average)
    added.add_argument("exp", type=Path, help="folder of the experiment")
    added.add_argument(
        "--data", type=Path, help="data directory that it was trained on (default: the one that training was given)"
    )
    added.add_argument("--device", default="auto", help=f"{DEVICES} (default: auto)")
    added.add_overrides("scoring.key=value", "values of the scoring section, for this model from then on")

    add_scoring_verbs(verb)
    add_export_verbs(verb)
    added = verb("results", results)
    added.add_argument(
        "exps", nargs="+", type=Path, metavar="exp", help="folders of experiments that `spkver evaluate` has measured"
    )
    add_json(added)

    add_daily_verbs(verb)
    add_picture_verbs(verbs, verb)
    add_doctor_verb(verb)
    add_completion_verb(verb, parser)
    return parser
