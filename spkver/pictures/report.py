"""The report: everything about one or more runs on one page that opens from disk."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from spkver.config import Config, dump_config
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.paths import flat
from spkver.pictures import analysis
from spkver.pictures.architecture import N_FRAMES, model_parts
from spkver.pictures.clips import Clips
from spkver.pictures.detection import TICKS
from spkver.pictures.embeddings import KINDS, MOST_COMPARED, effective_ranks, of_utterances
from spkver.pictures.margin_page import margin_tables
from spkver.pictures.page import numbers, write_page
from spkver.pictures.projection import METHODS
from spkver.pictures.records import smoothed
from spkver.pictures.report_map import map_of
from spkver.pictures.report_systems import UNTRAINED, systems_of
from spkver.pictures.run import Run
from spkver.pictures.run_data import by_name

# The highest error rate of the DET's axes, in percent.
_HIGHEST_TICK = 60


def write_report(
    path: str | Path, runs: Sequence[Run], method: str = "pca", audio: bool = False, audio_megabytes: float = 5.0
) -> tuple[Path, list[str]]:
    """Write the page.

    Args:
        path: of the page.
        runs: the first one gives the order; equal names are told apart by a number.
        method: of ``projection.METHODS``, for the map of the embeddings.
        audio: put the beginning of the map's utterances and of the trials that are most wrong into the page.
        audio_megabytes: at most so much of it, the same number of utterances of every speaker.

    Returns:
        The path, and what was left out with the reason, a line each.

    Raises:
        SpkverError: an unknown method.
    """
    if method not in METHODS:
        raise SpkverError(f"--method {method}: choose among {', '.join(METHODS)}")
    left_out: list[str] = []
    named = by_name(runs)
    clips = Clips(audio_megabytes)
    data: dict[str, Any] = {"runs": [_run(run, name, method, left_out) for name, run in named.items()]}
    data["systems"] = systems_of(named, left_out.append)
    data["best"] = _best(data["systems"])
    if audio:
        _add_audio(named, data["systems"], clips, left_out)
        data["clips"] = clips.encoded
    for run, part in zip(runs, data["runs"]):
        part["data"] = clips.number(run.experiment.recorded_path(run.about.get("data")))
    for system in data["systems"]:
        system["data"] = clips.number(system.pop("folder"))
    data["differences"] = _differences({name: run.config for name, run in named.items()})
    head = runs[0].config.head
    data["margin"] = margin_tables(getattr(head, "margin", 0.2), getattr(head, "scale", 32.0))
    data["ticks"] = [[float(norm.ppf(tick / 100)), f"{tick:g}"] for tick in TICKS if tick <= _HIGHEST_TICK]
    deviates = np.linspace(-5.5, 2.5, 401)
    data["normal"] = {"deviates": numbers(deviates), "rates": numbers(norm.cdf(deviates))}
    title = "spkver: " + ", ".join(named)
    scripts = ["dom.js", "chart.js", "results.js", "map.js", "margin.js", "report.js"]
    return write_page(Path(path), title, data, scripts), left_out


def _run(run: Run, name: str, method: str, left_out: list[str]) -> dict:
    part = {"name": name, "config": dump_config(run.config), "about": {k: str(v) for k, v in run.about.items() if v}}
    _note(left_out, part, "records", lambda: _records(run))
    _note(left_out, part, "development", lambda: _development(run))
    _note(left_out, part, "map", lambda: map_of(run, method))
    _note(left_out, part, "architecture", lambda: _architecture(run))
    return part | {"facts": _facts(run, part)}


def _note(left_out: list[str], part: dict, key: str, make) -> None:
    """Put ``make()`` into a part; what cannot be made is said, and the rest of the page stays."""
    try:
        part[key] = make()
    except SpkverError as error:
        left_out.append(f"no {key} of {part['name']}: {error}")


def _facts(run: Run, part: dict) -> list[tuple[str, str]]:
    """What was trained on what, where, and for how long: names and values."""
    facts = [("trained on", _trained_on(run))]
    if "architecture" in part:
        facts.append(("encoder", f"{part['architecture']['kind']}, {part['architecture']['total']:,} parameters"))
    head = {key: value for key, value in run.config.head.model_dump().items() if key != "K"}
    facts.append(("head", ", ".join([head.pop("name"), *(f"{key} {value}" for key, value in head.items())])))
    if "records" in part:
        epochs = run.epochs
        seconds = float(np.nanmax(epochs["seconds"])) if "seconds" in epochs else 0.0  # of the training so far
        took = f" in {_duration(seconds)}" if seconds > 0 else ""
        facts.append(("training", f"{len(epochs['epoch'])} epochs{took}"))
    about = dict(part["about"])
    if "command" in about:  # earlier runs keep the program's whole path
        about["command"] = re.sub(r"^\S*/(spkver )", r"\1", about["command"])
    names = {"machine": "machine", "started": "started", "command": "command", "spkver": "spkver", "torch": "torch"}
    return facts + [(shown, about[key]) for key, shown in names.items() if key in about]


def _trained_on(run: Run) -> str:
    folder = run.experiment.recorded_path(run.about.get("data"))
    if folder is None:
        return "not recorded"
    try:
        directory = read_data_directory(folder, check_files=False)
    except SpkverError:
        return f"{folder.parent.name}/{folder.name}, which is not there any more"
    held_out = run.config.data.held_out_speakers
    speakers = f"{len(directory.speakers) - held_out} speakers (and {held_out} held out)"
    seconds = sum(directory.durations.values())
    hours = f", {seconds / 3600:.1f} hours" if len(directory.durations) == len(directory.utterances) else ""
    return f"{folder.parent.name}/{folder.name}: {speakers}, {len(directory.utterances):,} utterances{hours}"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _records(run: Run) -> dict:
    steps, epochs = run.steps, run.epochs
    curves = {}
    for key in ("loss", "accuracy", "lr", "margin", "grad_norm"):
        position, values = smoothed(steps["position"], steps[key])
        curves[key] = {"x": numbers(position), "y": numbers(values)}
    if "held_out_eer" in epochs:
        curves["held_out_eer"] = {"x": numbers(epochs["epoch"]), "y": numbers(100 * epochs["held_out_eer"])}
    return curves


def _development(run: Run) -> dict:
    """Figures over the snapshots: 1 - CKA, drift, effective rank, robust Dunn index."""
    trajectory, labels = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    found = {"Drift": {"x": epochs[1:], "y": analysis.drift(trajectory, 1).mean(1)}}
    for kind, ranks in effective_ranks(run).items():
        found[f"Effective rank, {KINDS[kind]}"] = {"x": epochs, "y": ranks}
    if trajectory.shape[1] >= 4:
        change = [1 - analysis.linear_cka(before, after) for before, after in pairwise(trajectory)]
        found["1 - CKA"] = {"x": epochs[1:], "y": change}
    if len(np.unique(labels)) > 1:
        kept = analysis.whole_classes(labels, MOST_COMPARED)
        dunn = [analysis.dunn_index(embeddings[kept], labels[kept], keep=0.95) for embeddings in trajectory]
        found[f"Dunn index without outliers (95 %){of_utterances(kept)}"] = {"x": epochs, "y": dunn}
    return {name: {axis: numbers(values) for axis, values in curve.items()} for name, curve in found.items()}


def _architecture(run: Run) -> dict:
    folder = run.experiment.model if run.experiment.model.is_dir() else run.experiment.untrained
    parts, total, kind = model_parts(folder)
    rows = [
        {"name": part.name, "kind": part.kind, "times": part.times, "shape": part.out_shape, "n": part.n_parameters}
        for part in parts
    ]
    return {"kind": kind, "total": total, "rows": rows, "n_frames": N_FRAMES, "n_mels": run.config.features.n_mels}


def _add_audio(named: dict[str, Run], systems: list[dict], clips: Clips, left_out: list[str]) -> None:
    """Clips of the worst trials, the worst of every system first, then of the map's utterances."""
    worst: dict[Path, list[tuple[int, str]]] = {}
    for system in systems:
        if system["folder"] is not None and "curves" in system:
            for trials in system["curves"]["worst"].values():
                pairs = [(rank, utt) for rank, trial in enumerate(trials) for utt in trial[:2]]
                worst.setdefault(system["folder"], []).extend(pairs)
    for folder, pairs in worst.items():
        try:
            clips.add(folder, [utt for _, utt in sorted(pairs, key=lambda pair: pair[0])], known_only=True)
        except SpkverError as error:
            left_out.append(f"no audio of trials: {error}")
    for name, run in named.items():
        try:
            data = run.experiment.recorded_path(run.about.get("data"))
            if data is None:
                raise SpkverError(f"{run.experiment.config_file}: does not say on what data it was trained")
            clips.add(data, _in_turns(run))
        except SpkverError as error:
            left_out.append(f"no audio of {name}: {error}")


