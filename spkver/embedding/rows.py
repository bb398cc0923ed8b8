"""What embeddings must be in any form that they are kept in: an id for each, and rows that are usable.

A fault is reported with the place that it was found at; ``where(index)`` gives the place of an utterance.
"""

import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from spkver.data.lookup import check_ids
from spkver.errors import SpkverError

Where = Callable[[int], str]

ROWS_A_CHUNK = 16384  # of a memory map, at once


def stacked(vectors: Iterable[tuple[int, np.ndarray]], utts: Sequence[str], where: Where) -> np.ndarray:
    """One row an utterance, filled as the vectors come, so that they need not all be in memory twice.

    Args:
        vectors: ``(row, vector)``, a vector for each of the rows in any order.
        utts: N ids, at least one.
        where: the place of each.

    Returns:
        (N, D) float32.

    Raises:
        SpkverError: two utterances differ in dimensions (both are named), or a row is NaN, infinite or zero.
    """
    embeddings = np.empty((0, 0), np.float32)
    first: int | None = None
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named below
        for index, vector in vectors:
            if first is None:
                embeddings, first = np.empty((len(utts), vector.size), dtype=np.float32), index
            if vector.size != embeddings.shape[1]:
                other = f"'{utts[first]}' ({where(first)}) has {embeddings.shape[1]}"
                raise SpkverError(f"{where(index)}: '{utts[index]}' has {vector.size} dimensions, {other}")
            embeddings[index] = vector
    check_values(embeddings, utts, where)
    return embeddings


def check_embeddings(embeddings: np.ndarray, utts: Sequence[str], name: str | os.PathLike[str], where: Where) -> None:
    """Refuse embeddings (N, D) whose ids or rows cannot be used.

    Raises:
        SpkverError: beginning with ``name`` where the counts differ; else as `check_ids` and `check_values`.
    """
    if len(embeddings) != len(utts):
        raise SpkverError(f"{name}: {len(embeddings)} embeddings, but {len(utts)} utterance ids; make them again")
    check_ids(utts, where)
    check_values(embeddings, utts, where)


def check_values(embeddings: np.ndarray, utts: Sequence[str], where: Where) -> None:
    """Refuse a row that makes every trial of its utterance senseless.

    Raises:
        SpkverError: the first row that is NaN, infinite or zero.
    """
    for start in range(0, len(embeddings), ROWS_A_CHUNK):
        rows = embeddings[start : start + ROWS_A_CHUNK]
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1))
        if bad.size:
            index = start + int(bad[0])
            problem = "all zeros" if not rows[bad[0]].any() else "NaN or infinite"
            raise SpkverError(
                f"{where(index)}: the embedding of '{utts[index]}' is {problem} in float32; look at its audio"
            )


def as_vector(array: np.ndarray) -> np.ndarray | None:
    """An array as one embedding (D,), a matrix with one row being a vector; None where it is none."""
    if array.dtype.kind not in "fiu" or not array.size:
        return None
    if array.ndim == 2 and len(array) == 1:
        return array[0]
    return array if array.ndim == 1 else None
