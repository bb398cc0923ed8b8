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
# The distances of all pairs of more utterances than this take minutes: a part of the speakers then stands for all.
MOST_COMPARED = 5000
# More rows than this cannot be read in a confusion matrix.
MOST_SPEAKERS = 20
KINDS = {"train": "training speakers", "held_out": "held-out speakers"}


def confusion_development(run: RunData, annotate: bool = True) -> Picture:
    """Whom the head takes the training utterances for: before training, halfway and at the end.

    The head answers without its margin. A good run ends with all on the diagonal. In a bad one a column is full (the
    head answers one speaker to everything), or two speakers go on being taken for each other. Of many speakers those in
    most errors are shown. ``Run.confusion_matrix`` has every epoch.

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


def embedding_drifts(run: RunData) -> tuple[Picture, dict[int, np.ndarray]]:
    """How far embeddings move between snapshots, 1, 2, 4, 8 and 16 epochs apart: mean and spread.

    A good run moves far at first and comes to rest as its learning rate falls: all lines fall, and those further apart
    lie above the others, by less than their number of epochs (embeddings go in a direction, but not straight). In a bad
    run the lines stay high to the end (the learning rate does not fall, or is too high), all lie on one another
    (embeddings jump about a place), or all are near 0 (nothing is learnt).

    Source: none is needed, it is the plain distance of an utterance's embeddings at two epochs.

    Returns:
        The picture, and for each number of epochs apart (n_snapshots - skip,), the mean Euclidean distance.
    """
    trajectory, _ = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    skips = [skip for skip in SKIPS if skip < len(epochs)]
    series = {skip: analysis.drift(trajectory, skip).mean(1) for skip in skips}
    figure, axes = picture(1, 2, (5.0, 3.6))
    for axis, metric, title in zip(axes[0], ("euclidean", "cosine"), ("Euclidean distance", "1 - cosine")):
        for index, skip in enumerate(skips):
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
    return figure, series


def drift(run: RunData) -> Picture:
    """The picture of ``embedding_drifts``."""
    return embedding_drifts(run)[0]


def cka_similarities(run: RunData, y_lim: float | None = None) -> Picture:
    """1 - CKA between snapshots 1, 2, 4, 8 and 16 epochs apart: change of the arrangement, blind to rotation and scale.

    Beside the drift it says what moved: a drift without a change of CKA is all embeddings turning or growing together.
    A good run falls to almost 0, as the arrangement of the speakers is found; a bad one stays high (it goes on being
    rearranged), or is 0 from the start (nothing is learnt). Below 0 is chance: the estimate is unbiased.

    Source: S. Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019; unbiased as in T.
    Nguyen et al., ICLR 2021.

    Args:
        y_lim: the axis goes from 0 to this, so that runs can be compared; None: as far as this one.

    Raises:
        SpkverError: fewer than two snapshots, or than four utterances.
    """
    trajectory, _ = run.trajectory(at_least=2)
    if trajectory.shape[1] < 4:
        raise SpkverError(f"{run.experiment.snapshots}: CKA needs four utterances; set snapshots.utterances higher")
    epochs = run.snapshot_epochs
    figure, axes = picture(1, 1, (5.6, 3.6))
    for index, skip in enumerate(skip for skip in SKIPS if skip < len(epochs)):
        change = [1 - analysis.linear_cka(before, after) for before, after in zip(trajectory, trajectory[skip:])]
        axes[0, 0].plot(epochs[skip:], change, marker=".", label=f"{skip}", **line_style(index))
    epoch_axis(axes[0, 0])
    axes[0, 0].set(ylabel="1 - CKA", title=f"{run.name}: change of the arrangement", ylim=(0, y_lim))
    legend_beside(axes[0, 0], title="epochs apart")
    return figure


def eigenvalues(run: RunData, n: int = N_EIGENVALUES) -> Picture:
    """The n largest eigenvalues of the embeddings' covariance over the epochs, and how many dimensions are in use.

    A good run spreads: several eigenvalues grow, and the effective rank rises towards the number of speakers shown less
    one. In a bad one a single eigenvalue takes all (collapse: embeddings lie along a line), and the rank falls to 1.

    Source: O. Roy and M. Vetterli, "The effective rank", EUSIPCO 2007 (there of singular values).

    Raises:
        SpkverError: fewer than two snapshots, or n is below 1.
    """
    if n < 1:
        raise SpkverError(f"eigenvalues: n is {n}, it must be 1 or more")
    figure, axes = picture(1, 2, (5.0, 3.6))
    left, right = axes[0]
    trajectory, _ = run.trajectory(at_least=2)
    epochs = run.snapshot_epochs
    values = np.stack([analysis.eigenvalues(embeddings)[:n] for embeddings in trajectory])
    for index, (row, colour) in enumerate(zip(values.T, ordered_colours(values.shape[1]))):
        left.plot(epochs, row, marker=MARKERS[index % len(MARKERS)], markersize=3.5, label=f"{index + 1}", color=colour)
    epoch_axis(left)
    left.set(title=f"{values.shape[1]} largest eigenvalues of the covariance", ylim=(0, None))
    legend_beside(left, fontsize=8)
    for index, (kind, ranks) in enumerate(effective_ranks(run).items()):
        right.plot(epochs, ranks, marker=".", label=KINDS[kind], **line_style(index))
    epoch_axis(right)
    right.set(title=f"effective rank (of {trajectory.shape[2]} dimensions)", ylim=(0, None))
    right.legend(frameon=False)
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
    """By what angle embeddings turn from one epoch's move to the next: 0 straight on, 90 at random, 180 back.

    Embeddings that jump about one place, anew in each epoch, turn by 120 degrees. A good run comes down from there to
    about 100, as its moves begin to go on. A bad one stays at 120, or above: each epoch takes back what the one before
    did, which too high a learning rate does.
    """
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
    """How well speakers are apart over the epochs: Dunn index, plain and robust, and silhouette.

    In a good run all rise, for held-out speakers too, though less. In a bad one they rise for training speakers alone
    (it learns them by heart) or not at all. The plain Dunn index is decided by a single outlier.

    Source: J. C. Dunn, Journal of Cybernetics 1974; P. J. Rousseeuw, "Silhouettes", J. Comp. Appl. Math. 1987.
    """
    kinds = run.kinds(n_speakers=2)
    figure, axes = picture(1, 3, (4.2, 3.4))
    for index, kind in enumerate(kinds):
        trajectory, labels = run.trajectory(kind)
        kept = analysis.whole_classes(labels, MOST_COMPARED)
        measured = [_separation(embeddings[kept], labels[kept]) for embeddings in trajectory]
        for axis, values in zip(axes[0], zip(*measured)):
            label = KINDS[kind] + of_utterances(kept)
            axis.plot(run.snapshot_epochs, values, marker=".", label=label, **line_style(index))
    titles = ("Dunn index", "Dunn index without outliers (95 %)", "silhouette (cosine)")
    for axis, title in zip(axes[0], titles):
        epoch_axis(axis)
        axis.set_title(title)
    for axis in axes[0, :2]:
        axis.set_ylim(bottom=0)
    legend_below(figure, axes[0, 0])
    figure.suptitle(f"{run.name}: how well speakers are apart (higher is better)")
    return figure


def of_utterances(kept: np.ndarray) -> str:
    """Says of how many utterances a figure is, where not of all."""
    return "" if kept.all() else f", {np.count_nonzero(kept):,} of {len(kept):,} utterances"


def space(run: RunData) -> Picture:
    """The embeddings before training, halfway and at the end, in the two principal components of those at the end.

    One plane and equal axes in all panels, each around its own mean: what is near in one is as near in another. In a
    good run a small cloud becomes islands, one a speaker, hollow ones (held-out speakers) too; in a bad one it stays a
    cloud, or becomes a line (collapse). The share of the variance says how much of the embeddings the plane shows: of
    10 well-separated speakers in many dimensions it cannot be much more than 2/9.
    """
    trajectory, labels = run.trajectory()
    held_out = run.subset.held_out
    chosen = _first_middle_last(len(trajectory))
    basis, _, _ = principal(trajectory[-1])
    figure, axes = picture(1, len(chosen), (4.2, 4.2), sharex=True, sharey=True)
    places = [(trajectory[index] - trajectory[index].mean(0)) @ basis.components_.T for index in chosen]
    reach = 1.06 * np.abs(places).max()
    for axis, index, points in zip(axes[0], chosen, places):
        variance = trajectory[index].var(0).sum()
        share = points.var(0).sum() / variance if variance > 0 else 0.0
        scatter(axis, points, labels, held_out)
        axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axis.set_box_aspect(1)
        axis.set_title(f"{_when(run, index)} ({share:.0%} of the variance)")
    _speaker_legend(figure, axes[0, 0])
    figure.suptitle(run.name)
    return figure


def tsne(run: RunData) -> Picture:
    """A t-SNE map of the last snapshot: neighbours are near, distances between groups mean nothing.

    After a good run every speaker is an island of one colour; after a bad one colours mix, or a speaker is split (into
    recordings, channels: what the encoder tells apart beside the voice).

    Source: L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 2008.
    """
    trajectory, labels = run.trajectory()
    points = tsne_map(trajectory[-1], run.config.seed)
    figure, axes = picture(1, 1, (5.5, 5.0))
    scatter(axes[0, 0], points, labels, run.subset.held_out)
    axes[0, 0].set_title(f"{run.name}: t-SNE of the embeddings after epoch {run.snapshot_epochs[-1]}")
    _speaker_legend(figure, axes[0, 0])
    return figure


def tsne_map(embeddings: np.ndarray, seed: int, init: np.ndarray | str = "pca", metric: str = "cosine") -> np.ndarray:
    """t-SNE (van der Maaten & Hinton, 2008) of ``(n, dim)`` -> ``(n, 2)``.

    Raises:
        SpkverError: fewer than 4 embeddings.
    """
    if len(embeddings) < 4:
        raise SpkverError(f"t-SNE needs four utterances, there are {len(embeddings)}; set snapshots.utterances higher")
    perplexity = min(30.0, (len(embeddings) - 1) / 3)
    return TSNE(perplexity=perplexity, init=init, metric=metric, random_state=seed).fit_transform(embeddings)


def principal(embeddings: np.ndarray, n: int = 2) -> tuple[PCA, np.ndarray, float]:
    """The fitted PCA, the embeddings in its n components, and the share of the variance in them.

    Raises:
        SpkverError: fewer embeddings than components.
    """
    if len(embeddings) < n or embeddings.shape[1] < n:
        raise SpkverError(f"{n} principal components need {n} utterances; set snapshots.utterances higher")
    pca = PCA(n, svd_solver="full").fit(embeddings)
    return pca, pca.transform(embeddings), float(pca.explained_variance_ratio_.sum())


def scatter(axis, points: np.ndarray, labels: np.ndarray, held_out: np.ndarray, size: float = 22) -> None:
    """Points ``(n, 2 or 3)`` in the colour and shape of their speaker; held-out speakers are hollow."""
    speakers = list(dict.fromkeys(labels.tolist()))
    for speaker, (colour, marker) in zip(speakers, speaker_styles(len(speakers))):
        mine = labels == speaker
        hollow = bool(held_out[mine][0])
        axis.scatter(
            *points[mine].T,
            s=size,
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
        legend_below(figure, axis, most=8, fontsize=7)
