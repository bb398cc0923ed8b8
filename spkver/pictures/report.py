"""The report: everything about one or more runs on one page that opens from disk."""

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from scipy.stats import norm

from spkver.config import dump_config
from spkver.data.audio import read_audio
from spkver.data.directory import read_data_directory
from spkver.data.shards import Location
from spkver.errors import SpkverError
from spkver.pictures import analysis
from spkver.pictures.architecture import N_FRAMES, model_parts
from spkver.pictures.detection import TICKS, on_axes, operating_points, thinned
from spkver.pictures.embeddings import KINDS, effective_ranks
from spkver.pictures.margin_page import margin_tables
from spkver.pictures.page import packed, write_page
from spkver.pictures.projection import METHODS
from spkver.pictures.records import smoothed
from spkver.pictures.run import Run
from spkver.scoring.metrics import det_points, equal_error_rate
from spkver.scoring.metrics.summary import read_metrics

# Points of a curve: more cannot be told apart on a page.
_DET_POINTS = 300
_HISTOGRAM_BINS = 80
# Of an utterance that can be played, in seconds; base64 makes 4 characters of 3 bytes.
_HEARD_SECONDS = 3.0
_BASE64_GROWTH = 4 / 3


def write_report(
    path: str | Path, runs: Sequence[Run], method: str = "pca", audio: bool = False, audio_megabytes: float = 5.0
) -> tuple[Path, list[str]]:
    """Write the page.

    Args:
        path: of the page.
        runs: the first one gives the order; equal names are told apart by a number.
        method: of ``projection.METHODS``, for the map of the embeddings.
        audio: put the beginning of the map's utterances into the page.
        audio_megabytes: at most so much of it, the same number of utterances of every speaker.

    Returns:
        The path, and what was left out with the reason, a line each.

    Raises:
        SpkverError: no run has a finished epoch, or an unknown method.
    """
    if method not in METHODS:
        raise SpkverError(f"--method {method}: choose among {', '.join(METHODS)}")
    left_out: list[str] = []
    data: dict[str, Any] = {"runs": [_run(run, name, method, left_out) for run, name in zip(runs, _names(runs))]}
    if audio:
        for run, part in zip(runs, data["runs"]):
            _note(left_out, part, "audio", lambda run=run: _audio(run, audio_megabytes / len(runs)))
    head = runs[0].config.head
    data["margin"] = margin_tables(getattr(head, "margin", 0.2), getattr(head, "scale", 32.0))
    data["ticks"] = [[f"{tick:g}", float(norm.ppf(tick / 100))] for tick in TICKS]
    title = "spkver: " + ", ".join(part["name"] for part in data["runs"])
    written = write_page(Path(path), title, data, ["dom.js", "margin.js", "report.js"])
    return written, left_out


def _run(run: Run, name: str, method: str, left_out: list[str]) -> dict:
    part = {"name": name, "config": dump_config(run.config), "about": {k: str(v) for k, v in run.about.items() if v}}
    _note(left_out, part, "metrics", lambda: _metrics(run))
    _note(left_out, part, "records", lambda: _records(run))
    _note(left_out, part, "systems", lambda: {name: _system(run, *both) for name, both in run.scores().items()})
    _note(left_out, part, "development", lambda: _development(run))
    _note(left_out, part, "map", lambda: _map(run, method))
    _note(left_out, part, "architecture", lambda: _architecture(run))
    return part


def _note(left_out: list[str], part: dict, key: str, make) -> None:
    """Put ``make()`` into a part; what cannot be made is said, and the rest of the page stays."""
    try:
        part[key] = make()
    except SpkverError as error:
        left_out.append(f"no {key} of {part['name']}: {error}")


def _names(runs: Sequence[Run]) -> list[str]:
    names: list[str] = []
    for run in runs:
        taken = sum(name.split(" (")[0] == run.name for name in names)
        names.append(f"{run.name} ({taken + 1})" if taken else run.name)
    return names


def _metrics(run: Run) -> dict:
    path = run.experiment.metrics_file
    if not path.is_file():
        raise SpkverError(f"{path}: there are no metrics yet; run `spkver evaluate`")
    return read_metrics(path)


def _records(run: Run) -> dict:
    steps, epochs = run.steps, run.epochs
    curves = {}
    for key in ("loss", "accuracy", "lr", "margin", "grad_norm"):
        position, values = smoothed(steps["position"], steps[key])
        curves[key] = {"x": _numbers(position), "y": _numbers(values)}
    if "held_out_eer" in epochs:
        curves["held_out_eer"] = {"x": _numbers(epochs["epoch"]), "y": _numbers(100 * epochs["held_out_eer"])}
    return curves


