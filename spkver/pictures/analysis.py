"""The numbers behind the pictures of embeddings.

A run's embeddings are ``(n_snapshots, n, dim)``: the same n utterances at each snapshot. ``labels``
``(n,)`` say whose they are. Everything is computed in float64.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

# Rows of a matrix of distances at a time.
_BLOCK = 4096


def drift(embeddings: np.ndarray, skip: int, metric: str = "euclidean") -> np.ndarray:
    """How far each embedding has moved since ``skip`` snapshots before.

    Args:
        embeddings: (n_snapshots, n, dim).
        metric: ``"euclidean"``, or ``"cosine"`` for 1 - cosine.

    Returns:
        (n_snapshots - skip, n); empty when there are no more than ``skip`` snapshots.
    """
    embeddings = np.asarray(embeddings, np.float64)
    before, after = embeddings[: max(len(embeddings) - skip, 0)], embeddings[skip:]
    if metric == "euclidean":
        return np.linalg.norm(after - before, axis=2)
    norms = np.linalg.norm(before, axis=2) * np.linalg.norm(after, axis=2)
    return 1 - (before * after).sum(2) / np.maximum(norms, np.finfo(float).tiny)


def linear_cka(x: ArrayLike, y: ArrayLike) -> float:
    """Centred kernel alignment of two representations of the same n items, linear kernel, unbiased HSIC.

    1 where they are the same up to rotation and scale, about 0 where they have nothing in common (it may
    fall slightly below). S. Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML
    2019, with the unbiased HSIC of L. Song et al., JMLR 2012, as in T. Nguyen et al., ICLR 2021.

    Args:
        x: (n, dim_x), n at least 4.
        y: (n, dim_y).

    Raises:
        ValueError: fewer than 4 items, or numbers of items that differ.
    """
    first, second = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(first) != len(second) or len(first) < 4:
        raise ValueError(f"CKA compares the same 4 or more items; there are {len(first)} and {len(second)}")
    # Removing the means first changes nothing but the rounding.
    first, second = first - first.mean(0), second - second.mean(0)
    norm = _unbiased_hsic(first, first) * _unbiased_hsic(second, second)
    return float(_unbiased_hsic(first, second) / np.sqrt(norm)) if norm > 0 else float("nan")


def _unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Of the linear kernels ``x x'`` and ``y y'`` with zeros on their diagonals, none of which is ever laid out."""
    n = len(x)
    (diagonal_x, rows_x), (diagonal_y, rows_y) = (_linear_kernel(values) for values in (x, y))
    products = ((x.T @ y) ** 2).sum() - diagonal_x @ diagonal_y
    total = products + rows_x.sum() * rows_y.sum() / ((n - 1) * (n - 2)) - 2 * (rows_x @ rows_y) / (n - 2)
    return total / (n * (n - 3))


