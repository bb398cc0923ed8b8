"""The built-in corpus: made-up speakers that need no download, generated in half a minute.

Training and test voices are different; no sentence is spoken twice; each recording has its own pace,
pitch, room, microphone, noise and level, so that a voice is not known by these. It serves to try out,
teach and test the whole chain. It says nothing about people's voices: report figures on real speech.
"""

import json
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly
from tqdm import tqdm

from spkver.corpora.espeak_voices import Synthesiser, Voice, draw_voice, write_voices
from spkver.corpora.recording import record
from spkver.corpora.sentences import draw_sentence
from spkver.corpora.sound_file import write_pcm16
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.data.machine import usable_cores
from spkver.data.trial_making import make_trials
from spkver.data.trials import Trials, write_trials
from spkver.errors import SpkverError
from spkver.files import atomic_write, write_json

SAMPLE_RATE = 16000
MAX_NONTARGETS = 15000
_RECORD = "corpus.json"
_NAME = "spkver mini"
# Counted up when the same seed gives other recordings than before, so that a standing corpus is made anew.
_REVISION = 2


@dataclass(frozen=True)
class MiniCorpus:
    """What ``prepare_mini`` made; its text is a line for the terminal."""

    folder: Path
    train_voices: int
    test_voices: int
    sentences: int
    hours: float
    targets: int
    nontargets: int

    def __str__(self) -> str:
        voices = f"{self.train_voices} training + {self.test_voices} test voices"
        trials = f"{self.targets} target + {self.nontargets} nontarget trials"
        return f"{voices}, {self.sentences} sentences each, {self.hours:.1f} h, {trials} -> {self.folder}"


@dataclass(frozen=True)
class _Recording:
    """One utterance to be made: who says what, where it goes, and the seed of all that is its own."""

    id: str
    path: str  # from its data directory
    voice: Voice
    text: str
    seed: tuple[int, ...]


def prepare_mini(
    folder: str | Path,
    seed: int = 1,
    train_voices: int = 64,
    test_voices: int = 24,
    sentences: int = 12,
    processes: int | None = None,
) -> MiniCorpus:
    """Generate the built-in corpus: the data directories ``folder/train`` and ``folder/test`` (with
    ``spk2gender``, ``text`` and 16 kHz, 16 bit WAV files under ``wav``) and the list ``folder/test/trials``.

    The same parameters give the same bytes with any number of processes; a standing corpus of the same
    parameters is kept. The corpus is made aside and moved in at the end: a run that is broken off leaves
    nothing half done. Trials: all target pairs, and at most ``MAX_NONTARGETS`` nontarget pairs of the same
    gender. Processes are spawned, so a script calls this under ``if __name__ == "__main__":``.

    Args:
        sentences: utterances a voice, at least 2.
        processes: None takes the CPUs that this process may use.

    Raises:
        SpkverError: espeak-ng is not installed, or ``folder`` holds something else.
    """
    folder = Path(folder)
    numbers = {"seed": seed, "train_voices": train_voices, "test_voices": test_voices, "sentences": sentences}
    for (name, value), least in zip(numbers.items(), (0, 2, 4, 2)):
        if value < least:
            raise SpkverError(f"built-in corpus: {name} is {value}, must be at least {least}")
    wanted = {"corpus": _NAME, "revision": _REVISION, **numbers}
    if (standing := _standing(folder, wanted)) is not None:
        return standing
    spoken: set[str] = set()
    test = _plan("test", seed, test_voices, sentences, spoken)
    train = _plan("train", seed, train_voices, sentences, spoken)
    aside = folder / ".making"
    shutil.rmtree(aside, ignore_errors=True)  # what a killed run left
    aside.mkdir(parents=True)  # before the work, if it cannot be made at all
    try:
        durations = _record_all({aside / "train": train, aside / "test": test}, processes or usable_cores())
        _write_lists(aside / "train", train, durations)
        _write_lists(aside / "test", test, durations)
        labels = _write_trials(aside / "test", test, seed).known_labels
        hours, targets = math.fsum(durations.values()) / 3600, int(labels.sum())
        nontargets = len(labels) - targets
        _move_in(aside, folder, wanted, {"hours": hours, "targets": targets, "nontargets": nontargets})
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return MiniCorpus(folder, train_voices, test_voices, sentences, hours, targets, nontargets)


def _plan(split: str, seed: int, voices: int, sentences: int, spoken: set[str]) -> list[_Recording]:
    """All recordings of a split; its sentences join ``spoken``, so that none is used again.

    A voice depends on the seed, its split and its number alone: a small corpus is part of a larger one.
    """
    recordings = []
    for number in range(voices):
        entropy = (seed, ("train", "test").index(split), number)
        rng = np.random.default_rng(entropy)
        voice = draw_voice(f"{split}{number + 1:03d}", "fm"[number % 2], rng)
        for index in range(sentences):
            while (text := draw_sentence(rng)) in spoken:
                pass
            spoken.add(text)
            name = f"{voice.name}-{index + 1:02d}"
            path = f"wav/{voice.name}/{name}.wav"
            recordings.append(_Recording(name, path, voice, text, (*entropy, index)))
    return recordings


