"""The stages behind training: embeddings of a data directory, scores of a trial list, metrics.

Each reads the files of the stage before and writes its own into the experiment's folder, so any of
them can be run again alone.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from spkver.data.directory import DataDirectory
from spkver.data.survey import keep_usable
from spkver.errors import SpkverError
from spkver.extraction import Extractor
from spkver.model_folder import load_model
from spkver.scoring.cosine import cosine_scores, read_scores, write_scores
from spkver.scoring.embeddings import read_embeddings, write_embeddings
from spkver.scoring.summary import format_table, summary, update_metrics_json
from spkver.scoring.trials import map_trials, read_trials


@dataclass(frozen=True)
class System:
    """One way from audio to scores within an experiment, and where its files lie."""

    exp: Path
    untrained: bool = False  # the encoder before its first step

    @property
    def name(self) -> str:
        return "untrained" if self.untrained else "cosine"

    @property
    def model(self) -> Path:
        return self.exp / ("untrained" if self.untrained else "model")

    def embeddings(self, data: str) -> Path:
        return self.exp / "embeddings" / (f"{data}-untrained" if self.untrained else data)

    def scores(self, data: str, trials: Path) -> Path:
        return self.exp / "scores" / data / f"{trials.name}-{self.name}"


def embed_directory(directory: DataDirectory, system: System) -> str:
    """Embed the usable utterances of a data directory; returns a line that says so."""
    model = load_model(system.model)
    usable = keep_usable(
        directory, model.config.data.sample_rate, max_unusable_share=model.config.data.max_unusable_share
    )
    start = time.monotonic()
    embeddings = Extractor(model.encoder, model.config).embed_utterances(
        usable.utterances, usable.durations, f"embedding {directory.path.name}"
    )
    spent = time.monotonic() - start
    folder = system.embeddings(directory.path.name)
    write_embeddings(folder, embeddings, [utterance.id for utterance in usable.utterances])
    audio = sum(usable.durations.values())
    return f"{len(embeddings)} embeddings ({audio / spent:.0f}x real time) -> {folder}"


def score_trials(data: Path, trials_file: Path | None, system: System) -> str:
    """Score a trial list from stored embeddings; returns a line that says so."""
    trials_file = trials_file or data / "trials"
    trials = read_trials(trials_file)
    folder = system.embeddings(data.resolve().name)
    embeddings, utts = read_embeddings(folder)
    enroll, test = map_trials(trials, utts, data / "wav.scp")
    out = system.scores(data.resolve().name, trials_file)
    write_scores(out, trials, cosine_scores(embeddings, enroll, test))
    return f"{len(trials)} scores -> {out}"


def evaluate_scores(directory: DataDirectory, trials_file: Path | None, system: System) -> str:
    """Metrics of a score file into ``metrics.json``; returns them as a table."""
    trials_file = trials_file or directory.path / "trials"
    path = system.scores(directory.path.name, trials_file)
    trials, scores = read_scores(path)
    if trials.labels is None:
        raise SpkverError(f"{path}: has no labels, as its trial list had none; without them nothing can be counted")
    config = load_model(system.model).config.scoring
    speaker_of = {utterance.id: utterance.speaker for utterance in directory.utterances}
    try:
        record = summary(
            scores,
            trials.labels,
            [speaker_of[utt] for utt in trials.enroll],
            [speaker_of[utt] for utt in trials.test],
            p_targets=config.p_targets,
            n=config.bootstrap,
        )
    except KeyError as error:
        raise SpkverError(f"{path}: utterance {error} is not in {directory.path}") from None
    except ValueError as error:
        raise SpkverError(f"{path}: {error}") from None
    update_metrics_json(system.exp / "metrics.json", f"{directory.path.name}/{trials_file.name}", system.name, record)
    counts = f"{record['targets']} target, {record['nontargets']} nontarget trials"
    return f"{counts}\n{format_table([(system.name, record)])}"


def results_table(exps: list[Path]) -> str:
    """What experiments reached, one table for each trial list; the untrained encoder once, first.

    Raises:
        SpkverError: an experiment has no metrics yet.
    """
    tables: dict[str, list[tuple[str, dict]]] = {}
    for exp in exps:
        path = exp / "metrics.json"
        if not path.is_file():
            raise SpkverError(f"{path}: there are no metrics yet; run `spkver evaluate`")
        for trials, systems in json.loads(path.read_text(encoding="utf-8")).items():
            rows = tables.setdefault(trials, [])
            # Two heads of one configuration begin with the same encoder: one floor is enough.
            seen = [record for name, record in rows if name.endswith("untrained")]
            rows += [
                (_row_name(exp, system, exps), record)
                for system, record in systems.items()
                if system != "untrained" or record not in seen
            ]
    parts = []
    for trials, rows in tables.items():
        rows.sort(key=lambda row: not row[0].endswith("untrained"))
        first = rows[0][1]
        counts = f"{trials}: {first['targets']} target, {first['nontargets']} nontarget trials"
        parts.append(f"{counts}\n{format_table(rows)}")
    return "\n\n".join(parts)


def _row_name(exp: Path, system: str, exps: list[Path]) -> str:
    return system if len(exps) == 1 else f"{exp.name}, {system}"
