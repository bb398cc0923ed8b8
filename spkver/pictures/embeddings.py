"""How embeddings develop over a run's snapshots, and where they lie."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score

from spkver.errors import SpkverError
from spkver.pictures import analysis
from spkver.pictures.run_data import RunData
from spkver.pictures.style import (
    MARKERS,
    Picture,
    epoch_axis,
    legend_below,
    legend_beside,
    line_style,
    ordered_colours,
    picture,
    speaker_styles,
)

SKIPS = (1, 2, 4, 8, 16)
N_EIGENVALUES = 10
# More rows than this cannot be read in a confusion matrix.
MOST_SPEAKERS = 20
# Width of a speaker's name in a legend.
_LEGEND_INCHES = 1.5
KINDS = {"train": "training speakers", "held_out": "held-out speakers"}


def confusion_development(run: RunData, annotate: bool = True) -> Picture:
    """Whom the head takes the training utterances for: before training, halfway and at the end.

    Args:
        run: with snapshots of two training speakers or more.
        annotate: write the number of utterances into the cells that have one.
    """
    matrices, names = confusions(run)
    chosen = _first_middle_last(len(matrices))
    side = max(3.2, 0.3 * len(names))
    figure, axes = picture(1, len(chosen), (side + 0.3, side + 1.3), sharey=True)
    figure.set_layout_engine("compressed")  # made for axes of a fixed shape: the usual one cuts their labels off
    for axis, index in zip(axes[0], chosen):
        image = draw_confusion(axis, matrices[index], names, annotate)
        right = np.trace(matrices[index]) / max(matrices[index].sum(), 1)
        axis.set_title(f"{_when(run, index)}: {right:.0%} right")
        axis.set_xlabel("speaker that the head answers")
    axes[0, 0].set_ylabel("true speaker")
    figure.colorbar(image, ax=axes[0].tolist(), label="share of the speaker's utterances", shrink=0.7)
    n_speakers = len(run.subset.train_speakers)
    which = f"the {len(names)} of {n_speakers} speakers with most errors" if len(names) < n_speakers else "all speakers"
    figure.suptitle(f"{run.name}: confusion of training utterances, {which} of the snapshots")
    return figure


def draw_confusion(axis: Axes, counts: np.ndarray, names: Sequence[str], annotate: bool = True) -> AxesImage:
    """A confusion matrix ``(n, n)`` of counts with the names on both axes; the colour is the share of a row."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axis.imshow(share, vmin=0, vmax=1, cmap="viridis")
    axis.grid(False)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=9)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    if annotate:
        for row, column in np.argwhere(counts > 0):
            # Dark letters on the bright half of the colours.
            colour = "black" if share[row, column] > 0.6 else "white"
            axis.text(
                column,
                row,
                f"{counts[row, column]:g}",
                color=colour,
                fontsize=9,
                ha="center",
                va="center",
                clip_on=True,
            )
    return image


def confusions(run: RunData) -> tuple[list[np.ndarray], list[str]]:
    """Confusion counts at each snapshot, of the same speakers in the same order, and their names.

    Where there are many speakers, those that take part in most errors over the whole run.

    Raises:
        SpkverError: fewer than two training speakers in the snapshots.
    """
    names = run.subset.train_speakers
    if len(names) < 2:
        raise SpkverError(f"{run.experiment.snapshots}: a confusion matrix needs two training speakers")
    trained = ~run.subset.held_out
    truth = np.array([names.index(speaker) for speaker in run.subset.speakers[trained]])
    matrices = [analysis.confusion(truth, snapshot.predicted[trained], len(names)) for snapshot in run.snapshots]
    kept = analysis.most_confused(matrices, MOST_SPEAKERS)
    return [matrix[np.ix_(kept, kept)] for matrix in matrices], [names[index] for index in kept]


def drift(run: RunData) -> Picture:
    """How far embeddings move between snapshots, 1, 2, 4, 8 and 16 epochs apart: mean and spread."""
    trajectory, _ = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    figure, axes = picture(1, 2, (5.0, 3.6))
    for axis, metric, title in zip(axes[0], ("euclidean", "cosine"), ("Euclidean distance", "1 - cosine")):
        for index, skip in enumerate(skip for skip in SKIPS if skip < len(epochs)):
            moved = analysis.drift(trajectory, skip, metric)
            mean, spread = moved.mean(1), moved.std(1)
            style = line_style(index)
            axis.plot(epochs[skip:], mean, marker=".", label=f"{skip}", **style)
            axis.fill_between(
                epochs[skip:], mean - spread, mean + spread, color=style["color"], alpha=0.12, linewidth=0
            )
        axis.set(title=title, ylim=(0, None))
        epoch_axis(axis)
    legend_beside(axes[0, 1], title="epochs apart")
    figure.suptitle(f"{run.name}: how far an embedding has moved (mean, band: one standard deviation)")
    return figure