def _record_all(splits: dict[Path, list[_Recording]], processes: int) -> dict[str, float]:
    """Make all recordings of each folder and return their durations in seconds, by utterance."""
    jobs = [
        (folder, list(group))
        for folder, recordings in splits.items()
        for _, group in groupby(recordings, key=lambda recording: recording.voice)
    ]
    durations: dict[str, float] = {}
    # In the system's temporary folder, because espeak-ng takes no path longer than 160 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="spkver-") as data,
        tqdm(desc="built-in corpus", total=sum(map(len, splits.values())), unit="utt", disable=None) as bar,
    ):
        write_voices(data, [group[0].voice for _, group in jobs])
        pool = ProcessPoolExecutor(
            min(processes, len(jobs)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(data,),
        )
        try:
            for job in as_completed([pool.submit(_record_voice, folder, group) for folder, group in jobs]):
                durations.update(job.result())
                bar.update(len(job.result()))
        except BrokenProcessPool:
            raise SpkverError(
                "built-in corpus: a worker process died; run again with processes=1; a script must "
                "call prepare_mini under 'if __name__ == \"__main__\":'"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
    return durations


_synthesiser: Synthesiser  # of this worker process


def _start_worker(data: str) -> None:
    global _synthesiser
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # A worker whose parent was killed would wait for work for ever.
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _synthesiser = Synthesiser(data)


def _die_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _record_voice(folder: Path, recordings: list[_Recording]) -> dict[str, float]:
    """Speak, resample, colour and write one voice's recordings; their durations in seconds."""
    durations = {}
    for recording in recordings:
        rng = np.random.default_rng(recording.seed)
        speech = _synthesiser.speak(
            recording.text,
            recording.voice,
            rate=recording.voice.rate * rng.uniform(0.88, 1.14),
            pitch=rng.uniform(42, 58),
            seed=int(rng.integers(1 << 31)),
        )
        sound = record(resample_poly(speech, 320, 441), SAMPLE_RATE, rng)
        path = folder / recording.path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_pcm16(path, np.rint(sound * 32767).astype(np.int16), SAMPLE_RATE)
        durations[recording.id] = len(sound) / SAMPLE_RATE
    return durations


def _write_lists(folder: Path, recordings: list[_Recording], durations: dict[str, float]) -> None:
    utterances = [Utterance(r.id, folder / r.path, r.voice.name) for r in recordings]
    seconds = {r.id: durations[r.id] for r in recordings}
    write_data_directory(folder, utterances, _genders(recordings), seconds)
    with atomic_write(folder / "text") as file:
        file.writelines(f"{r.id} {r.text}\n" for r in recordings)


def _write_trials(folder: Path, recordings: list[_Recording], seed: int) -> Trials:
    trials = make_trials(
        [r.id for r in recordings],
        [r.voice.name for r in recordings],
        seed,
        max_nontargets=MAX_NONTARGETS,
        genders=_genders(recordings),
    )
    write_trials(folder / "trials", trials)
    return trials


def _genders(recordings: list[_Recording]) -> dict[str, str]:
    return {recording.voice.name: recording.voice.gender for recording in recordings}


def _standing(folder: Path, wanted: dict) -> MiniCorpus | None:
    """The corpus in ``folder`` if it is the wanted one and whole, None if one can be made there.

    Raises:
        SpkverError: there are data directories that are not the built-in corpus's.
    """
    record = _read_record(folder / _RECORD)
    if record is None:
        for split in ("train", "test"):
            if (folder / split).exists():
                raise SpkverError(f"{folder / split}: exists and is no built-in corpus; choose another folder")
        return None
    if "made" not in record or any(record.get(key) != value for key, value in wanted.items()):
        return None
    try:
        for split in ("train", "test"):
            expected = wanted[f"{split}_voices"] * wanted["sentences"]
            if len(read_data_directory(folder / split).utterances) != expected:
                return None
    except SpkverError:
        return None
    if not (folder / "test" / "trials").is_file():
        return None
    numbers = {name: record[name] for name in ("train_voices", "test_voices", "sentences")}
    return MiniCorpus(folder, **numbers, **record["made"])


def _move_in(aside: Path, folder: Path, wanted: dict, made: dict) -> None:
    """Put the corpus in the place of an earlier one; until all stands, the record lacks 'made'."""
    write_json(folder / _RECORD, wanted)
    for split in ("train", "test"):
        shutil.rmtree(folder / split, ignore_errors=True)
        (aside / split).rename(folder / split)
    write_json(folder / _RECORD, {**wanted, "made": made})


def _read_record(path: Path) -> dict | None:
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        record = None
    if not isinstance(record, dict) or record.get("corpus") != _NAME:
        raise SpkverError(f"{path}: no record of a built-in corpus; choose another folder, or remove this file")
    return record
