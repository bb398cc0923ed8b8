"""Own recordings to data directories: what is there, what is of use, who trains, who tests, and with what.

Nothing of the source is changed. Files stay where they are and are listed by their paths; only long ones are cut into
segments, which are written below the output. What is left out is reported with its reason, and listed in full in
``left_out.tsv``.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spkver.corpora.configuration_choice import CONFIGURATIONS, choose_configuration
from spkver.corpora.found_recordings import Found, find_recordings, known_gender
from spkver.corpora.inspection import Inspected, find_duplicates, inspect_recordings
from spkver.corpora.long_recordings import cut_recordings
from spkver.corpora.own_folder_report import (
    amount,
    by_reason,
    cut_line,
    found_lines,
    of_one_gender,
    one_recording_lines,
)
from spkver.corpora.speaker_split import draw_test_speakers, draw_trials, require_enough
from spkver.data.audio_check import Survey, write_survey
from spkver.data.directory import Utterance, read_pairs, write_data_directory
from spkver.data.trials import write_trials
from spkver.errors import SpkverError
from spkver.files import atomic_write

MOST_TOLD = 20
"""Lines about single files on the terminal; ``left_out.tsv`` has all."""


@dataclass(frozen=True)
class Limits:
    """What is of use, in seconds, and how much of it is tested with."""

    min_seconds: float = 1.0  # shorter recordings are left out
    long_seconds: float = 30.0  # longer ones are cut
    segment_seconds: float = 10.0  # the longest segment
    test_speakers: int | None = None
    targets: int = 20_000
    nontargets: int = 100_000


@dataclass(frozen=True)
class Prepared:
    """What was written; its text is the report for the terminal."""

    folder: Path
    train: list[Utterance]
    test: list[Utterance]
    targets: int
    nontargets: int
    left_out: list[tuple[str, str]]
    lines: list[tuple[str, str]]

    def __str__(self) -> str:
        told = [f"{'':<10}{path}: {reason}" for path, reason in self.left_out[:MOST_TOLD]]
        if len(self.left_out) > MOST_TOLD:
            told.append(f"{'':<10}... and {len(self.left_out) - MOST_TOLD} more in {self.folder / 'left_out.tsv'}")
        lines = [[f"{title:<10}{text}", *(told if title == "left out" else [])] for title, text in self.lines]
        return "\n".join(line for part in lines for line in part)


def prepare_own_folder(
    audio: Path,
    folder: Path,
    seed: int = 1,
    speaker_level: int = 1,
    sample_rate: int | None = None,
    genders: Path | None = None,
    limits: Limits = Limits(),
    workers: int = 2,
    configurations: Path = CONFIGURATIONS,
) -> Prepared:
    """Write ``train/`` and ``test/`` with ``trials``, ``config.yaml``, ``config_lmf.yaml``, ``left_out.tsv``.

    Args:
        audio: a folder of speakers' folders, a table, or a Kaldi data directory; see `find_recordings`.
        folder: for the output; it may lie in ``audio``.
        seed: of the split and the trials.
        speaker_level: which folder is a speaker.
        sample_rate: to train at, Hz; None: 8000 where half of the seconds or more are below 16 kHz, else 16000.
        genders: ``speaker gender`` a line, for sources that do not say.
        limits: what is of use.
        workers: threads that decode.
        configurations: the folder with own.yaml and its like.

    Raises:
        SpkverError: too little is there, the source is at fault, or the extra ``vad`` is missing and long files are
            there; one line each. No data directory is written then.
    """
    audio, folder = Path(audio), Path(folder)
    found = find_recordings(audio, speaker_level, ignore=folder)
    if genders is not None:
        found.genders |= _read_genders(genders, {utterance.speaker for utterance in found.utterances})
    inspected = inspect_recordings(found.utterances, workers)
    usable, of_no_use = _usable(inspected, limits.min_seconds)
    left_out = [(_printable(path), reason) for path, reason in found.left_out] + of_no_use
    rate = sample_rate or _rate_of(usable)

    long = [one for one in usable if one.seconds > limits.long_seconds]
    cut = {}
    if long:
        segment_limits = limits.segment_seconds, limits.min_seconds
        segments = cut_recordings(long, folder / "segments", rate, *segment_limits, workers)
        cut = {one.utterance.id: parts for one, parts in zip(long, segments)}
        left_out += [(_path(one), "nobody speaks in it") for one in long if not cut[one.utterance.id]]
    utterances, durations, recording_of = _listed(usable, cut, rate)
    _write_left_out(folder / "left_out.tsv", left_out)
    require_enough(utterances, str(audio), _advice(found, speaker_level, folder, len(left_out)))

    tested = set(draw_test_speakers(utterances, found.genders, seed, limits.test_speakers))
    train = [utterance for utterance in utterances if utterance.speaker not in tested]
    test = [utterance for utterance in utterances if utterance.speaker in tested]
    recordings = [recording_of[utterance.id] for utterance in test]
    trials = draw_trials(test, recordings, found.genders, seed, limits.targets, limits.nontargets)
    choice = choose_configuration(train, durations, rate, configurations)
    for name, part in (("train", train), ("test", test)):
        speakers = {utterance.speaker for utterance in part}
        known = {speaker: gender for speaker, gender in found.genders.items() if speaker in speakers}
        write_data_directory(folder / name, part, known)
        # All of it has been decoded: training need not do so again.
        write_survey(folder / name, Survey.of({utterance.id: durations[utterance.id] for utterance in part}))
    write_trials(folder / "test" / "trials", trials)
    choice.write(folder, configurations)

    targets = int(trials.known_labels.sum())
    nontargets = len(trials) - targets
    lines = found_lines(audio, found, inspected, usable)
    lines += [("left out", f"{by_reason(left_out)} -> {folder / 'left_out.tsv'}")] if left_out else []
    if long:
        lines.append(("cut", f"{cut_line(long, cut)} -> {folder / 'segments'}"))
    lines += [
        ("train", f"{amount(train, durations)} -> {folder / 'train'}, at {rate} Hz"),
        ("test", f"{amount(test, durations)} -> {folder / 'test'}, drawn by seed {seed}"),
        ("trials", f"{targets} target + {nontargets} nontarget{of_one_gender(test, found.genders)}"),
        *one_recording_lines(test, recordings),
        ("config", f"{choice} -> {folder / 'config.yaml'}, {folder / 'config_lmf.yaml'}"),
    ]
    return Prepared(folder, train, test, targets, nontargets, left_out, lines)


def _usable(inspected: Sequence[Inspected], min_seconds: float) -> tuple[list[Inspected], list[tuple[str, str]]]:
    """The recordings to use, and path and reason of the others."""
    decoded = [one for one in inspected if one.reason is None]
    path_of = {one.utterance.id: _path(one) for one in decoded}
    copies, disputed = find_duplicates(decoded)
    usable, left_out = [], [(_path(one), one.reason) for one in inspected if one.reason is not None]
    for one in decoded:
        utt, path = one.utterance.id, _path(one)
        if utt in disputed:
            left_out.append(
                (path, f"duplicate of {path_of[disputed[utt]]}, which is another speaker's; neither is used")
            )
        elif utt in copies:
            left_out.append((path, f"duplicate of {path_of[copies[utt]]}"))
        elif one.seconds < min_seconds:
            left_out.append((path, f"too short ({one.seconds:.2f} s of {min_seconds:g} s)"))
        else:
            usable.append(one)
    return usable, left_out


def _read_genders(path: Path, speakers: set[str]) -> dict[str, str]:
    if not path.is_file():
        raise SpkverError(f"{path}: no such file; --genders wants 'speaker f|m' a line")
    words = {speaker: known_gender(word) for speaker, word in read_pairs(path).items()}
    if not speakers & words.keys():
        raise SpkverError(f"{path}: names none of the speakers, who are called as '{min(speakers)}' is")
    return {speaker: gender for speaker, gender in words.items() if gender}


def _listed(
    usable: Sequence[Inspected], cut: Mapping[str, list[tuple[Utterance, float]]], rate: int
) -> tuple[list[Utterance], dict[str, float], dict[str, str]]:
    """Utterances with segments in place of long files, their seconds, and the recording that each is from."""
    utterances, durations, recording_of = [], {}, {}
    for one in usable:
        utt = one.utterance.id
        # As the reader resamples: never a fraction of a sample.
        whole = [(one.utterance, -(-one.n_samples * rate // one.sample_rate) / rate)]
        for utterance, seconds in cut.get(utt, whole):
            utterances.append(utterance)
            durations[utterance.id] = seconds
            recording_of[utterance.id] = utt
    return utterances, durations, recording_of


def _rate_of(usable: Sequence[Inspected]) -> int:
    low = sum(one.seconds for one in usable if one.sample_rate < 16000)
    return 8000 if usable and 2 * low >= sum(one.seconds for one in usable) else 16000


def _advice(found: Found, level: int, folder: Path, n_left_out: int) -> str:
    """Another level of the tree, where that has more folders than this one; where to read what was left out."""
    here = found.speakers_at.get(level, 0)
    better = [(depth, n) for depth, n in sorted(found.speakers_at.items()) if level > 0 and depth > level and n > here]
    advice = (
        f", or take other folders for speakers: --speaker-level {better[0][0]} has {better[0][1]}" if better else ""
    )
    return advice + (f" ({n_left_out} files are left out, see {folder / 'left_out.tsv'})" if n_left_out else "")


def _write_left_out(path: Path, left_out: Sequence[tuple[str, str]]) -> None:
    with atomic_write(path) as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows(left_out)


def _printable(path: str) -> str:
    """A path as a line of text can hold it; bytes that are no UTF-8 become question marks."""
    return path.encode("utf-8", "replace").decode("utf-8").replace("\n", "?")


def _path(one: Inspected) -> str:
    return _printable(str(one.utterance.path))
