"""Decode every file once before training: how long each is, and which are unusable.

A corrupt file otherwise stops a training run after hours, and a silent one teaches nonsense. What was
found is kept beside the list (``utt2dur``, ``unusable``), so that a directory is surveyed once. It is
taken up again while ``wav.scp`` is not newer; after changing audio under the same list, delete ``utt2dur``.

A long list is decoded in parts that are kept as they are done, in a hidden folder beside it: a survey that was stopped
goes on there, and processes that begin it together share it.
"""

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from spkver.data.audio import AudioError, check_samples, read_audio
from spkver.data.directory import DataDirectory, Utterance, read_columns, read_durations, write_durations
from spkver.data.machine import usable_cores
from spkver.data.shards import Location, located, stamp
from spkver.data.shared_work import StopWork, share_work
from spkver.data.utterance_table import UtteranceTable, find
from spkver.data.vad import NO_SPEECH, is_steady
from spkver.errors import SpkverError
from spkver.features import Fbank
from spkver.files import atomic_write, locked

Looked = TypeVar("Looked")
MAX_REPORTED = 20
# Enough for telling steady sounds, and few enough for 4 kHz.
_DETECTION_MELS = 24
# Some seconds of work on one core.
_UTTERANCES_A_PART = 512

Unusable = tuple[str, Location, str]
"""An utterance, its path and the reason: ``silent``, ``no-speech`` (a steady sound), or a word of `AudioError`."""
# Seconds of a file, and why it is unusable; None if it is usable.
_Look = tuple[float, str | None]


@dataclass(frozen=True)
class Survey:
    """What decoding found.

    Attributes:
        ids: (n,) the usable utterances.
        seconds: (n,) how long each of these is.
        unusable: the others, with their reasons.
    """

    ids: pa.StringArray
    seconds: np.ndarray
    unusable: list[Unusable]

    @classmethod
    def of(cls, durations: Mapping[str, float], unusable: Sequence[Unusable] = ()) -> "Survey":
        """The same of utterance -> seconds."""
        seconds = np.fromiter(durations.values(), np.float64, len(durations))
        return cls(pa.array(list(durations), pa.string()), seconds, list(unusable))

    def __add__(self, other: "Survey") -> "Survey":
        ids = pa.concat_arrays([self.ids, other.ids])
        return Survey(ids, np.concatenate([self.seconds, other.seconds]), self.unusable + other.unusable)


def keep_usable(
    directory: DataDirectory, sample_rate: int, workers: int | None = None, max_unusable_share: float = 0.01
) -> DataDirectory:
    """The directory without its unusable utterances and with the lengths of the others.

    An earlier survey that lies in the folder is taken up, and only utterances that it does not know
    are decoded; what is new is stored there, except in a folder that cannot be written.

    Args:
        directory: what to decode.
        sample_rate: as training will read it, Hz.
        workers: threads; None: one a core.
        max_unusable_share: fraction of the utterances, ``data.max_unusable_share`` of a configuration.

    Raises:
        SpkverError: more than ``max_unusable_share`` of the utterances, or all, are unusable.
    """
    known = read_survey(directory.path)
    new = _not_in(known, directory)
    if len(new):
        known = _extended(known, new, directory.path, sample_rate, workers or usable_cores())
    refuse_too_many(directory, unusable_of(directory, known), max_unusable_share)
    places = find(directory.utterances.ids, known.ids)
    usable = directory if (places >= 0).all() else directory.at(places >= 0)
    return usable.with_seconds(known.seconds[places[places >= 0]])


def unusable_of(directory: DataDirectory, survey: Survey) -> list[Unusable]:
    """What is unusable of a directory, in its order."""
    reasons = {utt: reason for utt, _, reason in survey.unusable}
    places = directory.utterances.find(reasons)
    chosen = (directory.utterances[int(place)] for place in np.sort(places[places >= 0]))
    return [(one.id, one.path, reasons[one.id]) for one in chosen]


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


def _not_in(known: Survey, directory: DataDirectory) -> UtteranceTable:
    """The utterances that a survey does not know."""
    is_new = find(directory.utterances.ids, known.ids) < 0
    places = directory.utterances.find(utt for utt, _, _ in known.unusable)
    is_new[places[places >= 0]] = False
    return directory.utterances.take(is_new)


def _extended(known: Survey, new: UtteranceTable, folder: Path, sample_rate: int, workers: int) -> Survey:
    """What was known and what is found in the new utterances, stored in the folder."""
    look_at = partial(_look_at, fbank=Fbank(sample_rate, n_mels=_DETECTION_MELS).eval())
    if len(new) <= _UTTERANCES_A_PART or not os.access(folder, os.W_OK):
        return _stored(folder, known, _survey_of(new, list(decode_all(new, look_at, workers))))
    parts = _Parts(folder, new, sample_rate, look_at)
    looked = parts.shared(workers)
    with locked(folder / ".audio_check.lock", "the audio check", wait_seconds=600):
        if parts.are_over():  # another process has written the survey
            return read_survey(folder)
        survey = _stored(folder, known, _survey_of(new, looked))
        parts.remove()
    return survey


def _stored(folder: Path, known: Survey, found: Survey) -> Survey:
    report_unusable(found.unusable)
    write_survey(folder, known + found)
    return known + found


