"""Copies of test recordings as they would be in noise, in a room, on a telephone and through a codec.

    python recipes/general/conditions.py DATA TRIALS OUT --noise LIST

DATA is a data directory, TRIALS one of its lists, LIST names noises (`utt path` a line). Makes the data directories
OUT/noise (10 dB), OUT/room (reverberation of 0.3 to 0.6 s), OUT/telephone (8 kHz, mu-law) and OUT/opus (12 kbit/s),
each with the list `trials`. What is done to a recording depends on the seed and its place alone.
"""

import argparse
from collections.abc import Callable
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
from spkver.data.trials import read_trials, write_trials

RATE = 16000
SNR_DB = 10.0
RT60_SECONDS = 0.3, 0.6
KBIT_PER_SECOND = 12.0

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


def make_conditions(data: Path, trials: Path, out: Path, noise_list: Path, seed: int = 1) -> None:
    """Write a data directory of each condition, of the utterances that the trials name."""
    listed = read_trials(trials)
    wanted = {*listed.enroll, *listed.test}
    directory = read_data_directory(data)
    utterances = [utterance for utterance in directory.utterances if utterance.id in wanted]
    for number, (name, change) in enumerate(conditions(noise_list).items()):
        changed = []
        for place, utterance in enumerate(tqdm(utterances, desc=name, unit="file", disable=None)):
            samples = change(read_audio(utterance.path, RATE), np.random.default_rng([seed, number, place]))
            path = out / name / "wav" / f"{utterance.id}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_pcm16(path, samples / max(1.0, float(np.abs(samples).max())), RATE)
            changed.append(Utterance(utterance.id, path, utterance.speaker))
        write_data_directory(out / name, changed, directory.genders)
        write_trials(out / name / "trials", listed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for word in ("data", "trials", "out"):
        parser.add_argument(word, type=Path)
    parser.add_argument("--noise", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    make_conditions(options.data, options.trials, options.out, options.noise, options.seed)
