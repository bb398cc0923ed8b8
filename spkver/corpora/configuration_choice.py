"""Which configuration own recordings are trained with, by how many speakers and hours there are.

=================================================  ====================
training speakers, hours of them                   configuration
=================================================  ====================
under 40 speakers or under one hour                conf/own_small.yaml
1,000 speakers or more                             conf/own_large.yaml
otherwise                                          conf/own.yaml
=================================================  ====================

Training speakers are those that are neither tested nor held out. Sizes that depend on the data are derived:

- a tenth of the speakers is held out, but a third of few until that makes 5, and at most 100: the EER after each
  epoch and the calibration are theirs;
- a batch has 64 speakers (32 in the fine-tune), or as many as there are, copies at other speeds included;
- epochs make about 1,500, 3,000 or 30,000 steps, but no more than 40, 20 or 20 and no fewer than 3; the margin rises
  from three tenths of them to seven, and the last third, at most 5, is averaged;
- the cohort of score normalisation is the nearest half of the training speakers, 50 from 100 speakers on and a
  twentieth from 1,000 on, at most 300.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from spkver.config import load_config
from spkver.config.shipped import CONFIGURATIONS
from spkver.data.directory import Utterance
from spkver.errors import SpkverError
from spkver.files import atomic_write


@dataclass(frozen=True)
class Size:
    """A size of data: its configuration, and the steps and epochs to aim at."""

    name: str
    steps: int
    most_epochs: int


SMALL, MIDDLE, LARGE = Size("own_small", 1500, 40), Size("own", 3000, 20), Size("own_large", 30_000, 20)


@dataclass(frozen=True)
class Choice:
    """The configuration that was chosen; its text says which and why."""

    size: Size
    why: str
    values: dict
    fine_tune: dict
    steps: int

    def __str__(self) -> str:
        training, held_out = self.values["training"], self.values["data"]["held_out_speakers"]
        return (
            f"{self.size.name}.yaml, for {self.why}; {training['epochs']} epochs of {self.steps} steps, "
            f"{held_out} training speakers held out"
        )

    def write(self, folder: Path, configurations: Path) -> None:
        """Write ``folder/config.yaml`` and ``folder/config_lmf.yaml``, its large-margin fine-tune."""
        for ending, values in (("", self.values), ("_lmf", self.fine_tune)):
            base = f"{self.size.name}{ending}.yaml"
            if not configurations.samefile(CONFIGURATIONS):  # theirs are found by name
                base = os.path.relpath(configurations / base, folder)
            with atomic_write(folder / f"config{ending}.yaml") as file:
                file.write(f"# Chosen by `spkver prepare folder`, for {self.why}.\n")
                yaml.safe_dump({"base": base, **values}, file, sort_keys=False, allow_unicode=True)


def choose_configuration(
    utterances: Sequence[Utterance],
    durations: Mapping[str, float],
    sample_rate: int,
    configurations: Path = CONFIGURATIONS,
) -> Choice:
    """Choose by the rule of this file.

    Args:
        utterances: of the training speakers, those to be held out included.
        durations: utterance -> seconds.
        sample_rate: to train at, Hz.
        configurations: the folder with the files.

    Raises:
        SpkverError: a file is not in that folder.
    """
    counts = Counter(utterance.speaker for utterance in utterances)
    several = sum(n > 1 for n in counts.values())
    held_out = min(100, max(3, min(5, several // 3), round(several / 10)))
    speakers = len(counts) - held_out
    share = speakers / len(counts)
    hours = share * sum(durations[utterance.id] for utterance in utterances) / 3600
    size = _size(speakers, hours)

    config = load_config(_file(configurations, size.name))
    load_config(_file(configurations, f"{size.name}_lmf"))  # found wanting now rather than after the training
    copies = len(config.augment.speed_factors) * len(config.augment.formant_factors)
    batch = min(config.batch.speakers, speakers * copies)
    steps = max(1, int(share * len(utterances) * copies / batch))
    epochs = min(size.most_epochs, max(3, round(size.steps / steps)))
    averaged = min(5, -(-epochs // 3))
    common = {
        "data": {"sample_rate": sample_rate, "held_out_speakers": held_out},
        "scoring": {"norm": {"top_n": _top_n(speakers)}},
    }
    values = {
        **common,
        "batch": {"speakers": batch},
        "lr_schedule": {"warmup_epochs": min(1.0, epochs / 5)},
        "margin_schedule": {"start_epoch": round(0.3 * epochs, 1), "end_epoch": round(0.7 * epochs, 1)},
        "training": {"epochs": epochs, "keep_last": averaged, "average_last": averaged},
    }
    fine_tune = {**common, "batch": {"speakers": min(32, speakers)}}
    why = f"{speakers} training speakers with {hours:.1f} h"
    return Choice(size, why, values, fine_tune, steps)


def _size(speakers: int, hours: float) -> Size:
    if speakers < 40 or hours < 1:
        return SMALL
    return LARGE if speakers >= 1000 else MIDDLE


def _top_n(speakers: int) -> int:
    return max(2, min(50, speakers // 2), min(300, speakers // 20))


def _file(folder: Path, name: str) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise SpkverError(f"{path}: no such configuration; name the folder that has it by --configurations")
    return path
