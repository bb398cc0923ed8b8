"""The verbs of daily use: verify, enroll, identify, speakers.

Heavy imports stand inside the verbs, so that ``spkver --help`` is instant. The exit status says yes (0) or no (3),
and a mistake (1), so that scripts can ask; ``--json`` prints one object a line.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from spkver.cli.json_output import add_json, show_both
from spkver.cli.parser import DEVICES
from spkver.errors import SpkverError

YES, NO = 0, 3
_MODEL = "model folder, or the experiment that has one, such as exp/own"
_SYSTEM = (
    "whose scores decide: cosine, cosine+asnorm, plda, any of them +calibration (default: the first that the model is "
    "calibrated for of cosine+asnorm, cosine, plda; else cosine)"
)
_THRESHOLD = (
    "lowest score of the same speaker: SYSTEM:NUMBER as `spkver threshold` prints it, or a number, "
    "which is taken for the system that decides (default: the one that `spkver threshold --save` has kept in the "
    "model; else that of the calibration's prior; else equal error among held-out training speakers)"
)
_PRIOR = (
    "probability of the same speaker before the recordings are compared, for a calibrated system: sets the threshold"
)


def add_daily_verbs(verb: Callable) -> None:
    """Give the parser its verbs of daily use; ``verb(name, function)`` adds one."""

    def deciding(added: argparse.ArgumentParser) -> None:
        added.add_argument("--system", help=_SYSTEM)
        how = added.add_mutually_exclusive_group()
        how.add_argument("--threshold", metavar="SCORE", help=_THRESHOLD)
        how.add_argument("--prior", type=float, help=_PRIOR)

    def store_verb(name: str, function) -> argparse.ArgumentParser:
        added = verb(name, function)
        added.add_argument("--store", type=Path, required=True, metavar="DIR", help="folder of the speaker store")
        add_json(added)
        return added

    def computing(added: argparse.ArgumentParser) -> None:
        why = "default: cpu, as a GPU takes longer to start than a recording without it"
        added.add_argument("--device", default="cpu", help=f"{DEVICES} ({why})")

    added = verb("verify", verify)
    added.add_argument("a", help="first recording, an audio file")
    added.add_argument("b", help="second recording, an audio file")
    added.add_argument("--model", type=Path, help=f"{_MODEL} (default: the general model that comes with spkver)")
    add_json(added)
    deciding(added)
    computing(added)

    added = store_verb("enroll", enroll)
    added.add_argument("name", help="name of the speaker")
    added.add_argument("files", nargs="+", metavar="file", help="recordings of the speaker")
    computing(added)
    which = "default: the one that the store was made with; of a new store the general model that comes with spkver"
    added.add_argument("--model", type=Path, help=f"{_MODEL} ({which})")
    added.add_argument("--system", help=_SYSTEM.replace("decide", "judge whether the recordings are alike", 1))
    known = added.add_mutually_exclusive_group()
    known.add_argument(
        "--add",
        dest="known",
        action="store_const",
        const="add",
        help="add to the recordings of a speaker who is enrolled",
    )
    known.add_argument(
        "--replace",
        dest="known",
        action="store_const",
        const="replace",
        help="replace the recordings of a speaker who is enrolled",
    )
    added.set_defaults(known="refuse")

    added = store_verb("identify", identify)
    added.add_argument("files", nargs="+", metavar="file", help="recordings to identify, audio files")
    added.add_argument("--model", type=Path, help=f"{_MODEL} (default: the one that the store was made with)")
    deciding(added)
    computing(added)
    added.add_argument("--windows", action="store_true", help="tell who speaks when, in a recording of any length")
    added.add_argument(
        "--window",
        type=float,
        default=3.0,
        metavar="SECONDS",
        help="with --windows: length of a window in seconds (default: 3)",
    )
    added.add_argument(
        "--hop",
        type=float,
        default=1.5,
        metavar="SECONDS",
        help="with --windows: seconds from one window to the next (default: 1.5)",
    )

    store_verb("speakers", speakers).add_argument("--remove", metavar="NAME", help="remove this speaker from the store")


def verify(options) -> int:
    """Say whether two recordings are of one speaker; exit status 0 for yes, 3 for no."""
    from spkver.verification.verifier import load

    voice = load(options.model or _general(), options.system, options.device)
    _decide(voice, options)
    outcome = voice.verify(options.a, options.b)
    said = "same speaker" if outcome.same_speaker else "different speakers"
    record = {"a": options.a, "b": options.b, **outcome._asdict()}
    show_both(options, f"{said}   {_scored(outcome)}", record)
    return YES if outcome.same_speaker else NO


def enroll(options) -> None:
    """Enrol a speaker by recordings, into a folder of speakers; the first enrolment makes it and names the model."""
    from spkver.verification.speaker_store import SpeakerStore
    from spkver.verification.store_files import read_enrolled

    if Path(options.name).is_file():
        raise SpkverError(f"enroll: {options.name} is a file; the speaker's name comes before the recordings")
    is_new = read_enrolled(options.store) is None
    model = options.model or (_general() if is_new else None)
    store = SpeakerStore(options.store, model, options.system, options.device)
    outcome = store.enroll(options.name, options.files, known=options.known)
    lines = [f"{outcome.name}: {_counted(outcome.recordings)} -> {options.store} ({len(store.speakers)} enrolled)"]
    for file, score in outcome.doubtful:
        below = f"{_kind(store.voice.calibrated)} {score:.3f}, {_threshold(outcome)}"
        lines.append(f"{file}: sounds unlike the other recordings of {outcome.name} ({below})")
    record = outcome._asdict() | {"doubtful": [{"file": file, "score": score} for file, score in outcome.doubtful]}
    record = {"speaker": record.pop("name"), **record, "system": store.voice.system}
    show_both(options, "\n".join(lines), record | {"store": str(options.store), "enrolled": len(store.speakers)})


def identify(options) -> int:
    """Say who of the enrolled speakers is speaking; exit status 0 when all are known, 3 when one is not."""
    from spkver.verification.speaker_store import SpeakerStore

    store = SpeakerStore(options.store, options.model, options.system, options.device)
    _decide(store.voice, options)
    ask = _who_speaks_when if options.windows else _who
    known = [ask(store, file, options) for file in options.files]
    return YES if all(known) else NO


def speakers(options) -> None:
    """List the enrolled speakers, or forget one."""
    from spkver.verification.speaker_store import SpeakerStore
    from spkver.verification.store_files import read_enrolled

    if read_enrolled(options.store) is None:
        raise SpkverError(f"{options.store}: is no speaker store; `spkver enroll NAME FILE ... --store DIR` makes one")
    store = SpeakerStore(options.store)
    if options.remove is not None:
        store.remove(options.remove)
    for name, recordings in store.speakers.items():
        seconds = sum(recording.seconds for recording in recordings)
        files = [recording.file for recording in recordings]
        record = {"speaker": name, "recordings": len(recordings), "seconds": seconds, "files": files}
        show_both(options, f"{name}: {_counted(len(recordings))}, {seconds:.1f} s", record)


def _who(store, file: str, options) -> bool:
    """Print who speaks in a file; whether it is somebody who is known."""
    outcome = store.identify(file)
    nearest = "" if outcome.speaker else f"   nearest {next(iter(outcome.scores))}"
    said = f"{file}: {outcome.speaker or 'unknown'}   {_scored(outcome)}{nearest}"
    show_both(options, said, {"file": file, **outcome._asdict()})
    return outcome.speaker is not None


def _who_speaks_when(store, file: str, options) -> bool:
    """Print who speaks when in a file; whether there is somebody who is known."""
    stretches = store.who_speaks_when(file, options.window, options.hop)
    lines = [
        f"{file}: {stretch.start_seconds:8.1f} - {stretch.end_seconds:8.1f} s   "
        f"{stretch.speaker or 'unknown'}   {_kind(store.voice.calibrated)} {stretch.score:.3f}"
        for stretch in stretches
    ]
    if lines:
        lines.insert(0, f"{file}: {_threshold(store.voice)}")
    voice = store.voice
    record = {"file": file, "threshold": voice.threshold, "calibrated": voice.calibrated}
    record |= {"system": voice.system, "threshold_source": voice.threshold_source}
    text = "\n".join(lines) or f"{file}: no speech"
    show_both(options, text, record | {"stretches": [stretch._asdict() for stretch in stretches]})
    return any(stretch.speaker is not None for stretch in stretches)


def _general() -> Path:
    """The folder of the model that nobody chose; says on standard error what it is."""
    from spkver.config import load_run
    from spkver.experiment.model_folder import CONFIG, GENERAL

    if not (GENERAL / CONFIG).is_file():
        raise SpkverError(
            f"{GENERAL}: this spkver came without its general model; name one by --model, such as exp/own"
        )
    about = load_run(GENERAL / CONFIG)[1]["about"]
    print(f"{about} For production name a model of more speakers by --model.", file=sys.stderr)
    return GENERAL


def _decide(voice, options) -> None:
    """The threshold that the command line asks for."""
    from spkver.scoring.stored_threshold import parse_threshold

    if options.prior is not None:
        voice.set_prior(options.prior)
    if options.threshold is not None:
        voice.set_threshold(parse_threshold(options.threshold, voice.system), "as it was given")


def _scored(outcome) -> str:
    return f"{_kind(outcome.calibrated)} {outcome.score:.3f}   {_threshold(outcome)}"


def _threshold(known) -> str:
    """The threshold of an answer or a model, and where it comes from."""
    return f"threshold {known.threshold:.3f}: {known.threshold_source}"


def _kind(calibrated: bool) -> str:
    return "log-likelihood ratio" if calibrated else "score"


def _counted(n: int) -> str:
    return f"{n} recording{'s' * (n != 1)}"
