"""What variants of a configuration bring: held-out training speakers, several seeds, the same steps.

``python recipes/benchmark/variants.py [FILE] [key=value ...]``; see ``variants.yaml``, which is read where no file is
named, and ``fine_tunes.yaml``. A run holds the speakers of its seed out, trains on the others, and takes pairs of the
held-out utterances as trials. Each run is a process of its own with cores of its own, leaves
``OUT/VARIANT_seed_SEED.json``, and is not run again. Differences are taken seed by seed, since some speakers are harder
than others.
"""

import json
import sys
from collections import deque
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from rows import measure_side_by_side
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_loop import train_on

from spkver.config import Config, load_config
from spkver.config.schema import Count, Section
from spkver.corpora.speechocean762 import ADULT_YEARS, read_ages
from spkver.data.audio_check import keep_usable
from spkver.data.directory import DataDirectory, read_data_directory
from spkver.data.trial_making import make_trials
from spkver.data.trials import map_trials
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import read_speakers
from spkver.models import build_encoder
from spkver.models.device import choose_dtype
from spkver.scoring.backends.cosine import cosine_scores
from spkver.scoring.metrics import equal_error_rate
from spkver.training.checkpoint import mean_of
from spkver.training.held_out import split_speakers
from spkver.training.norm_statistics import renew_statistics

DEFAULT = Path(__file__).parent / "variants.yaml"
MEASURES = ["eer", "area_above", "by_speaker"]  # what a kept result has of all of its weights
VariantName = Annotated[str, Field(pattern=r"^\w[\w .+-]*$")]


class Comparison(Section):
    corpus: str
    ages: str | None
    out: str
    config: str
    init: str | None
    common: list[str]
    variants: Annotated[dict[VariantName, list[str]], Field(min_length=1)]
    schedule_free: list[str]
    rows: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Count], Field(min_length=1)]
    steps: Count
    held_out_speakers: Count
    moving_average: Annotated[float, Field(gt=0, lt=1)]
    cores: Count


def run(variant: str, seed: int, comparison: Comparison) -> dict:
    """Train one variant with one seed, and measure it on the speakers held out."""
    from sklearn.metrics import roc_auc_score  # here: it takes two seconds

    torch.set_num_threads(comparison.cores)
    config = config_of(variant, seed, comparison)
    usable = keep_usable(read_data_directory(comparison.corpus), config.data.sample_rate)
    training, held_out = map(usable.subset, split_speakers(usable, comparison.held_out_speakers, seed))
    enroll, test, labels = trials_of(held_out, comparison)
    speakers = np.array([utterance.speaker for utterance in held_out.utterances])
    init = model_of(seed, comparison, held_out.speakers)
    torch.manual_seed(seed)
    encoder = build_encoder(config.model, config.features.n_mels)
    title, schedule_free = f"{variant}, seed {seed}", variant in comparison.schedule_free
    weights, seconds = train(encoder, config, training, comparison, title, schedule_free, init)
    result = {"settings": settings(variant, seed, comparison), "held_out": held_out.speakers, "seconds": seconds}
    for name, state in weights.items():
        encoder.load_state_dict(state)
        renew_statistics(encoder, training, config)
        embeddings = Extractor(encoder, config).embed_utterances(held_out.utterances, "")
        scores = cosine_scores(embeddings, enroll, test)
        result[name] = {
            "eer": float(equal_error_rate(scores, labels)[0]),
            "area_above": 1 - float(roc_auc_score(labels, scores)),
            "by_speaker": eer_by_speaker(scores, labels, speakers[enroll], speakers[test]),
        }
    return result


