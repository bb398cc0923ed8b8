"""Pictures of a run on digits, and how well its classes are apart."""

import numpy as np
import torch

from spkver.errors import SpkverError
from spkver.heads import Head
from spkver.pictures.animation import Motion, Panel
from spkver.pictures.projection import between
from spkver.pictures.style import COLOURS, MARKERS, Picture, legend_beside, picture

FRAMES = 60
# Points of a moving picture: more hide one another.
MOST_POINTS = 1000


def motion(name: str, epochs: list[dict[str, np.ndarray]], kind: str) -> Motion:
    """The embeddings over the epochs: in the plane as they are, in three dimensions on the sphere.

    Args:
        name: above the picture.
        epochs: the arrays of every epoch.
        kind: ``"train"`` or ``"validation"``.

    Raises:
        SpkverError: embeddings of neither 2 nor 3 dimensions.
    """
    n, dim = epochs[0][kind].shape
    if dim not in (2, 3):
        raise SpkverError(f"{name}: embeddings of {dim} dimensions; only 2 or 3 can be drawn as they are")
    chosen = np.random.default_rng(0).permutation(n)[:MOST_POINTS]
    labels = epochs[0][f"{kind}_labels"][chosen]
    order = np.argsort(labels, kind="stable")
    points = between(np.stack([epoch[kind][chosen[order]] for epoch in epochs]).astype(np.float64), FRAMES)
    times = np.linspace(0, len(epochs) - 1, FRAMES)
    title = "on the sphere" if dim == 3 else "in the plane"
    return Motion(name, [Panel(title, points)], times, labels[order].astype(str), np.zeros(len(chosen), bool))


def scatter(name: str, head: Head, epoch: dict[str, np.ndarray]) -> Picture:
    """Validation embeddings as they are, whose region each point of the plane is in, and the classes' weights.

    Args:
        name: above the picture.
        head: of the run; the epoch's weights are put into it.
        epoch: the arrays of one epoch.
    """
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(epoch["weight"]))
        if "bias" in epoch:
            head.bias.copy_(torch.from_numpy(epoch["bias"]))
    points, labels = epoch["validation"], epoch["validation_labels"]
    reach = 1.1 * np.abs(points).max()
    line = np.linspace(-reach, reach, 400)
    grid = torch.tensor(np.stack(np.meshgrid(line, line), 2).reshape(-1, 2), dtype=torch.float32)
    with torch.inference_mode():
        region = head.plain_logits(grid).argmax(1).view(400, 400).numpy()
    figure, axes = picture(1, 1, (5.6, 5.0))
    axis = axes[0, 0]
    axis.contour(line, line, region, np.arange(head.out_features) + 0.5, colors="0.6", linewidths=0.6)
    colours = [*COLOURS, "#999999", "#882255", "#44AA99"]
    for digit in range(head.out_features):
        mine = points[labels == digit]
        axis.scatter(
            *mine.T, s=8, color=colours[digit], marker=MARKERS[digit % len(MARKERS)], alpha=0.6, label=str(digit)
        )
        centre = epoch["weight"][digit] / np.linalg.norm(epoch["weight"][digit]) * 0.93 * reach
        axis.annotate(
            str(digit),
            (0, 0),
            centre,
            color=colours[digit],
            weight="bold",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "<|-", "color": colours[digit], "alpha": 0.7},
        )
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xlabel="x1", ylabel="x2")
    axis.set_title(f"{name}: arrows point along the classes' weights")
    legend_beside(axis, title="digit", markerscale=2)
    return figure


def separation(points: np.ndarray, labels: np.ndarray) -> float:
    """Smallest distance between two centroids over the largest mean distance of a class to its centroid.

    A Dunn index of centroids and means: one misread digit does not decide it.
    """
    classes = np.unique(labels)
    centroids = np.stack([points[labels == c].mean(0) for c in classes])
    spread = max(np.linalg.norm(points[labels == c] - m, axis=1).mean() for c, m in zip(classes, centroids))
    apart = np.linalg.norm(centroids[:, None] - centroids, axis=2)
    return float(apart[~np.eye(len(classes), dtype=bool)].min() / spread)