def cka(run: RunData) -> Picture:
    """1 - CKA between snapshots: change of the arrangement as a whole, blind to rotation and scale."""
    trajectory, _ = run.trajectory(at_least=2)
    if trajectory.shape[1] < 4:
        raise SpkverError(f"{run.experiment.snapshots}: CKA needs four utterances; set snapshots.utterances higher")
    epochs = run.snapshot_epochs
    figure, axes = picture(1, 1, (5.6, 3.6))
    for index, skip in enumerate(skip for skip in SKIPS if skip < len(epochs)):
        change = [1 - analysis.linear_cka(before, after) for before, after in zip(trajectory, trajectory[skip:])]
        axes[0, 0].plot(epochs[skip:], change, marker=".", label=f"{skip}", **line_style(index))
    epoch_axis(axes[0, 0])
    axes[0, 0].set(ylabel="1 - CKA", title=f"{run.name}: change of the arrangement", ylim=(0, None))
    legend_beside(axes[0, 0], title="epochs apart")
    return figure


def spectrum(run: RunData, n: int = N_EIGENVALUES) -> Picture:
    """The n largest PCA eigenvalues over the epochs, and how many dimensions are really in use."""
    figure, axes = picture(1, 2, (5.0, 3.6))
    left, right = axes[0]
    trajectory, _ = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    values = np.stack([analysis.eigenvalues(embeddings)[:n] for embeddings in trajectory])
    for index, (row, colour) in enumerate(zip(values.T, ordered_colours(values.shape[1]))):
        left.plot(epochs, row, marker=MARKERS[index % len(MARKERS)], markersize=3.5, label=f"{index + 1}", color=colour)
    epoch_axis(left)
    left.set(title="largest eigenvalues of the covariance", ylim=(0, None))
    legend_beside(left, fontsize=8)
    for index, (kind, ranks) in enumerate(effective_ranks(run).items()):
        right.plot(epochs, ranks, marker=".", label=KINDS[kind], **line_style(index))
    epoch_axis(right)
    right.set(title=f"effective rank (of {trajectory.shape[2]} dimensions)", ylim=(0, None))
    right.legend(frameon=False, loc="lower right")
    figure.suptitle(run.name)
    return figure


def effective_ranks(run: RunData) -> dict[str, list[float]]:
    """The effective rank at each snapshot, by kind of speakers (``KINDS``).

    Each kind by itself: the rank of all together counts the dimensions in which the kinds differ as well.
    """
    return {
        kind: [analysis.effective_rank(analysis.eigenvalues(embeddings)) for embeddings in run.trajectory(kind)[0]]
        for kind in run.kinds()
    }


def curvature(run: RunData) -> Picture:
    """By what angle embeddings turn from one epoch's move to the next: 0 straight on, 90 at random."""
    trajectory, _ = run.trajectory(at_least=3)
    turned = np.degrees(analysis.curvature(trajectory))
    epochs = run.snapshot_epochs[1:-1]
    figure, axes = picture(1, 1, (5.6, 3.6))
    low, middle, high = np.nanquantile(turned, [0.1, 0.5, 0.9], axis=1)
    style = line_style(0)
    axes[0, 0].plot(epochs, middle, marker=".", label="median", **style)
    axes[0, 0].fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0, label="10 to 90 %")
    axes[0, 0].axhline(90, color="grey", linewidth=0.8, linestyle=":")
    epoch_axis(axes[0, 0])
    axes[0, 0].set(ylabel="turn (degrees)", title=f"{run.name}: curvature of the embeddings' paths")
    axes[0, 0].set(ylim=(0, 180), yticks=range(0, 181, 45))
    legend_beside(axes[0, 0])
    return figure


