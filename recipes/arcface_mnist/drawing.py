"""Pictures of runs on digits, and how well their classes are apart."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.distance import cdist

from spkver.errors import SpkverError
from spkver.pictures.motion import Motion, Points
from spkver.pictures.projection import between
from spkver.pictures.style import COLOURS, MARKERS, Picture, legend_below, picture

FRAMES = 60
# Points of a moving picture: more hide one another.
MOST_POINTS = 1000
# Inches of a panel beside another: two of them can still be read on a phone.
BESIDE = (3.1, 3.5)


def motion(name: str, runs: Sequence, kind: str) -> Motion:
    """The embeddings of runs over the epochs, side by side.

    In the plane and, of softmax, in space they are as they are, with their lengths; in three dimensions those of
    normalising heads, which see the direction alone, are on the sphere.

    Args:
        name: above the picture.
        runs: finished ones, of the same images.
        kind: ``"train"`` or ``"validation"``.

    Raises:
        SpkverError: embeddings of neither 2 nor 3 dimensions, or runs of other images or numbers of epochs.
    """
    panels = []
    for run in runs:
        part = getattr(run, kind)
        n_epochs, n, dim = part.embeddings.shape
        if dim not in (2, 3):
            raise SpkverError(f"{run.name}: embeddings of {dim} dimensions; only 2 or 3 can be drawn as they are")
        first = getattr(runs[0], kind)
        if len(part.embeddings) != len(first.embeddings) or not np.array_equal(part.labels, first.labels):
            raise SpkverError(f"{run.name} and {runs[0].name}: differ in their images or epochs, so not side by side")
        chosen = np.random.default_rng(0).permutation(n)[:MOST_POINTS]
        chosen = chosen[np.argsort(part.labels[chosen], kind="stable")]
        sphere = dim == 3 and run.values.name != "softmax"
        where = "in the plane" if dim == 2 else "on the sphere" if sphere else "in space"
        places = between(part.embeddings[:, chosen].astype(np.float64), FRAMES)
        title = f"{run.name}, {where}" if len(runs) > 1 else where
        panels.append(Points(title, places, part.labels[chosen].astype(str), np.zeros(len(chosen), bool), sphere))
    images = {"train": "training images", "validation": "validation images"}[kind]
    sides = (5.0, 5.0) if len(runs) == 1 else BESIDE
    return Motion(f"{name}, {images}", panels, np.linspace(0, n_epochs - 1, FRAMES), figsize_per_plot=sides)


def scatters(runs: Sequence) -> Picture:
    """The planes of runs, two beside each other: validation embeddings, whose region a point is in, classes' centres.

    Raises:
        SpkverError: embeddings that do not lie in a plane.
    """
    for run in runs:
        if run.config.model.embed_dim != 2:
            raise SpkverError(f"{run.name}: embeddings of {run.config.model.embed_dim} dimensions lie in no plane")
    columns = min(len(runs), 2)
    rows = -(-len(runs) // columns)
    figure, axes = picture(rows, columns, (4.4, 4.5) if len(runs) == 1 else (3.2, 3.3))
    for axis in axes.flat[len(runs) :]:
        axis.set_axis_off()
    for axis, run in zip(axes.flat, runs):
        _draw_scatter(axis, run)
    most = max(zip(runs, axes.flat), key=lambda both: both[0].config.classes)[1]
    legend_below(figure, most, 10, markerscale=2, handletextpad=0.1, columnspacing=0.8)
    return figure


def _draw_scatter(axis, run) -> None:
    head, points, labels = run.head(), run.validation.embeddings[-1], run.validation.labels
    reach = 1.1 * np.abs(points).max()
    line = np.linspace(-reach, reach, 400)
    grid = torch.tensor(np.stack(np.meshgrid(line, line), 2).reshape(-1, 2), dtype=torch.float32)
    with torch.inference_mode():
        region = head.plain_logits(grid).argmax(1).view(400, 400).numpy()
    axis.contour(line, line, region, np.arange(head.out_features) + 0.5, colors="0.6", linewidths=0.6)
    for digit, weight in enumerate(centres(run)):
        mine = points[labels == digit]
        axis.scatter(
            *mine.T, s=8, color=COLOURS[digit], marker=MARKERS[digit % len(MARKERS)], alpha=0.6, label=str(digit)
        )
        _arrow(axis, weight / np.linalg.norm(weight) * 0.93 * reach, str(digit), COLOURS[digit])
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=run.name)


def centres(run) -> np.ndarray:
    """The classes' centres ``(classes, embed_dim)``: the head's weight.

    Of softmax less its mean: what is added to all centres adds the same to all logits, which softmax does not see, so
    that it may be anything, and the arrows would point anywhere.
    """
    weight = run.weight[-1]
    return weight - weight.mean(0) if run.values.name == "softmax" else weight


def sample(images: np.ndarray, labels: np.ndarray, each: int = 8) -> Picture:
    """The first images ``(n, 28, 28)`` of each digit, a row each."""
    digits = np.unique(labels)
    rows = [images[labels == digit][:each] for digit in digits]
    sheet = np.full((28 * len(digits), 28 * each), 255, np.uint8)
    for row, some in enumerate(rows):
        for column, image in enumerate(some):
            sheet[28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = 255 - image
    figure, axes = picture(1, 1, (0.5 * each, 0.5 * len(digits) + 0.4))
    _image(axes[0, 0], sheet, "a sample of the images")
    return figure


def logits_in_words(embedding: np.ndarray, weight: np.ndarray, scale: float | None = None) -> list[str]:
    """How each class's logit comes about.

    Args:
        embedding: (embed_dim,).
        weight: (classes, embed_dim), the classes' centres.
        scale: None: the product of embedding and centre, as of softmax without a bias; else the scaled cosine.
    """
    logits = weight @ embedding
    if scale is None:
        products = [" + ".join(f"{_signed(w)} x {_signed(x)}" for w, x in zip(row, embedding)) for row in weight]
        return [f"w{c} . x = {product} = {logits[c]:.2f}" for c, product in enumerate(products)]
    cosines = logits / (np.linalg.norm(weight, axis=1) * np.linalg.norm(embedding))
    degrees = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return [f"s cos({d:.0f}°) = {scale:g} x {c:.2f} = {scale * c:.2f}" for d, c in zip(degrees, cosines)]


def _signed(number: float) -> str:
    return f"({number:.2f})" if number < 0 else f"{number:.2f}"


def worked_logits(run) -> Picture:
    """One digit: its image, its embedding beside the classes' centres, and how the logits come of them.

    Of softmax they are the logits less their mean, see ``centres``.

    Raises:
        SpkverError: the head has a bias, which the words leave out.
    """
    if run.bias is not None:
        raise SpkverError(f"{run.name}: has a bias; the logits of one digit are worked out for heads without")
    labels, weight = run.validation.labels, centres(run)
    index = int(np.flatnonzero(labels == labels.min())[0])
    embedding = run.validation.embeddings[-1][index]
    words = logits_in_words(embedding, weight, run.values.scale)
    figure, axes = picture(2, 2, (3.1, 2.7), width_ratios=(0.7, 1))
    _image(axes[0, 0], 255 - run.images[index], f"a {labels[index]}: x = ({embedding[0]:.2f}, {embedding[1]:.2f})")
    axis = axes[0, 1]
    # The centres are short beside embeddings that softmax made long: as much longer as brings both into one picture.
    longer = np.linalg.norm(embedding) / np.linalg.norm(weight, axis=1).max()
    reach = 1.25 * max(np.abs(embedding).max(), longer * np.abs(weight).max())
    for digit, centre in enumerate(weight):
        _arrow(axis, longer * centre, f"w{digit}", COLOURS[digit])
    axis.plot(*embedding, "*", color="black", markersize=13)
    axis.annotate("x", embedding, xytext=(7, 4), textcoords="offset points", weight="bold")
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"centres, {longer:.1f} times as long")
    for unused in axes[1]:
        unused.remove()
    below = figure.add_subplot(2, 1, 2)
    highest = int(np.argmax([float(text.rsplit("= ", 1)[1]) for text in words]))
    for row, text in enumerate(words):
        thick = "bold" if row == highest else "normal"
        below.text(
            0.02, 0.9 - 0.9 * (row + 0.5) / len(words), text, color=COLOURS[row], weight=thick, va="center", fontsize=11
        )
    below.set_axis_off()
    figure.suptitle(f"{run.name}: the highest logit is that of {highest}")
    return figure


def nearer_to_another(points: np.ndarray, labels: np.ndarray) -> tuple[int, int, int]:
    """An image, one of its class and one of another class that is nearer to it: where their distances differ most.

    No threshold on the distance can say of both pairs whether they are of one class.

    Args:
        points: (n, embed_dim).
        labels: (n,).

    Returns:
        Their rows. Where all images are nearer to all of their class, those for which this is the closest thing.
    """
    distances = cdist(points, points)
    same = labels[:, None] == labels
    farthest = np.where(same, distances, -np.inf)
    nearest = np.where(same, np.inf, distances)
    image = int(np.argmax(farthest.max(1) / np.maximum(nearest.min(1), 1e-12)))
    return image, int(farthest[image].argmax()), int(nearest[image].argmin())


def far_and_near(run, seen: np.ndarray) -> Picture:
    """Two images of one class that lie farther apart than one of them does from an image of another class.

    Args:
        run: a finished one.
        seen: (n, embed_dim), its validation embeddings as the head sees them. Misread images are left out.
    """
    with torch.inference_mode():
        right = run.head().plain_logits(torch.from_numpy(run.validation.embeddings[-1])).argmax(1).numpy()
    rows = np.flatnonzero(right == run.validation.labels)
    labels = run.validation.labels[rows]
    one, own, other = nearer_to_another(seen[rows], labels)
    far, near = (np.linalg.norm(seen[rows[one]] - seen[rows[mate]]) for mate in (own, other))
    figure, axes = picture(1, 3, (1.9, 2.5))
    for axis, place, words in (
        (axes[0, 0], own, f"{far:.3g} away"),
        (axes[0, 1], one, "the middle one"),
        (axes[0, 2], other, f"{near:.3g} away"),
    ):
        _image(axis, 255 - run.images[rows[place]], f"a {labels[place]}\n{words}")
    sentence = "nearer to the other class than to its own" if near < far else "nearer to all of its own class"
    figure.suptitle(f"{run.name}: {sentence}\n", fontsize=11)
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


def _arrow(axis, tip: np.ndarray, name: str, colour: str) -> None:
    arrow = {"arrowstyle": "<|-", "color": colour, "alpha": 0.7}
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
    text = {"color": colour, "weight": "bold", "ha": "center", "va": "center", "bbox": box}
    axis.annotate(name, (0, 0), tip, arrowprops=arrow, **text)


def _image(axis, pixels: np.ndarray, title: str) -> None:
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title)
    axis.grid(False)
    axis.spines[:].set_visible(False)