def _linear_kernel(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The diagonal of ``values values'``, and the sums of its rows without it, each (n,)."""
    diagonal = (values**2).sum(1)
    return diagonal, values @ values.sum(0) - diagonal


def eigenvalues(embeddings: ArrayLike) -> np.ndarray:
    """The eigenvalues of the covariance of ``(n, dim)``, largest first, ``(min(n, dim),)``."""
    embeddings = np.asarray(embeddings, np.float64)
    singular = np.linalg.svd(embeddings - embeddings.mean(0), compute_uv=False)
    return singular**2 / max(len(embeddings) - 1, 1)


def effective_rank(values: ArrayLike) -> float:
    """exp of the entropy of eigenvalues: how many dimensions are really in use.

    O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007 (there of
    singular values).
    """
    values = np.asarray(values, np.float64)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0


def curvature(embeddings: np.ndarray) -> np.ndarray:
    """The angle, in radians, by which each embedding turns between one move and the next.

    0: straight on; pi: back. An embedding that did not move has no direction: NaN.

    Args:
        embeddings: (n_snapshots, n, dim).

    Returns:
        (n_snapshots - 2, n).
    """
    moves = np.diff(np.asarray(embeddings, np.float64), axis=0)
    lengths = np.linalg.norm(moves, axis=2)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (moves[1:] * moves[:-1]).sum(2) / (lengths[1:] * lengths[:-1])
    return np.arccos(np.clip(cosines, -1, 1))


def dunn_index(embeddings: ArrayLike, labels: ArrayLike, keep: float = 1.0) -> float:
    """Smallest distance between items of two classes over the largest distance within a class.

    Above 1 the classes are compact and well apart. J. C. Dunn, "Well-separated clusters and optimal fuzzy
    partitions", Journal of Cybernetics 1974.

    Args:
        embeddings: (n, dim).
        labels: (n,).
        keep: the share of each class that is kept, nearest to its centroid first; 0.95 is the robust form,
            for a single outlier decides the plain one.

    Raises:
        ValueError: fewer than two classes.
    """
    embeddings, classes = np.asarray(embeddings, np.float64), np.asarray(labels)
    if len(np.unique(classes)) < 2:
        raise ValueError("the Dunn index needs two classes or more")
    kept = _near_centroid(embeddings, classes, keep)
    # Sorted by class: what is of a class is a block, and of other classes what comes after it.
    order = np.argsort(classes[kept], kind="stable")
    points, ends = embeddings[kept][order], np.cumsum(np.unique(classes[kept], return_counts=True)[1])
    points = points - points.mean(0)
    nearest, diameter = np.inf, 0.0
    for start, end in zip([0, *ends], ends):
        own = points[start:end]
        diameter = max(diameter, pdist(own).max(initial=0.0))
        for first in range(end, len(points), _BLOCK):
            nearest = min(nearest, _smallest_distance(own, points[first : first + _BLOCK]))
    return float(nearest / diameter) if diameter > 0 else float("inf")


def _smallest_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Between a row of ``x`` and one of ``y``: found by a product of matrices, which is fast, then computed anew."""
    half_squares = (y**2).sum(1) / 2 - x @ y.T + (x**2).sum(1)[:, None] / 2
    row, column = np.unravel_index(half_squares.argmin(), half_squares.shape)
    return float(np.linalg.norm(x[row] - y[column]))


def _near_centroid(embeddings: np.ndarray, labels: np.ndarray, keep: float) -> np.ndarray:
    kept = np.ones(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distance = np.linalg.norm(embeddings[members] - embeddings[members].mean(0), axis=1)
        kept[members] = distance <= np.quantile(distance, keep)
    return kept


def whole_classes(labels: ArrayLike, most: int) -> np.ndarray:
    """Which items to keep, ``(n,)`` bool, so that about ``most`` remain: classes spread evenly over all, each whole.

    For what grows with the square of their number; two classes stay in any case.
    """
    labels = np.asarray(labels)
    if len(labels) <= most:
        return np.ones(len(labels), bool)
    names = np.unique(labels)
    n_kept = max(most * len(names) // len(labels), 2)
    return np.isin(labels, names[np.linspace(0, len(names) - 1, n_kept).astype(int)])


def confusion(truth: ArrayLike, predicted: ArrayLike, n_classes: int) -> np.ndarray:
    """Counts ``(n_classes, n_classes)``: rows are the true class, columns the predicted one."""
    flat = np.asarray(truth) * n_classes + np.asarray(predicted)
    return np.bincount(flat, minlength=n_classes**2).reshape(n_classes, n_classes)


def most_confused(matrices: Sequence[np.ndarray], n: int) -> np.ndarray:
    """The n classes that take part in most errors over all matrices, in ascending order of class.

    All frames of an animation show the same classes in the same order.
    """
    total = np.sum(matrices, axis=0)
    errors = total - np.diag(np.diag(total))
    involved = errors.sum(0) + errors.sum(1)
    return np.sort(np.argsort(-involved, kind="stable")[:n])