def clusters(run: RunData) -> Picture:
    """How well speakers are apart over the epochs: Dunn index, plain and robust, and silhouette."""
    kinds = run.kinds(n_speakers=2)
    figure, axes = picture(1, 3, (4.2, 3.4))
    for index, kind in enumerate(kinds):
        trajectory, labels = run.trajectory(kind)
        measured = [_separation(embeddings, labels) for embeddings in trajectory]
        for axis, values in zip(axes[0], zip(*measured)):
            axis.plot(run.snapshot_epochs, values, marker=".", label=KINDS[kind], **line_style(index))
    titles = ("Dunn index", "Dunn index without outliers (95 %)", "silhouette (cosine)")
    for axis, title in zip(axes[0], titles):
        epoch_axis(axis)
        axis.set_title(title)
    for axis in axes[0, :2]:
        axis.set_ylim(bottom=0)
    legend_below(figure, axes[0, 0])
    figure.suptitle(f"{run.name}: how well speakers are apart (higher is better)")
    return figure


def space(run: RunData) -> Picture:
    """The embeddings before training, halfway and at the end, each in its own two principal components."""
    trajectory, labels = run.trajectory()
    held_out = run.subset.held_out
    chosen = _first_middle_last(len(trajectory))
    figure, axes = picture(1, len(chosen), (4.2, 4.0))
    for axis, index in zip(axes[0], chosen):
        _, points, share = principal(trajectory[index])
        scatter(axis, points, labels, held_out)
        axis.set_title(f"{_when(run, index)} ({share:.0%} of the variance)")
    _speaker_legend(figure, axes[0, 0])
    figure.suptitle(run.name)
    return figure


def tsne(run: RunData) -> Picture:
    """A t-SNE map of the last snapshot: neighbours are near, distances between groups mean nothing."""
    trajectory, labels = run.trajectory()
    points = tsne_map(trajectory[-1], run.config.seed)
    figure, axes = picture(1, 1, (5.5, 5.0))
    scatter(axes[0, 0], points, labels, run.subset.held_out)
    axes[0, 0].set_title(f"{run.name}: t-SNE of the embeddings after epoch {run.snapshot_epochs[-1]}")
    _speaker_legend(figure, axes[0, 0])
    return figure


def tsne_map(embeddings: np.ndarray, seed: int, init: np.ndarray | str = "pca") -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, 2008) of ``(n, dim)`` by cosine distance -> ``(n, 2)``.

    Raises:
        SpkverError: fewer than 4 embeddings.
    """
    if len(embeddings) < 4:
        raise SpkverError(f"t-SNE needs four utterances, there are {len(embeddings)}; set snapshots.utterances higher")
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(perplexity=perplexity, init=init, metric="cosine", random_state=seed).fit_transform(embeddings)


def principal(embeddings: np.ndarray, n: int = 2) -> tuple[PCA, np.ndarray, float]:
    """The fitted PCA, the embeddings in its n components, and the share of the variance in them.

    Raises:
        SpkverError: fewer embeddings than components.
    """
    if len(embeddings) < n or embeddings.shape[1] < n:
        raise SpkverError(f"{n} principal components need {n} utterances; set snapshots.utterances higher")
    pca = PCA(n, svd_solver="full").fit(embeddings)
    return pca, pca.transform(embeddings), float(pca.explained_variance_ratio_.sum())


def scatter(axis, points: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> None:
    """Points ``(n, 2)`` in the colour and shape of their speaker; held-out speakers are hollow."""
    speakers = list(dict.fromkeys(labels.tolist()))
    for speaker, (colour, marker) in zip(speakers, speaker_styles(len(speakers))):
        mine = labels == speaker
        hollow = bool(held_out[mine][0])
        axis.scatter(
            *points[mine].T,
            s=22,
            marker=marker,
            facecolors="none" if hollow else colour,
            edgecolors=colour,
            linewidths=0.9,
            alpha=0.85,
            label=f"{speaker} (held out)" if hollow else speaker,
        )
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def _separation(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    n_speakers = len(np.unique(labels))
    silhouette = silhouette_score(embeddings, labels, metric="cosine") if n_speakers < len(labels) else np.nan
    return analysis.dunn_index(embeddings, labels), analysis.dunn_index(embeddings, labels, keep=0.95), silhouette


def _first_middle_last(n: int) -> list[int]:
    return sorted({0, n // 2, n - 1})


def _when(run: RunData, index: int) -> str:
    epoch = run.snapshot_epochs[index]
    return "before training" if epoch == 0 else f"epoch {epoch}"


def _speaker_legend(figure: Picture, axis) -> None:
    """The speakers below, as long as they are few enough to be read."""
    if len(axis.get_legend_handles_labels()[1]) <= 2 * MOST_SPEAKERS:
        legend_below(figure, axis, int(figure.get_figwidth() / _LEGEND_INCHES), fontsize=7)