def _system(run: Run, scores: np.ndarray, labels: np.ndarray) -> dict:
    scores, is_target = np.asarray(scores, float), np.asarray(labels) == 1
    edges = np.linspace(scores.min(), scores.max(), _HISTOGRAM_BINS + 1)
    points = operating_points(scores, labels, run.config.scoring.p_targets)
    return {
        "det": _deviates(*thinned(*det_points(scores, labels)[:2], _DET_POINTS), labels),
        "points": [(what, *_deviates([fpr], [fnr], labels)) for what, fpr, fnr in points],
        "threshold": equal_error_rate(scores, labels)[1],
        "edges": _numbers(edges),
        "targets": _numbers(np.histogram(scores[is_target], edges, density=True)[0]),
        "nontargets": _numbers(np.histogram(scores[~is_target], edges, density=True)[0]),
    }


def _deviates(fpr, fnr, labels: np.ndarray) -> list[list]:
    return [_numbers(values) for values in on_axes(fpr, fnr, labels)]


def _development(run: Run) -> dict:
    """Figures over the snapshots: 1 - CKA, drift, effective rank, robust Dunn index."""
    trajectory, labels = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    found = {
        "drift": {"x": epochs[1:], "y": analysis.drift(trajectory, 1).mean(1)},
    }
    for kind, ranks in effective_ranks(run).items():
        found[f"effective rank, {KINDS[kind]}"] = {"x": epochs, "y": ranks}
    if trajectory.shape[1] >= 4:
        change = [1 - analysis.linear_cka(before, after) for before, after in pairwise(trajectory)]
        found["1 - CKA"] = {"x": epochs[1:], "y": change}
    if len(np.unique(labels)) > 1:
        dunn = [analysis.dunn_index(embeddings, labels, keep=0.95) for embeddings in trajectory]
        found["Dunn index (robust)"] = {"x": epochs, "y": dunn}
    return {name: {axis: _numbers(values) for axis, values in curve.items()} for name, curve in found.items()}


def _map(run: Run, method: str) -> dict:
    """The embeddings in the plane at every snapshot, as 16-bit places within the map's box."""
    trajectory, labels = run.trajectory()
    places = METHODS[method](trajectory, run.config.seed)
    low, high = places.min((0, 1)), places.max((0, 1))
    scaled = (places - low) / np.maximum(high - low, 1e-12) * 65535
    return {
        "method": method,
        "epochs": run.snapshot_epochs.tolist(),
        "places": packed(scaled.round(), "u2"),
        "n": len(labels),
        "low": low.tolist(),
        "high": high.tolist(),
        "utts": run.subset.utts.tolist(),
        "speakers": labels.tolist(),
        "held_out": run.subset.held_out.tolist(),
    }


def _architecture(run: Run) -> dict:
    folder = run.experiment.model if run.experiment.model.is_dir() else run.experiment.untrained
    parts, total, kind = model_parts(folder)
    rows = [
        {"name": part.name, "kind": part.kind, "times": part.times, "shape": part.out_shape, "n": part.n_parameters}
        for part in parts
    ]
    return {"kind": kind, "total": total, "rows": rows, "n_frames": N_FRAMES, "n_mels": run.config.features.n_mels}


def _audio(run: Run, megabytes: float) -> dict:
    """The beginnings of utterances as Ogg Opus: the first of each speaker, then the second, until it is full."""
    folder = run.experiment.recorded_path(run.about.get("data"))
    if folder is None:
        raise SpkverError(f"{run.experiment.config_file}: does not say on what data it was trained")
    directory = read_data_directory(folder, check_files=False)
    paths = {utterance.id: utterance.path for utterance in directory.utterances}
    turn: dict[str, int] = {}
    order = []
    for utt, speaker in zip(run.subset.utts.tolist(), run.subset.speakers.tolist()):
        turn[speaker] = turn.get(speaker, 0) + 1
        order.append((turn[speaker], utt))
    clips: dict[str, str] = {}
    left = megabytes * 1e6
    for _, utt in sorted(order, key=lambda pair: pair[0]):
        if utt not in paths:
            raise SpkverError(f"{directory.path}: utterance '{utt}' of the snapshots is not in it any more")
        clip = _opus(paths[utt])
        left -= len(clip) * _BASE64_GROWTH
        if left < 0:
            break
        clips[utt] = base64.b64encode(clip).decode()
    return clips


def _opus(path: Location) -> bytes:
    rate = 16000
    samples = read_audio(path, rate, 0.0, _HEARD_SECONDS)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def _numbers(values) -> list:
    """Five digits, which a page cannot show more of; what is not finite becomes null."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, float).tolist()]
