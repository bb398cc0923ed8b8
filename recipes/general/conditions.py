"""Copies of recordings as they would be in noise, in a room, on a telephone and through a codec.

    python recipes/general/conditions.py test DATA OUT --noise LIST --trials FILE
    python recipes/general/conditions.py held-out DATA OUT --noise LIST --exp EXP

DATA is a data directory, LIST names noises (`utt path` a line). ``test`` makes the data directories OUT/noise (10 dB),
OUT/room (reverberation of 0.3 to 0.6 s), OUT/telephone (8 kHz, mu-law) and OUT/opus (12 kbit/s) of the utterances in
a trial list, each with the list `trials`. ``held-out`` makes one, OUT, of the speakers that EXP was not trained on, for
its calibration: each utterance as it is, under all of these conditions, and a second of it; its `trials` are within
each condition, and as many across them. What is done to a recording depends on the seed and its place alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from spkver.corpora.sound_file import write_pcm16
from spkver.data.audio import read_audio
from spkver.data.augment import add_at_snr, reverberate, telephone
from spkver.data.codec import Codec, through_codec
from spkver.data.directory import Utterance, read_data_directory, write_data_directory
from spkver.data.recordings import Recordings
from spkver.data.simulated_room import simulated_room
from spkver.data.trial_making import make_trials
from spkver.data.trials import joined, read_trials, write_trials
from spkver.experiment.model_folder import read_speakers

RATE = 16000
SNR_DB = 10.0
RT60_SECONDS = 0.3, 0.6
KBIT_PER_SECOND = 12.0
PAIRS = 2000, 8000  # at most so many targets and nontargets of each kind calibrate

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def conditions(noise_list: Path) -> dict[str, Change]:
    """What is done to the samples ``(n_samples,)`` of a recording, by name."""

    def noise(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        added = Recordings(noise_list, RATE, len(samples)).draw_crop(rng)
        return _row(add_at_snr(_batch(samples), _batch(added), torch.tensor([SNR_DB])))

    def room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        response = simulated_room(rng, rng.uniform(*RT60_SECONDS), RATE)
        return _row(reverberate(_batch(samples), _batch(response), [int(np.abs(response).argmax())]))

    def phone(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return _row(telephone(_batch(samples), RATE, (300, 3400)))

    def opus(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return through_codec(samples, RATE, Codec("opus", KBIT_PER_SECOND))

    return {"noise": noise, "room": room, "telephone": phone, "opus": opus}


def _batch(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(samples, np.float32))[None]


def _row(batch: torch.Tensor) -> np.ndarray:
    return batch[0].numpy()


def make_tests(data: Path, trials: Path, out: Path, noise_list: Path, seed: int = 1) -> None:
    """Write a data directory of each condition, of the utterances that the trials name."""
    listed = read_trials(trials)
    wanted = {*listed.enroll, *listed.test}
    directory = read_data_directory(data)
    utterances = [utterance for utterance in directory.utterances if utterance.id in wanted]
    for number, (name, change) in enumerate(conditions(noise_list).items()):
        changed = [
            _changed(utterance, change, out / name, np.random.default_rng([seed, number, place]))
            for place, utterance in enumerate(tqdm(utterances, desc=name, unit="file", disable=None))
        ]
        write_data_directory(out / name, changed, directory.genders)
        write_trials(out / name / "trials", listed)


def make_held_out(data: Path, exp: Path, out: Path, noise_list: Path, seed: int = 1) -> None:
    """Write a data directory of the speakers that a model was not trained on, under each condition."""
    directory, trained = read_data_directory(data), set(read_speakers(exp / "model") or [])
    held_out = directory.at(np.array([utterance.speaker not in trained for utterance in directory.utterances]))
    changes = {"recorded": lambda samples, _: samples, "second": _second, **conditions(noise_list)}
    groups = [[] for _ in changes]  # utterances of each condition
    for number, (name, change) in enumerate(changes.items()):
        for place, utterance in enumerate(tqdm(held_out.utterances, desc=name, unit="file", disable=None)):
            again = replace(utterance, id=f"{utterance.id}-{name}")
            groups[number].append(_changed(again, change, out, np.random.default_rng([seed, number, place])))
    every = list(chain(*groups))
    write_data_directory(out, every, held_out.genders)
    lists = [
        make_trials([u.id for u in group], [u.speaker for u in group], seed, *PAIRS, held_out.genders)
        for group in [*groups, every]
    ]
    write_trials(out / "trials", joined(lists))


def _second(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second of a recording, from anywhere in it."""
    start = rng.integers(max(len(samples) - RATE, 0) + 1)
    return samples[start : start + RATE]


def _changed(utterance: Utterance, change: Change, folder: Path, rng: np.random.Generator) -> Utterance:
    """Write an utterance as a condition makes it."""
    samples = change(read_audio(utterance.path, RATE), rng)
    path = folder / "wav" / f"{utterance.id}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_pcm16(path, samples / max(1.0, float(np.abs(samples).max())), RATE)
    return Utterance(utterance.id, path, utterance.speaker)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    of = parser.add_subparsers(dest="of", required=True)
    for name, option in (("test", "--trials"), ("held-out", "--exp")):
        command = of.add_parser(name)
        command.add_argument("data", type=Path)
        command.add_argument("out", type=Path)
        command.add_argument("--noise", type=Path, required=True)
        command.add_argument(option, dest="chosen_by", type=Path, required=True)
    options = parser.parse_args()
    make = make_tests if options.of == "test" else make_held_out
    make(options.data, options.chosen_by, options.out, options.noise)
