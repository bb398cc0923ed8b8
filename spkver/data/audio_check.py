"""Decode every file once before training: how long each is, and which are unusable.

A corrupt file otherwise stops a training run after hours, and a silent one teaches nonsense. What was
found is kept beside the list (``utt2dur``, ``unusable``), so that a directory is surveyed once. It is
taken up again while ``wav.scp`` is not newer; after changing audio under the same list, delete ``utt2dur``.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from spkver.data.audio import AudioError, check_samples, read_audio
from spkver.data.directory import DataDirectory, Utterance, read_columns, read_durations, write_durations
from spkver.data.shards import Location
from spkver.data.vad import NO_SPEECH, is_steady
from spkver.errors import SpkverError
from spkver.features import Fbank
from spkver.files import atomic_write

Looked = TypeVar("Looked")
MAX_REPORTED = 20
# Enough for telling steady sounds, and few enough for 4 kHz.
_DETECTION_MELS = 24


@dataclass(frozen=True)
class Survey:
    """``durations``: utterance -> seconds of the usable; ``unusable``: ``(utterance, path, reason)``.

    Reasons are ``silent``, ``no-speech`` (a steady sound) and the words of `spkver.data.containers.AudioError`.
    """

    durations: dict[str, float] = field(default_factory=dict)
    unusable: list[tuple[str, Location, str]] = field(default_factory=list)


def keep_usable(
    directory: DataDirectory, sample_rate: int, workers: int = 2, max_unusable_share: float = 0.01
) -> DataDirectory:
    """The directory without its unusable utterances and with ``durations`` filled.

    An earlier survey that lies in the folder is taken up, and only utterances that it does not know
    are decoded; what is new is stored there, except in a folder that cannot be written.

    Args:
        directory: what to decode.
        sample_rate: as training will read it, Hz.
        workers: threads.
        max_unusable_share: fraction of the utterances, ``data.max_unusable_share`` of a configuration.

    Raises:
        SpkverError: more than ``max_unusable_share`` of the utterances, or all, are unusable.
    """
    known = read_survey(directory.path)
    reasons = {utt: reason for utt, _, reason in known.unusable}
    new = [u for u in directory.utterances if u.id not in known.durations and u.id not in reasons]
    if new:
        found = _survey(new, sample_rate, workers)
        known = Survey(known.durations | found.durations, known.unusable + found.unusable)
        reasons |= {utt: reason for utt, _, reason in found.unusable}
        write_survey(directory.path, known)

    usable = [u for u in directory.utterances if u.id not in reasons]
    unusable = [(u.id, u.path, reasons[u.id]) for u in directory.utterances if u.id in reasons]
    here = Survey({u.id: known.durations[u.id] for u in usable}, unusable)
    refuse_too_many(here, directory, max_unusable_share)
    return replace(directory.subset(utterances=here.durations.keys()), durations=here.durations)


def decode_all(
    utterances: Sequence[Utterance], look_at: Callable[[Utterance], Looked], workers: int
) -> Iterator[Looked]:
    """What ``look_at`` says of each utterance, in order, with a progress bar on the terminal.

    Args:
        utterances: to be decoded.
        look_at: called in one of several threads; libsndfile decodes outside of Python's lock.
        workers: threads.
    """
    with ThreadPool(workers) as pool:
        looked = pool.imap(look_at, utterances, chunksize=8)
        yield from tqdm(looked, total=len(utterances), desc="decoding every file once", unit="file", disable=None)


def _survey(utterances: Sequence[Utterance], sample_rate: int, workers: int) -> Survey:
    found = Survey()
    fbank = Fbank(sample_rate, n_mels=_DETECTION_MELS).eval()
    for utterance, (seconds, reason) in zip(
        utterances, decode_all(utterances, partial(_look_at, fbank=fbank), workers)
    ):
        if reason is None:
            found.durations[utterance.id] = seconds
        else:
            found.unusable.append((utterance.id, utterance.path, reason))
    report_unusable(found)
    return found


def report_unusable(found: Survey) -> None:
    """Tell each unusable file by its path, up to a number of them."""
    for _, path, reason in found.unusable[:MAX_REPORTED]:
        print(f"{path}: {reason}, left out", file=sys.stderr)
    if len(found.unusable) > MAX_REPORTED:
        print(f"... and {len(found.unusable) - MAX_REPORTED} more left out", file=sys.stderr)


def _look_at(utterance: Utterance, fbank: Fbank) -> tuple[float, str | None]:
    """Seconds of a file, and why it is unusable (None if it is usable)."""
    try:
        samples = read_audio(utterance.path, fbank.sample_rate)
    except AudioError as error:
        return 0.0, error.reason
    reason = check_samples(samples) or (NO_SPEECH if is_steady(samples, fbank) else None)
    return len(samples) / fbank.sample_rate, reason


def refuse_too_many(found: Survey, directory: DataDirectory, max_unusable_share: float) -> None:
    """Raises SpkverError as `keep_usable` does; what is not decoded yet counts as usable."""
    bad, total = len(found.unusable), len(directory.utterances)
    if bad == 0 or (bad < total and bad <= max_unusable_share * total):
        return
    _, path, reason = found.unusable[0]
    raise SpkverError(
        f"{directory.path}: {bad} of {total} files ({bad / total:.1%}) are unusable, the first is {path} "
        f"({reason}); data.max_unusable_share allows {max_unusable_share:.1%}: repair the files, or raise it"
    )


def read_survey(folder: Path) -> Survey:
    """The survey that lies in a folder; an empty one where there is none or the list is newer.

    ``utt2dur`` alone is not a survey: other tools write it from headers, without decoding.
    """
    durations, unusable, audio_list = folder / "utt2dur", folder / "unusable", folder / "wav.scp"
    if not (durations.exists() and unusable.exists() and audio_list.exists()):
        return Survey()
    if audio_list.stat().st_mtime_ns > durations.stat().st_mtime_ns:
        return Survey()
    found = Survey(read_durations(durations))
    for line, utt, rest in read_columns(unusable):
        path, _, reason = rest.rpartition(" ")
        if not path:
            raise SpkverError(f"{unusable}:{line}: expected 'utterance path reason'; delete the file")
        found.unusable.append((utt, Path(path), reason))
    return found


def write_survey(folder: Path, found: Survey) -> None:
    """Keep what was found beside the list; that a folder cannot be written is only reported."""
    try:
        # `utt2dur` comes last: its time says that both are there.
        with atomic_write(folder / "unusable") as file:
            file.writelines(f"{utt} {path} {reason}\n" for utt, path, reason in found.unusable)
        write_durations(folder / "utt2dur", found.durations)
    except SpkverError as error:
        print(f"the survey is not kept: {error}", file=sys.stderr)