def _survey_of(utterances: UtteranceTable, looked: Sequence[_Look]) -> Survey:
    is_usable = np.array([reason is None for _, reason in looked])
    seconds = np.array([seconds for seconds, _ in looked])[is_usable]
    unusable = zip(utterances.take(~is_usable), (reason for _, reason in looked if reason is not None))
    return Survey(utterances.take(is_usable).ids, seconds, [(one.id, one.path, reason) for one, reason in unusable])


class _Parts:
    """What is found in parts of a long list; each is a file of a line an utterance, its seconds or the reason."""

    def __init__(
        self, folder: Path, utterances: UtteranceTable, sample_rate: int, look_at: Callable[[Utterance], _Look]
    ):
        self._utterances, self._look_at = utterances, look_at
        listed = f"{sample_rate} {stamp(folder / 'wav.scp')} {' '.join(utterances.ids.to_pylist())}"
        self._folder = folder / f".audio_check-{hashlib.sha256(listed.encode()).hexdigest()[:12]}"

    def shared(self, workers: int) -> list[_Look]:
        """What is found in each utterance, by this process or another; not all, where another is already done."""
        self._folder.mkdir(exist_ok=True)
        numbers = range(-(-len(self._utterances) // _UTTERANCES_A_PART))
        one_core = partial(torch.set_num_threads, 1)
        found: dict[int, list[_Look]] = {}
        with tqdm(total=len(self._utterances), desc="decoding every file once", unit="file", disable=None) as bar:
            for number, part, _ in share_work(
                numbers, self._read, self._make, self._lock, workers, self.are_over, one_core
            ):
                found[number] = part
                bar.update(len(part))
        return [look for number in sorted(found) for look in found[number]]

    def are_over(self) -> bool:
        """Whether another process has taken them all together."""
        return not self._folder.is_dir()

    def remove(self) -> None:
        """Take the parts away, when the survey is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _lock(self, number: int) -> Path:
        # Outside of the folder, which a lock would bring back.
        return self._folder.with_name(f"{self._folder.name}-{number}.lock")

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:06d}"

    def _of(self, number: int) -> UtteranceTable:
        return self._utterances[number * _UTTERANCES_A_PART : (number + 1) * _UTTERANCES_A_PART]

    def _read(self, number: int) -> list[_Look] | None:
        try:
            lines = self._path(number).read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError):
            return None
        looked: list[_Look] = [(0.0, line) if line[:1].isalpha() else (_number(line), None) for line in lines]
        return looked if len(looked) == len(self._of(number)) and all(s >= 0 for s, _ in looked) else None

    def _make(self, number: int, stop: threading.Event) -> list[_Look]:
        looked = []
        for utterance in self._of(number):
            if stop.is_set():
                raise StopWork
            looked.append(self._look_at(utterance))
        with atomic_write(self._path(number)) as file:
            file.writelines(f"{seconds!r}\n" if reason is None else f"{reason}\n" for seconds, reason in looked)
        return looked


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _look_at(utterance: Utterance, fbank: Fbank) -> _Look:
    """Seconds of a file, and why it is unusable (None if it is usable)."""
    try:
        samples = read_audio(utterance.path, fbank.sample_rate)
    except AudioError as error:
        return 0.0, error.reason
    reason = check_samples(samples) or (NO_SPEECH if is_steady(samples, fbank) else None)
    return len(samples) / fbank.sample_rate, reason


def report_unusable(unusable: Sequence[Unusable]) -> None:
    """Tell each unusable file by its path, up to a number of them."""
    for _, path, reason in unusable[:MAX_REPORTED]:
        print(f"{path}: {reason}, left out", file=sys.stderr)
    if len(unusable) > MAX_REPORTED:
        print(f"... and {len(unusable) - MAX_REPORTED} more left out", file=sys.stderr)


def refuse_too_many(directory: DataDirectory, unusable: Sequence[Unusable], max_unusable_share: float) -> None:
    """Raises SpkverError as `keep_usable` does; what is not decoded yet counts as usable."""
    bad, total = len(unusable), len(directory.utterances)
    if bad == 0 or (bad < total and bad <= max_unusable_share * total):
        return
    _, path, reason = unusable[0]
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
        return Survey.of({})
    if audio_list.stat().st_mtime_ns > durations.stat().st_mtime_ns:
        return Survey.of({})
    found = Survey(*read_durations(durations), [])
    for line, utt, rest in read_columns(unusable):
        path, _, reason = rest.rpartition(" ")
        if not path:
            raise SpkverError(f"{unusable}:{line}: expected 'utterance path reason'; delete the file")
        found.unusable.append((utt, located(path, folder), reason))
    return found


def write_survey(folder: Path, found: Survey) -> None:
    """Keep what was found beside the list; that a folder cannot be written is only reported."""
    try:
        # `utt2dur` comes last: its time says that both are there.
        with atomic_write(folder / "unusable") as file:
            file.writelines(f"{utt} {path} {reason}\n" for utt, path, reason in found.unusable)
        write_durations(folder / "utt2dur", zip(found.ids.to_pylist(), found.seconds.tolist()))
    except SpkverError as error:
        print(f"the survey is not kept: {error}", file=sys.stderr)
