"""What training and scoring left in an experiment, read for the pictures."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from spkver.config import Config
from spkver.data.trials import Trials
from spkver.errors import SpkverError
from spkver.experiment.log import read_log
from spkver.experiment.paths import Experiment
from spkver.experiment.snapshots import Snapshot, Subset, read_snapshot, read_subset, snapshot_files
from spkver.scoring.score_files import read_scores

AnyRun = TypeVar("AnyRun", bound="RunData")

# What a record of each kind says in every run.
_ALWAYS = {
    "step": ("epoch", "step", "loss", "accuracy", "lr", "margin", "grad_norm", "clipped"),
    "epoch": ("epoch", "loss", "accuracy"),
}


class Scored(NamedTuple):
    """A system's scores of a trial list."""

    list: str  # as "test/trials"
    system: str
    trials: Trials
    labels: np.ndarray  # (n_trials,) 1 = target, 0 = nontarget
    scores: np.ndarray  # (n_trials,) float32


def by_name(runs: Sequence[AnyRun]) -> dict[str, AnyRun]:
    """Runs by their names; equal names are told apart by a number."""
    named: dict[str, AnyRun] = {}
    for run in runs:
        name, number = run.name, 1
        while name in named:
            number += 1
            name = f"{run.name} ({number})"
        named[name] = run
    return named


class RunData:
    """What is known of an experiment.

    Args:
        folder: ``exp/NAME``.

    Raises:
        SpkverError: it holds no run. Whatever else is missing is said by the picture that needs it.
    """

    def __init__(self, folder: str | Path):
        self.experiment = Experiment(folder)
        self.folder = self.experiment.folder
        self.config: Config
        self.config, self.about = self.experiment.read()
        self.name = self.folder.resolve().name

    @cached_property
    def steps(self) -> dict[str, np.ndarray]:
        """The values of every step, such as ``steps["loss"]`` ``(n_steps,)``; ``"position"`` counts in epochs."""
        steps = self._log("step")
        counts = np.bincount(steps["epoch"].astype(int))
        # The epoch that a run is in has not all of its steps yet.
        per_epoch = counts.max()
        return steps | {"position": steps["epoch"] - 1 + steps["step"] / per_epoch}

    @cached_property
    def epochs(self) -> dict[str, np.ndarray]:
        """The values of every epoch, such as ``epochs["held_out_eer"]`` ``(n_epochs,)``."""
        return self._log("epoch")

    @cached_property
    def subset(self) -> Subset:
        """Whose embeddings the snapshots hold."""
        return read_subset(self.experiment.snapshots)

    @cached_property
    def snapshots(self) -> list[Snapshot]:
        """The snapshots in the order of the epochs, the untrained encoder first.

        Raises:
            SpkverError: there are none, or they do not fit the list of utterances.
        """
        folder = self.experiment.snapshots
        n, n_speakers, trained = len(self.subset.utts), len(self.subset.train_speakers), ~self.subset.held_out
        found = [read_snapshot(path, epoch) for epoch, path in snapshot_files(folder).items()]
        if not found:
            raise SpkverError(f"{folder}: there is no snapshot yet; train with snapshots.speakers above 0")
        for snapshot in found:
            if len(snapshot.embeddings) != n:
                raise SpkverError(
                    f"{folder}/epoch-{snapshot.epoch:03d}.npz: {len(snapshot.embeddings)} embeddings, but "
                    f"{folder}/utterances names {n}; it is of another run, delete it"
                )
            own = len(snapshot.centres) == n_speakers and (snapshot.predicted[trained] >= 0).all()
            if not own:
                raise SpkverError(
                    f"{folder}/epoch-{snapshot.epoch:03d}.npz: is of other training speakers than {folder}/utterances "
                    "names; it is of another run, delete it"
                )
        return found

    @property
    def snapshot_epochs(self) -> np.ndarray:
        """The epoch of each snapshot; 0 is before training."""
        return np.array([snapshot.epoch for snapshot in self.snapshots])

    def trajectory(self, speakers: str = "all", at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings over the snapshots and whose they are.

        Args:
            speakers: ``"train"``, ``"held_out"`` or ``"all"``.
            at_least: as many snapshots are needed.

        Returns:
            ``(n_snapshots, n, embed_dim)`` and ``(n,)``.

        Raises:
            SpkverError: too few snapshots, or no such speakers.
        """
        snapshots = self.snapshots
        if len(snapshots) < at_least:
            raise SpkverError(
                f"{self.experiment.snapshots}: {len(snapshots)} snapshots, this picture needs {at_least}; "
                "train for more epochs"
            )
        chosen = self.chosen(speakers)
        labels = self.subset.speakers[chosen]
        if not len(labels):
            raise SpkverError(f"{self.experiment.snapshots}: there are no {speakers.replace('_', '-')} speakers")
        return np.stack([snapshot.embeddings[chosen] for snapshot in snapshots]), labels

    def chosen(self, speakers: str) -> np.ndarray:
        """(n,) bool: which rows of a snapshot are of ``"train"``, ``"held_out"`` or ``"all"`` speakers."""
        held_out = self.subset.held_out
        return {"all": np.ones_like(held_out), "train": ~held_out, "held_out": held_out}[speakers]

    def kinds(self, n_speakers: int = 1) -> list[str]:
        """``"train"`` and ``"held_out"`` as far as the snapshots hold so many speakers of them.

        Raises:
            SpkverError: neither kind has so many.
        """
        held_out, speakers = self.subset.held_out, self.subset.speakers
        found = [
            kind
            for kind, chosen in (("train", ~held_out), ("held_out", held_out))
            if len(np.unique(speakers[chosen])) >= n_speakers
        ]
        if not found:
            raise SpkverError(f"{self.experiment.snapshots}: fewer than {n_speakers} speakers; set snapshots.speakers")
        return found

    def scored(self) -> list[Scored]:
        """Every score file whose trials have both labels, by list and system.

        Raises:
            SpkverError: there are none.
        """
        found = []
        # What begins with a dot is not finished.
        for path in sorted((self.folder / "scores").glob("[!.]*/[!.]*-*")):
            trials_name, _, system = path.name.rpartition("-")
            trials, scores = read_scores(path)
            if trials.labels is not None and 0 < trials.labels.sum() < len(trials):
                found.append(Scored(f"{path.parent.name}/{trials_name}", system, trials, trials.labels, scores))
        if not found:
            raise SpkverError(f"{self.folder}/scores: no labelled trial list was scored yet; run `spkver score`")
        return found

    def scores(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Scores and labels of each system on each trial list that has both labels, by ``"system"``.

        Where several lists were scored the names are ``"list, system"``, such as ``"test/trials, cosine"``.

        Raises:
            SpkverError: there are none.
        """
        found = self.scored()
        one_list = len({part.list for part in found}) == 1
        return {
            part.system if one_list else f"{part.list}, {part.system}": (part.scores, part.labels) for part in found
        }

    def _log(self, kind: str) -> dict[str, np.ndarray]:
        path = self.experiment.log_file
        found = read_log(path, kind) if path.is_file() else []
        if not found:
            raise SpkverError(f"{path}: holds no finished {kind} yet; wait for it, or train")
        keys = dict.fromkeys(key for record in found for key in record)
        for key in _ALWAYS[kind]:
            if key not in keys:
                raise SpkverError(f"{path}: no {kind} says its '{key}'; the log is damaged or of another program")
        return {key: np.array([record.get(key, np.nan) for record in found], float) for key in keys}
