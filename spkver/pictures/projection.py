"""Embeddings over the epochs, brought to the plane so that a frame follows from the one before.

Each method takes ``(n_snapshots, n, dim)`` and gives ``(n_snapshots, n, 2)``.
"""

import warnings

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.linalg import orthogonal_procrustes

from spkver.errors import SpkverError
from spkver.pictures.embeddings import principal, tsne_map

# Snapshots on either side that a window's PCA sees.
WINDOW = 2
# Share of the frame before that stays in a t-SNE frame: without it points tremble.
TSNE_BLEND = 0.3
# M-PHATE ties an utterance to itself in one of so many snapshots, at most in 25.
_MPHATE_SHARE = 4


def pca(trajectory: np.ndarray, seed: int) -> np.ndarray:
    """The two principal components of all snapshots together: one plane, so every move is real."""
    flat = trajectory.reshape(-1, trajectory.shape[2])
    return principal(flat)[1].reshape(*trajectory.shape[:2], 2)


def pca_window(trajectory: np.ndarray, seed: int) -> np.ndarray:
    """The principal components of each snapshot and its neighbours, turned to fit the frame before.

    Every frame is brought to the same spread (root mean square distance from the centre 1), as embeddings of an
    untrained encoder lie so close together that they would be a speck beside those of a trained one.
    """
    frames: list[np.ndarray] = []
    for index, embeddings in enumerate(trajectory):
        window = trajectory[max(index - WINDOW, 0) : index + WINDOW + 1]
        points = principal(window.reshape(-1, window.shape[2]))[0].transform(embeddings)
        spread = np.sqrt((np.square(points - points.mean(0))).sum(1).mean())
        points = points / max(spread, np.finfo(float).tiny)
        frames.append(points if not frames else turned_to(points, frames[-1]))
    return np.stack(frames)


def tsne(trajectory: np.ndarray, seed: int) -> np.ndarray:
    """t-SNE of each snapshot, started from the frame before, turned to it and blended with it."""
    frames = [_centred(tsne_map(trajectory[0], seed))]
    for embeddings in trajectory[1:]:
        points = tsne_map(embeddings, seed, init=frames[-1].astype(np.float32))
        points = turned_to(_centred(points), frames[-1])
        frames.append((1 - TSNE_BLEND) * points + TSNE_BLEND * frames[-1])
    return np.stack(frames)


def umap(trajectory: np.ndarray, seed: int) -> np.ndarray:
    """AlignedUMAP: all snapshots at once, each utterance held near its place in the neighbouring ones.

    L. McInnes et al., "UMAP", 2018, as in the umap-learn package.

    Raises:
        SpkverError: umap-learn is not installed, or there are too few utterances or snapshots.
    """
    try:
        from umap import AlignedUMAP
    except ImportError as error:
        raise _missing("umap", "umap-learn", error) from None
    n_snapshots, n = trajectory.shape[:2]
    if n < 5 or n_snapshots < 2:
        raise SpkverError(f"umap needs 5 utterances and 2 snapshots, there are {n} and {n_snapshots}")
    same = [{index: index for index in range(n)}] * (n_snapshots - 1)
    mapper = AlignedUMAP(n_neighbors=min(15, n - 1), metric="cosine", random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed costs it its threads
        return np.stack([np.asarray(points) for points in mapper.fit_transform(list(trajectory), relations=same)])


def mphate(trajectory: np.ndarray, seed: int) -> np.ndarray:
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