def eer_by_speaker(scores: np.ndarray, labels: np.ndarray, enroll: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """The EER of each speaker's own trials, with a threshold of their own, where there are both kinds of them.

    Of few speakers a handful of pairs who sound alike can make most of the EER of all trials. Here they count as
    what they are among the speakers, and what a variant changes is known of each.
    """
    eers = {}
    for speaker in sorted({*enroll, *test}):
        own = (enroll == speaker) | (test == speaker)
        if len(np.unique(labels[own])) == 2:
            eers[str(speaker)] = float(equal_error_rate(scores[own], labels[own])[0])
    return eers


def train(
    encoder: torch.nn.Module,
    config: Config,
    directory: DataDirectory,
    comparison: Comparison,
    title: str,
    schedule_free: bool = False,
    init: Path | None = None,
) -> tuple[dict[str, dict[str, Tensor]], float]:
    """Train; the weights averaged as the recipe does, as they were last, and their moving average; seconds."""
    epochs, steps = config.training.epochs, comparison.steps
    ends = deque(maxlen=config.training.average_last)
    moving = AveragedModel(encoder, multi_avg_fn=get_ema_multi_avg_fn(comparison.moving_average))
    taken = train_on(encoder, config, directory, lambda n_steps: n_steps * epochs / steps, schedule_free, init)
    for n_steps, seconds, record in taken:
        moving.update_parameters(encoder)
        if n_steps * epochs // steps > (n_steps - 1) * epochs // steps:
            ends.append({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
        if n_steps % 100 == 0:
            line = f"{n_steps} of {steps} steps, loss {record['loss']:.2f}, {seconds / 60:.1f} minutes"
            print(f"{title}: {line}", file=sys.stderr, flush=True)
        if n_steps == steps:
            return {"averaged": mean_of(list(ends)), "last": ends[-1], "moving": moving.module.state_dict()}, seconds
    raise AssertionError("train_on ends only when it is not asked for more")


def model_of(seed: int, comparison: Comparison, held_out: list[str]) -> Path | None:
    """The folder of the model that a run of this seed starts from, which must not have heard the speakers held out."""
    if comparison.init is None:
        return None
    folder = Path(comparison.init.replace("{seed}", str(seed)))
    heard = sorted(set(read_speakers(folder) or []) & set(held_out))
    if heard:
        raise SpkverError(
            f"{folder}: was trained on {len(heard)} of the speakers held out ({heard[0]} is one); "
            f"train it with seed={seed} data.held_out_speakers={comparison.held_out_speakers}"
        )
    return folder


def config_of(variant: str, seed: int, comparison: Comparison) -> Config:
    overrides = [*comparison.common, *comparison.variants[variant], f"seed={seed}"]
    config = load_config(comparison.config, overrides)
    dtype = choose_dtype(config.training.precision, torch.device("cpu"))
    return load_config(comparison.config, [*overrides, f"training.precision={str(dtype).removeprefix('torch.')}"])


def trials_of(held_out: DataDirectory, comparison: Comparison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of utterances of one speaker, or of two of one group: gender, and side of 18 where ages are known."""
    groups = held_out.genders
    if comparison.ages is not None:
        years = read_ages(Path(comparison.ages), held_out.speakers)
        groups = {s: f"{groups.get(s, '')} {years[s] < ADULT_YEARS}" for s in held_out.speakers}
    ids = [utterance.id for utterance in held_out.utterances]
    trials = make_trials(ids, [utterance.speaker for utterance in held_out.utterances], seed=0, genders=groups)
    return *map_trials(trials, ids, held_out.path / "wav.scp"), trials.labels


def settings(variant: str, seed: int, comparison: Comparison) -> dict:
    """What a kept result must have been measured with."""
    values = comparison.model_dump(include={"corpus", "ages", "init", "steps", "held_out_speakers", "moving_average"})
    values |= {"schedule_free": variant in comparison.schedule_free, "measures": MEASURES}
    return values | {"config": config_of(variant, seed, comparison).model_dump()}


def table(results: dict[str, list[dict]]) -> str:
    """Means, and those of the differences from the first row with their standard error.

    They are over the seeds; those of the EERs of single speakers over all speakers of all seeds.
    """
    change = f"{'difference':>18}"
    lines = [f"{'variant':<28}{'EER':>8}{change}{'by speaker':>12}{change}{'1 - AUC':>9}{change}{'minutes':>9}"]
    first = _columns(next(iter(results.values())))
    for name, rows in results.items():
        columns = eer, by_speaker, area = _columns(rows)
        changes = [""] * 3
        if len(lines) > 1:
            scaled = zip(columns, first, (100, 100, 1), (2, 2, 4))
            changes = [_difference(scale * (column - before), digits) for column, before, scale, digits in scaled]
        line = f"{name:<28}{eer.mean():>8.2%}{changes[0]:>18}{by_speaker.mean():>12.2%}{changes[1]:>18}"
        minutes = np.mean([row["seconds"] for row in rows]) / 60
        lines.append(f"{line}{area.mean():>9.4f}{changes[2]:>18}{minutes:>9.1f}")
    return "\n".join(lines)


def _columns(rows: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """EERs of the seeds, of the speakers of all seeds, and areas of the seeds."""
    speakers = [eer for row in rows for _, eer in sorted(row["by_speaker"].items())]
    return np.array([row["eer"] for row in rows]), np.array(speakers), np.array([row["area_above"] for row in rows])


def _difference(changes: np.ndarray, digits: int) -> str:
    mean = f"{changes.mean():+.{digits}f}"
    return mean if len(changes) == 1 else f"{mean} +- {changes.std(ddof=1) / np.sqrt(len(changes)):.{digits}f}"


def read_comparison(words: list[str]) -> Comparison:
    """The file that the first word names, or ``variants.yaml``, changed by the other words."""
    is_file = words[:1] and "=" not in words[0]
    return load_config(words[0], words[1:], Comparison) if is_file else load_config(DEFAULT, words, Comparison)


def main(words: list[str]) -> None:
    """Run what is not there yet, then print the table."""
    comparison = read_comparison(words)
    for key, names in ("rows", comparison.rows), ("schedule_free", comparison.schedule_free):
        for variant in names:
            if variant not in comparison.variants:
                raise SpkverError(f"{key}: '{variant}' is not one of the variants {', '.join(comparison.variants)}")
    runs = [(variant, seed) for seed in comparison.seeds for variant in comparison.rows]
    paths = {pair: _kept_in(comparison, *pair) for pair in runs}
    for pair, path in paths.items():
        wanted = settings(*pair, comparison)
        if path.exists() and json.loads(path.read_text(encoding="utf-8"))["settings"] != wanted:
            raise SpkverError(f"{path}: measured with other settings; remove it, or choose another out=FOLDER")
    tasks = {path: ["--run", variant, str(seed), *words] for (variant, seed), path in paths.items()}
    done = dict(zip(runs, measure_side_by_side(tasks, comparison.cores)))
    print(table(rows_of(done, comparison)))


def rows_of(done: dict[tuple[str, int], dict], comparison: Comparison) -> dict[str, list[dict]]:
    """What the table shows, seeds in order: the variants, and other weights of the first one's runs."""

    def row(variant: str, weights: str) -> list[dict]:
        runs = [done[variant, seed] for seed in comparison.seeds]
        return [{"seconds": run["seconds"], **run[weights]} for run in runs]

    first = comparison.rows[0]
    variants = {name: row(name, "averaged") for name in comparison.rows}
    return variants | {f"{first}, last weights": row(first, "last"), f"{first}, moving": row(first, "moving")}


def _kept_in(comparison: Comparison, variant: str, seed: int) -> Path:
    return Path(comparison.out) / f"{variant.replace(' ', '_')}_seed_{seed}.json"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    try:
        if arguments[:1] == ["--run"]:
            print(json.dumps(run(arguments[1], int(arguments[2]), read_comparison(arguments[3:]))))
        else:
            main(arguments)
    except SpkverError as error:
        sys.exit(str(error))
