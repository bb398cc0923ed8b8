"""How embeddings move while a run trains, and several such animations side by side."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError
from spkver.pictures.embeddings import confusions
from spkver.pictures.motion import Matrix, Motion, Panel, Points
from spkver.pictures.projection import DEFAULTS, METHODS, Options, between, smooth
from spkver.pictures.run_data import RunData


@dataclass(frozen=True)
class Animation:
    """The embeddings of a run over its epochs, where a method puts them. In a notebook it shows itself.

    Args:
        run: whose embeddings they are.
        method: that brought them to the plane.
        places: (n_frames, n, 2), or (n_frames, n, 3) on the sphere.
        epochs: (n_frames,) the time of each frame, in epochs.
        labels: (n,) the speaker of each point.
        held_out: (n,) bool.
    """

    run: RunData
    method: str
    places: np.ndarray
    epochs: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray

    def __len__(self) -> int:
        return len(self.epochs)

    def __repr__(self) -> str:
        return f"<Animation of {self.run.name} by {self.method}: {len(self)} frames of {len(self.labels)} utterances>"

    def denoise(self, width: int = 3) -> "Animation":
        """With the running mean of each point's places over ``width`` frames, an odd number.

        Raises:
            SpkverError: an even number, or none.
        """
        if width < 1 or width % 2 == 0:
            raise SpkverError(f"an animation is denoised over an odd number of frames, not {width}")
        return replace(self, places=smooth(self.places, width))

    def interpolate(self, steps_per_transition: int = 3) -> "Animation":
        """With ``steps_per_transition`` frames from each of its frames to the next.

        Raises:
            SpkverError: fewer than one.
        """
        if steps_per_transition < 1:
            raise SpkverError(
                f"an animation needs 1 step from an epoch to the next, or more, not {steps_per_transition}"
            )
        return self.in_frames((len(self) - 1) * steps_per_transition + 1)

    def in_frames(self, n_frames: int) -> "Animation":
        """Brought to so many frames, by interpolation.

        Raises:
            SpkverError: fewer than two.
        """
        if n_frames < 2:
            raise SpkverError(f"an animation needs 2 frames or more, not {n_frames}")
        epochs = np.interp(np.linspace(0, len(self) - 1, n_frames), np.arange(len(self)), self.epochs)
        return replace(self, places=between(self.places, n_frames), epochs=epochs)

    def save(self, path: str | Path) -> Path:
        """Write it alone, as ``show_animations`` draws it; returns the path."""
        return show_animations([self]).save(path)

    def _repr_html_(self) -> str:
        return show_animations([self])._repr_html_()


def animate(
    run: RunData,
    method: str = "pca",
    window_size: int = DEFAULTS.window_size,
    fit_basis: str = DEFAULTS.fit_basis,
    tsne_update: float = DEFAULTS.tsne_update,
    n_neighbors: int = DEFAULTS.n_neighbors,
    min_dist: float = DEFAULTS.min_dist,
    metric: str = DEFAULTS.metric,
    speakers: str = "all",
) -> Animation:
    """A run's embeddings over its snapshots, a frame each.

    A good run begins as one cloud and ends as islands, one a speaker, those of held-out speakers (hollow) too; in a
    bad one the cloud stays whole, or falls apart and mixes again.

    Args:
        run: with snapshots of two epochs or more.
        method: ``"pca"``, ``"pca-window"`` (``"pca"`` with ``fit_basis="window"``), ``"tsne"``, ``"umap"``,
            ``"mphate"``, or ``"sphere"`` for embeddings of 3 dimensions.
        window_size, fit_basis, tsne_update, n_neighbors, min_dist, metric: of the method, see ``projection.Options``.
        speakers: ``"train"``, ``"held_out"`` or ``"all"``.

    Raises:
        SpkverError: an unknown method, one whose package is missing, a value that is out of range, too few snapshots.
    """
    options = Options(fit_basis, window_size, tsne_update, n_neighbors, min_dist, metric)
    trajectory, labels = run.trajectory(speakers, at_least=2)
    places = _places(trajectory, method, run.config.seed, options)
    held_out = run.subset.held_out[run.chosen(speakers)]
    return Animation(run, method, places, run.snapshot_epochs.astype(float), labels, held_out)


def show_animations(
    animations: Sequence[Animation],
    custom_titles: Sequence[str] | None = None,
    cols: int = 3,
    figsize_per_plot: tuple[float, float] = (5.0, 5.0),
    shared_axes: bool = False,
    add_confusion_matrix: bool = False,
    annotate_confusion_matrix: bool = False,
) -> Motion:
    """Animations side by side, of one run by several methods or of several runs, at the same epoch in each frame.

    Args:
        animations: one or more. Where they differ in their epochs, those that end earlier stand still at their end.
        custom_titles: one for each; None: the method, and the run's name where there are several.
        cols: panels in a row.
        figsize_per_plot: width and height of a panel in inches, of 100 pixels each.
        shared_axes: all panels reach equally far, so that their distances can be compared.
        add_confusion_matrix: a panel more for each run, of the training speakers.
        annotate_confusion_matrix: with the counts in its cells.

    Raises:
        SpkverError: no animation, or another number of titles.
    """
    if not animations:
        raise SpkverError("there is no animation to show")
    runs = list({id(animation.run): animation.run for animation in animations}.values())
    titles = custom_titles or [_title(animation, len(runs) > 1) for animation in animations]
    if len(titles) != len(animations):
        raise SpkverError(f"{len(animations)} animations need as many titles, not {len(titles)}")
    # One title is one key among the numbers that are kept.
    titles = [f"{title} ({n})" if n else title for title, n in zip(titles, _earlier(titles))]
    epochs = _common_epochs(animations)
    reach = None
    if shared_axes:
        reach = 1.06 * max(float(np.abs(animation.places).max()) for animation in animations)
    panels: list[Panel] = []
    for animation, title in zip(animations, titles):
        places = animation.places[_frames_at(animation.epochs, epochs)]
        sphere = animation.method == "sphere"
        panels.append(Points(title, places, animation.labels, animation.held_out, sphere, reach))
    for run in runs if add_confusion_matrix else ():
        title = f"confusion, {run.name}" if len(runs) > 1 else "confusion"
        panels.append(confusion_panel(run, epochs, title, annotate_confusion_matrix))
    return Motion(" and ".join(dict.fromkeys(run.name for run in runs)), panels, epochs, cols, figsize_per_plot)


def confusion_panel(run: RunData, epochs: np.ndarray, title: str, annotate: bool) -> Matrix:
    """The confusion matrix of the training speakers at each of ``epochs``, as of the last snapshot by then."""
    counts, names = confusions(run)
    return Matrix(title, np.stack(counts)[_frames_at(run.snapshot_epochs, epochs)], names, annotate)


def _title(animation: Animation, with_run: bool) -> str:
    return f"{animation.run.name}, {animation.method}" if with_run else animation.method


def _earlier(titles: Sequence[str]) -> list[int]:
    """How many of the titles before each are the same, plus one; 0 where there is none."""
    return [(n := titles[:place].count(title)) and n + 1 for place, title in enumerate(titles)]


def _common_epochs(animations: Sequence[Animation]) -> np.ndarray:
    """The epochs of the frames of all: their own where they agree."""
    first = animations[0].epochs
    if all(np.array_equal(animation.epochs, first) for animation in animations):
        return first
    start, end = min(a.epochs[0] for a in animations), max(a.epochs[-1] for a in animations)
    return np.linspace(start, end, max(len(animation) for animation in animations))


def _frames_at(own: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """(n,) which of the frames at the epochs ``own`` is shown at each of ``epochs``: the last by then."""
    return np.clip(np.searchsorted(own, epochs + 1e-9, side="right") - 1, 0, len(own) - 1)


def _places(trajectory: np.ndarray, method: str, seed: int, options: Options) -> np.ndarray:
    if method == "sphere":
        if trajectory.shape[2] != 3:
            raise SpkverError(f"--method sphere is for embeddings of 3 dimensions, these have {trajectory.shape[2]}")
        return trajectory
    if method not in METHODS:
        raise SpkverError(f"--method {method}: choose among {', '.join(METHODS)}, sphere")
    return METHODS[method](trajectory, seed, options)
