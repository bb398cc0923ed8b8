"""Cosine scores of trials: dot products of two rows for each trial, which is what every back end computes.

- A product is the same to the bit for any number of threads, and for a trial alone or among others, so a list
  that is scored in pieces gives the bytes of the list scored at once. That decides the kernel. ``einsum`` sums
  each row by itself, in one order, as long as a row fits into its buffer of 8192 numbers; longer rows it would
  cut at places that depend on their neighbours. BLAS products (``matmul``, ``vecdot``) are no faster here, and
  some BLAS libraries round by where in memory a row lies.
- Most of the time goes into fetching rows from memory in random order. They are gathered in blocks that stay
  in the cache, never for a whole list: the memory beyond the embeddings is a few MB for each thread.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from spkver.data.lookup import check_index
from spkver.data.machine import usable_cores
from spkver.embedding.rows import ROWS_A_CHUNK

_LONGEST_ROW = 8192  # numbers in the buffer of numpy's iterator (NPY_BUFSIZE)
_TRIALS_A_TASK = 65536
_FLOATS_A_BLOCK = 2**18  # 1 MB a side

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def pair_products(
    left: np.ndarray,
    right: np.ndarray,
    left_index: np.ndarray,
    right_index: np.ndarray,
    threads: int | None = None,
) -> np.ndarray:
    """The dot product of ``left[left_index[i]]`` and ``right[right_index[i]]`` for each trial i.

    Args:
        left: (N, D) float32, C-contiguous; a memory map will do.
        right: (M, D) likewise; may be ``left`` itself.
        left_index: (n_trials,) integers, rows of ``left``.
        right_index: (n_trials,) likewise, rows of ``right``.
        threads: at work at once; None takes every core that this process may use. No effect on the result.

    Returns:
        (n_trials,) float32.

    Raises:
        ValueError: an array has another shape, type or layout, D is 0 or above 8192, an index is negative or
            beyond the rows (the message names the trial), or ``threads`` is below 1.

    Example:
        >>> rows = np.array([[1, 0], [0.6, 0.8]], dtype=np.float32)
        >>> pair_products(rows, rows, np.array([0, 1, 0]), np.array([0, 1, 1]))
        array([1. , 1. , 0.6], dtype=float32)
    """
    left, right = check_rows("left", left), check_rows("right", right)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"left has {left.shape[1]} columns, right has {right.shape[1]}")
    left_index = check_index("left_index", left_index, len(left))
    right_index = check_index("right_index", right_index, len(right))
    if len(left_index) != len(right_index):
        raise ValueError(f"left_index has {len(left_index)} trials, right_index has {len(right_index)}")
    out = np.empty(len(left_index), dtype=np.float32)

    def score(start: int) -> None:
        part = slice(start, start + _TRIALS_A_TASK)
        _products(left, right, left_index[part], right_index[part], out[part])

    for _ in in_threads(score, range(0, len(out), _TRIALS_A_TASK), threads):
        pass
    return out


def _products(
    left: np.ndarray, right: np.ndarray, left_index: np.ndarray, right_index: np.ndarray, out: np.ndarray
) -> None:
    """Gather and multiply block by block; both gathered blocks are written and read again within the cache."""
    n_rows = min(max(1, _FLOATS_A_BLOCK // left.shape[1]), len(out))
    left_rows, right_rows = np.empty((2, n_rows, left.shape[1]), dtype=np.float32)
    for start in range(0, len(out), n_rows):
        block = slice(start, min(start + n_rows, len(out)))
        a, b = left_rows[: block.stop - start], right_rows[: block.stop - start]
        # The indices are checked; the default mode, which checks again, would go through a temporary array.
        np.take(left, left_index[block], axis=0, out=a, mode="clip")
        np.take(right, right_index[block], axis=0, out=b, mode="clip")
        np.einsum("ij,ij->i", a, b, out=out[block])


def in_threads(
    work: Callable[[Piece], Result],
    pieces: Iterable[Piece],
    threads: int | None = None,
    initializer: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """The results of ``work`` on each piece, in their order; of use where numpy gives up the interpreter lock.

    Args:
        work: called with one piece.
        pieces: what to work on; all are handed out at once.
        threads: at work at once; None takes every core that this process may use.
        initializer: called once in each thread.

    Raises:
        ValueError: ``threads`` is below 1.
        Exception: the first that ``work`` raised, without waiting for pieces that were not begun.
    """
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    with ThreadPoolExecutor(threads, initializer=initializer) as pool:
        yield from pool.map(work, pieces)


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows scaled to an L2 norm of 1 (the norm is taken in float64).

    Args:
        embeddings: (N, D) numbers; a memory map will do.

    Returns:
        (N, D) float32, a new array.

    Raises:
        ValueError: a row is NaN, infinite or zero (the message names it), or ``embeddings`` is no two-dimensional
            array of real numbers.
    """
    unit = np.empty(np.shape(embeddings), dtype=np.float32)
    for part, rows in unit_chunks(embeddings):
        unit[part] = rows
    return unit


def unit_chunks(embeddings: np.ndarray, origin: np.ndarray | float = 0.0) -> Iterator[tuple[slice, np.ndarray]]:
    """As `unit_rows`, ``origin`` (D,) subtracted first, some rows at a time: ``(which rows, (n, D) float64)``."""
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise ValueError(f"embeddings must be (N, D) numbers, got {embeddings.dtype} {embeddings.shape}")
    for start in range(0, len(embeddings), ROWS_A_CHUNK):
        rows = embeddings[start : start + ROWS_A_CHUNK].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # an infinite norm is named below
            rows -= origin
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if bad.size:
            raise ValueError(f"embeddings: row {start + bad[0]} has a norm of {norms[bad[0], 0]}")
        rows /= norms
        yield slice(start, start + len(rows)), rows


def check_rows(name: str, rows: np.ndarray) -> np.ndarray:
    """``rows`` as a plain array, or a ValueError unless it is float32 (N, D), C-contiguous, D from 1 to 8192."""
    rows = np.asarray(rows)
    if rows.dtype != np.float32 or rows.ndim != 2 or not rows.flags.c_contiguous:
        order = "" if rows.flags.c_contiguous else ", not C-contiguous"
        raise ValueError(f"{name} must be float32 (N, D), C-contiguous; got {rows.dtype} {rows.shape}{order}")
    if not 0 < rows.shape[1] <= _LONGEST_ROW:
        raise ValueError(f"{name} must have 1 to {_LONGEST_ROW} columns, got {rows.shape[1]}")
    return rows


def cosine_scores(embeddings: np.ndarray, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
    """The cosine of the two embeddings of each trial: (n_trials,) float32, between -1 and 1.

    Rows are brought to unit length once, not for each trial: (N, D), of any length but zero. The indices, and what is
    refused, are as in `pair_products`.
    """
    unit = unit_rows(embeddings)
    scores = pair_products(unit, unit, enroll_index, test_index)
    return np.clip(scores, -1, 1, out=scores)