def _in_turns(run: Run) -> list[str]:
    """The utterances of the map, the first of each speaker, then the second, .."""
    turn: dict[str, int] = {}
    order = []
    for utt, speaker in zip(run.subset.utts.tolist(), run.subset.speakers.tolist()):
        turn[speaker] = turn.get(speaker, 0) + 1
        order.append((turn[speaker], utt))
    return [utt for _, utt in sorted(order, key=lambda pair: pair[0])]


def _best(systems: list[dict]) -> dict | None:
    """The place of the best system, and among how many it is the best."""
    found = [place for place, system in enumerate(systems) if system.get("best")]
    if not found:
        return None
    of = sum(one["list"] == systems[found[0]]["list"] and one["name"] != UNTRAINED for one in systems)
    return {"system": found[0], "of": of}


def _differences(configs: dict[str, Config]) -> dict:
    """The settings that differ between runs; of a single run, those that differ from the defaults."""
    columns = {name: flat(config.model_dump()) for name, config in configs.items()}
    what = "What differs between these runs."
    if len(columns) == 1:
        columns = {"default": flat(Config().model_dump()), **columns}
        what = "What differs from the defaults."
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    rows = [(key, *(_shown(column.get(key, "-")) for column in columns.values())) for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    return {"what": what if rows else "All settings are the same.", "columns": list(columns), "rows": rows}


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
