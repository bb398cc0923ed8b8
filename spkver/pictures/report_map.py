"""What the report's map shows: places in the plane at every snapshot, and who is near whom at the last one."""

import numpy as np

from spkver.pictures.page import packed
from spkver.pictures.projection import METHODS
from spkver.pictures.run import Run

_NEIGHBOURS = 5
# Rows of the cosine matrix at a time.
_BLOCK = 1024


def map_of(run: Run, method: str) -> dict:
    """The embeddings in the plane as 16-bit places within the map's box, and the nearest of each by cosine."""
    trajectory, labels = run.trajectory()
    places = METHODS[method](trajectory, run.config.seed)
    low, high = places.min((0, 1)), places.max((0, 1))
    scaled = (places - low) / np.maximum(high - low, 1e-12) * 65535
    index, cosine = nearest(trajectory[-1], _NEIGHBOURS)
    return {
        "method": method,
        "epochs": run.snapshot_epochs.tolist(),
        "places": packed(scaled.round(), "u2"),
        "nearest": packed(index, "u4"),
        "cosines": packed(cosine, "f4"),
        "n": len(labels),
        "low": low.tolist(),
        "high": high.tolist(),
        "utts": run.subset.utts.tolist(),
        "speakers": labels.tolist(),
        "held_out": run.subset.held_out.tolist(),
    }


def nearest(embeddings: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest other rows of each of ``(n, dim)`` by cosine, nearest first -> index and cosine ``(n, k)``.

    k is at most n - 1.
    """
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    k = min(k, len(unit) - 1)
    found = []
    for start in range(0, len(unit), _BLOCK):
        cosines = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -np.inf  # itself
        # Sorted are the k alone: to sort all would take most of a page's time where there are many.
        near = np.sort(np.argpartition(-cosines, k - 1, axis=1)[:, :k], axis=1) if k else np.empty((len(rows), 0), int)
        order = np.argsort(-np.take_along_axis(cosines, near, axis=1), axis=1, kind="stable")
        near = np.take_along_axis(near, order, axis=1)
        found.append((near, np.take_along_axis(cosines, near, axis=1)))
    index, cosine = zip(*found)
    return np.concatenate(index), np.concatenate(cosine)
