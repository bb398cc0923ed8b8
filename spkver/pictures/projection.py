"""Embeddings over the epochs, brought to the plane so that a frame follows from the one before.

Each method takes ``(n_snapshots, n, dim)``, a seed and ``Options``, and gives ``(n_snapshots, n, 2)``.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import orthogonal_procrustes

from spkver.errors import SpkverError
from spkver.pictures.embeddings import principal, tsne_map

# M-PHATE ties an utterance to itself in one of so many snapshots, at most in 25.
_MPHATE_SHARE = 4


@dataclass(frozen=True)
class Options:
    """How a method projects; each takes what concerns it.

    Args:
        fit_basis: of PCA; ``"all"``: one plane for all snapshots, so that every move is real; ``"window"``: the plane
            of a snapshot and its neighbours, turned to fit the frame before.
        window_size: how many snapshots a window of PCA holds.
        tsne_update: of t-SNE; the share of the way from the frame before to its own map that a frame goes. At 1 points
            tremble.
        n_neighbors: of UMAP; how many neighbours of a point its map keeps near.
        min_dist: of UMAP; how near to one another points may lie, 0 to 1.
        metric: of t-SNE and UMAP; ``"cosine"`` or ``"euclidean"``.

    Raises:
        SpkverError: a value that is out of range.
    """

    fit_basis: str = "all"
    window_size: int = 16
    tsne_update: float = 0.2
    n_neighbors: int = 20
    min_dist: float = 0.2
    metric: str = "cosine"

    def __post_init__(self):
        for name, right, wanted in (
            ("fit_basis", self.fit_basis in ("all", "window"), "all or window"),
            ("window_size", self.window_size >= 1, "1 or more"),
            ("tsne_update", 0 < self.tsne_update <= 1, "above 0, at most 1"),
            ("n_neighbors", self.n_neighbors >= 2, "2 or more"),
            ("min_dist", 0 <= self.min_dist <= 1, "0 to 1"),
            ("metric", self.metric in ("cosine", "euclidean"), "cosine or euclidean"),
        ):
            if not right:
                raise SpkverError(f"{name} is {getattr(self, name)}: it must be {wanted}")


DEFAULTS = Options()


def pca(trajectory: np.ndarray, seed: int, options: Options = DEFAULTS) -> np.ndarray:
    """The two principal components, of all snapshots together or of a window of them.

    Windows differ in how far their embeddings spread (an untrained encoder's lie close together), so that each of their
    frames is brought to the spread of the widest.
    """
    if options.fit_basis == "all":
        flat = trajectory.reshape(-1, trajectory.shape[2])
        return principal(flat)[1].reshape(*trajectory.shape[:2], 2)
    frames: list[np.ndarray] = []
    for index, embeddings in enumerate(trajectory):
        first = max(index - options.window_size // 2, 0)
        window = trajectory[first : first + options.window_size]
        points = _centred(principal(window.reshape(-1, window.shape[2]))[0].transform(embeddings))
        frames.append(points if not frames else turned_to(points, frames[-1]))
    spreads = np.array([np.linalg.norm(points) for points in frames])
    factors = spreads.max() / np.maximum(spreads, np.finfo(float).tiny)
    return np.stack(frames) * factors[:, None, None]


def pca_window(trajectory: np.ndarray, seed: int, options: Options = DEFAULTS) -> np.ndarray:
    """``pca`` with ``fit_basis="window"``."""
    return pca(trajectory, seed, replace(options, fit_basis="window"))


def tsne(trajectory: np.ndarray, seed: int, options: Options = DEFAULTS) -> np.ndarray:
    """t-SNE of each snapshot, started from the frame before, turned to it and blended with it."""

    def own_map(embeddings: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        start = "pca" if before is None else before.astype(np.float32)
        return tsne_map(embeddings, seed, start, options.metric)

    return _following(trajectory, own_map, options.tsne_update)


def umap(trajectory: np.ndarray, seed: int, options: Options = DEFAULTS) -> np.ndarray:
    """UMAP of each snapshot, started from the frame before and turned to it.

    L. McInnes et al., "UMAP", 2018, as in the umap-learn package. (Its AlignedUMAP maps all snapshots at once, but is
    compiled anew in every process, which takes most of a minute.)

    Raises:
        SpkverError: umap-learn is not installed, or there are too few utterances.
    """
    try:
        from umap import UMAP
    except ImportError as error:
        raise _missing("umap", "umap-learn", error) from None
    n = trajectory.shape[1]
    if n < 5:
        raise SpkverError(f"umap needs 5 utterances, there are {n}")

    def own_map(embeddings: np.ndarray, before: np.ndarray | None) -> np.ndarray:
        # The spectral start solves for eigenvectors, of which so few points have too few.
        start = principal(embeddings)[1] if before is None else before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed costs it its threads
            return UMAP(
                n_neighbors=min(options.n_neighbors, n - 1),
                min_dist=options.min_dist,
                metric=options.metric,
                init=start.astype(np.float32),
                random_state=seed,
            ).fit_transform(embeddings)

    return _following(trajectory, own_map, update=1.0)


def _following(
    trajectory: np.ndarray, own_map: Callable[[np.ndarray, np.ndarray | None], np.ndarray], update: float
) -> np.ndarray:
    """Each snapshot's own map, begun from the frame before, turned to it, and ``update`` of the way taken there."""
    frames = [_centred(own_map(trajectory[0], None))]
    for embeddings in trajectory[1:]:
        points = turned_to(_centred(own_map(embeddings, frames[-1])), frames[-1])
        frames.append(update * points + (1 - update) * frames[-1])
    return np.stack(frames)


def mphate(trajectory: np.ndarray, seed: int, options: Options = DEFAULTS) -> np.ndarray:
    """M-PHATE: one graph over utterances and snapshots, diffused.

    S. Gigante et al., "Visualizing the PHATE of Neural Networks", NeurIPS 2019, as in the m-phate package.

    Raises:
        SpkverError: m-phate is not installed or does not work with the packages that are.
    """
    try:
        from m_phate import M_PHATE
    except Exception as error:  # an old dependency of it fails in other ways than by being absent
        raise _missing("mphate", "m-phate", error) from None
    n_snapshots, n = trajectory.shape[:2]
    if n < 8 or n_snapshots < 3:
        raise SpkverError(f"mphate needs 8 utterances and 3 snapshots, there are {n} and {n_snapshots}")
    # An utterance is tied to itself in so many other snapshots: to all of them, and nothing would move.
    knn = min(25, max(n_snapshots // _MPHATE_SHARE, 1))
    mapper = M_PHATE(interslice_knn=knn, random_state=seed, verbose=0, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations within, and that the time before training lies apart
        return np.asarray(mapper.fit_transform(trajectory)).reshape(n_snapshots, n, 2)


METHODS = {"pca": pca, "pca-window": pca_window, "tsne": tsne, "umap": umap, "mphate": mphate}


def turned_to(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``points (n, 2)`` turned or mirrored, not stretched, to lie nearest to ``reference`` (Procrustes)."""
    centre = points.mean(0)
    rotation, _ = orthogonal_procrustes(points - centre, reference - reference.mean(0))
    return (points - centre) @ rotation + centre


def smooth(frames: np.ndarray, width: int) -> np.ndarray:
    """A running mean over ``width`` snapshots (odd), shorter at the ends; 1 leaves all as it is."""
    half = width // 2
    return np.stack([frames[max(i - half, 0) : i + half + 1].mean(0) for i in range(len(frames))])


def between(values: np.ndarray, n_frames: int) -> np.ndarray:
    """``n_frames`` frames through the snapshots ``(n_snapshots, ...)``, monotone between any two of them.

    Fritsch & Butland's cubic (PCHIP): no point runs past where it is going.
    """
    if len(values) == 1:
        return np.repeat(values, n_frames, axis=0)
    at = np.arange(len(values))
    return PchipInterpolator(at, values, axis=0)(np.linspace(0, len(values) - 1, n_frames))


def _centred(points: np.ndarray) -> np.ndarray:
    return points - points.mean(0)


def _missing(extra: str, package: str, error: Exception) -> SpkverError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SpkverError(
        f"--method {extra} needs {package}, which cannot be used here ({reason}); "
        f"install it with: pip install 'spkver[{extra}]', or choose pca, pca-window or tsne"
    )
