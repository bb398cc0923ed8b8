"""Score normalisation: each score is measured against the scores that the same recording gets from a cohort.

z-norm takes the mean and the standard deviation of the enrolment's cohort scores, t-norm those of the test's
(R. Auckenthaler, M. Carey, H. Lloyd-Thomas, "Score normalization for text-independent speaker verification
systems", Digital Signal Processing 10, 2000), s-norm the mean of both (S. Shum, N. Dehak, R. Dehak, J. Glass,
"Unsupervised speaker adaptation based on the cosine similarity for text-independent speaker verification",
Odyssey 2010). Adaptive s-norm (AS-norm) is the same formula with statistics of the ``top_n`` highest cohort
scores alone, chosen for the enrolment and for the test by themselves: P. Matejka, O. Novotny, O. Plchot,
L. Burget, M. Diez, J. Cernocky, "Analysis of score normalization in multilingual speaker recognition",
Interspeech 2017 (there "adaptive s-norm, version 1").

- Any score that is the dot product of two rows can be normalised; for cosine scores the rows have unit length.
- The same mean is subtracted from enrolment, test and cohort (`centre`), or from none of them.
- The cohort must not contain the speakers under test: their own mean would be among the highest scores.
- Cohort scores exist for one tile of rows at a time, never for all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController
from tqdm import tqdm

from spkver.data.lookup import check_index
from spkver.scoring.backends.cosine import check_rows, in_threads, unit_chunks

_SCORES_A_TILE = 2**20  # 4 MB: a thread's tile stays in the cache between the product and the selection
_ROWS_A_TILE = (16, 1024)  # fewest, for the sake of speed, and most
_TRIALS_A_CHUNK = 65536
# Unit rows are rounded to float32: a mean of them that is shorter than this is their rounding.
_SHORTEST_MEAN = 1e-6


@dataclass(frozen=True)
class CohortStatistics:
    """Mean and standard deviation of the cohort scores of each of N rows.

    Attributes:
        mean: (N,) float64.
        std: (N,) float64, of the population (divided by the number of scores, not one less).

    Raises:
        ValueError: shapes differ, a mean is not finite, or a std is not finite and above 0.
    """

    mean: np.ndarray
    std: np.ndarray

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise ValueError(f"mean and std must both be (N,), got {self.mean.shape} and {self.std.shape}")
        bad = np.flatnonzero(~(np.isfinite(self.mean) & np.isfinite(self.std) & (self.std > 0)))
        if bad.size:
            raise ValueError(f"row {bad[0]} has mean {self.mean[bad[0]]} and std {self.std[bad[0]]}")


def speaker_means(embeddings: np.ndarray, speakers: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """The cohort: for each speaker the mean of the embeddings at unit length, brought to unit length itself.

    Args:
        embeddings: (N, D), of any length but zero; a memory map will do.
        speakers: N speaker ids.

    Returns:
        ``(means, names)``: (n_speakers, D) float32, and the n_speakers ids, sorted.

    Raises:
        ValueError: the numbers of rows and of ids differ or are zero, a row is NaN, infinite or zero, or the
            embeddings of a speaker cancel each other out.
    """
    if len(embeddings) != len(speakers) or not len(speakers):
        raise ValueError(f"there are {len(embeddings)} embeddings and {len(speakers)} speakers")
    names = sorted(set(speakers))
    number = {name: at for at, name in enumerate(names)}
    speaker_of_row = np.array([number[name] for name in speakers])
    means = np.zeros((len(names), *np.shape(embeddings)[1:]))
    for part, rows in unit_chunks(embeddings):
        np.add.at(means, speaker_of_row[part], rows)
    means /= np.bincount(speaker_of_row)[:, None]
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    bad = np.flatnonzero(norms < _SHORTEST_MEAN)
    if bad.size:
        raise ValueError(f"the embeddings of speaker '{names[bad[0]]}' cancel out: their mean is zero")
    return (means / norms).astype(np.float32), names


def cluster_means(rows: np.ndarray, n_clusters: int) -> tuple[np.ndarray, int]:
    """The cohort in fewer rows, none of which is one speaker's: means of clusters of like speakers, by k-means.

    A cluster of a single speaker would be that speaker's voice, so it is left out.

    Args:
        rows: (n_speakers, D) of unit length.
        n_clusters: how many clusters to look for.

    Returns:
        ``(means, smallest)``: at most ``n_clusters`` rows of unit length, float32, and the speakers of the smallest.

    Raises:
        ValueError: there are fewer than two speakers a cluster.
    """
    from sklearn.cluster import KMeans  # takes a second

    if len(rows) < 2 * n_clusters:
        raise ValueError(f"{len(rows)} speakers are too few for {n_clusters} clusters of two and more")
    cluster = KMeans(n_clusters, n_init=4, random_state=0).fit_predict(rows)
    sizes = np.bincount(cluster, minlength=n_clusters)
    several = sizes[cluster] > 1
    means, _ = speaker_means(rows[several], [f"{number:08d}" for number in cluster[several]])
    return means, int(sizes[sizes > 1].min())


def centre(embeddings: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Rows less the training mean, brought to unit length: enrolment, test and cohort all by the same mean.

    Args:
        embeddings: (N, D); a memory map will do.
        mean: (D,) of training embeddings of the same kind (all at unit length, or all as extracted).

    Returns:
        (N, D) float32, a new array.

    Raises:
        ValueError: a row is NaN or infinite or equals the mean (the message names it), or ``mean`` is not (D,)
            finite numbers.
    """
    mean = np.asarray(mean, dtype=np.float64)
    if mean.shape != np.shape(embeddings)[1:] or not np.isfinite(mean).all():
        raise ValueError(f"mean must be finite, of shape {np.shape(embeddings)[1:]}; got {mean.shape}")
    centred = np.empty(np.shape(embeddings), dtype=np.float32)
    for part, rows in unit_chunks(embeddings, origin=mean):
        centred[part] = rows
    return centred


def cohort_statistics(
    embeddings: np.ndarray,
    cohort: np.ndarray,
    top_n: int | None,
    threads: int | None = None,
) -> CohortStatistics:
    """Mean and standard deviation of each row's ``top_n`` highest scores against the cohort.

    Exact: every cohort score is computed and the highest are selected, not estimated. Scores are float32,
    their statistics float64, with deviations taken from the mean itself, so nearly equal scores keep their std.
    A score's last digit can depend on where in the array its row stands, as it does in any matrix product:
    where bytes must be the same again, give the same array again.

    Args:
        embeddings: (N, D) float32, C-contiguous, rows whose dot product with the cohort's is the score; a
            memory map will do.
        cohort: (C, D) float32, C-contiguous.
        top_n: at least 2 (300 is usual); None takes the whole cohort, as z-, t- and s-norm do.
        threads: at work at once; None takes every core that this process may use. No effect on the result.

    Raises:
        ValueError: the cohort has fewer than ``top_n`` rows, ``top_n`` is below 2, a row is NaN or infinite,
            the selected scores of a row differ by no more than their rounding (the message names the row), or
            an array has another shape, type or layout.
    """
    embeddings, cohort = check_rows("embeddings", embeddings), check_rows("cohort", cohort)
    if embeddings.shape[1] != cohort.shape[1]:
        raise ValueError(f"embeddings have {embeddings.shape[1]} columns, the cohort has {cohort.shape[1]}")
    n = len(cohort) if top_n is None else top_n
    if n < 2:
        raise ValueError(f"top_n must be at least 2, as one score has no standard deviation; got {n}")
    if len(cohort) < n:
        raise ValueError(f"the cohort has {len(cohort)} rows, fewer than top_n = {n}")
    # Scores of float32 rows are wrong by about this share of the product of both lengths.
    rounding = np.finfo(np.float32).eps * _lengths("cohort", cohort).max()
    mean, std = np.empty((2, len(embeddings)))
    n_rows = int(np.clip(_SCORES_A_TILE // len(cohort), *_ROWS_A_TILE))

    def measure(start: int) -> int:
        rows = embeddings[start : start + n_rows]
        part = slice(start, start + len(rows))
        lengths = _lengths("embeddings", rows, start)
        mean[part], std[part] = _top_statistics(_tile(rows, cohort, n_rows), n)
        alike = np.flatnonzero(~(std[part] > rounding * lengths))
        if alike.size:
            raise ValueError(
                f"embeddings: the {n} highest cohort scores of row {start + alike[0]} are alike (std "
                f"{std[start + alike[0]]:.3g}); use a larger top_n or a cohort of more varied speakers"
            )
        return len(rows)

    # One thread for each matrix product: tiles run side by side, and the result cannot depend on how a BLAS
    # library would divide a product. OpenMP's limit holds for the thread that sets it, hence the initializer.
    one_thread = partial(ThreadpoolController().limit, limits=1, user_api="blas")
    starts = range(0, len(embeddings), n_rows)
    with (
        one_thread(),
        tqdm(total=len(embeddings), desc="cohort scores", unit="row", leave=False, disable=None) as bar,
    ):
        for done in in_threads(measure, starts, threads, initializer=one_thread):
            bar.update(done)
    return CohortStatistics(mean, std)


def z_norm(scores: ArrayLike, enroll_index: ArrayLike, enroll_statistics: CohortStatistics) -> np.ndarray:
    """``(s - mean_e) / std_e`` (Auckenthaler et al. 2000). See `s_norm` for arguments, result and errors."""
    return _normalised(scores, ("enroll_index", enroll_index, enroll_statistics))


def t_norm(scores: ArrayLike, test_index: ArrayLike, test_statistics: CohortStatistics) -> np.ndarray:
    """``(s - mean_t) / std_t`` (Auckenthaler et al. 2000). See `s_norm` for arguments, result and errors."""
    return _normalised(scores, ("test_index", test_index, test_statistics))


def s_norm(
    scores: ArrayLike,
    enroll_index: ArrayLike,
    test_index: ArrayLike,
    enroll_statistics: CohortStatistics,
    test_statistics: CohortStatistics,
) -> np.ndarray:
    """``((s - mean_e) / std_e + (s - mean_t) / std_t) / 2``.

    S-norm (Shum et al. 2010) with statistics of the whole cohort, AS-norm (Matejka et al. 2017) with those of
    the ``top_n`` highest scores. Trials do not depend on each other, to the bit: a list may come in pieces.

    Args:
        scores: (n_trials,) real numbers.
        enroll_index, test_index: (n_trials,) integers, rows of the statistics of that side.
        enroll_statistics, test_statistics: of the enrolled embeddings, and of the tested ones; may be one object.

    Returns:
        (n_trials,) float32, computed in float64.

    Raises:
        ValueError: a score is NaN or infinite (the message names the trial), the lengths differ, or an index
            has another type or lies outside of its statistics.

    Example:
        >>> statistics = CohortStatistics(mean=np.array([0.1, 0.2]), std=np.array([0.1, 0.2]))
        >>> s_norm([0.5], [0], [1], statistics, statistics)  # 4 and 1.5 standard deviations
        array([2.75], dtype=float32)
    """
    return _normalised(
        scores, ("enroll_index", enroll_index, enroll_statistics), ("test_index", test_index, test_statistics)
    )


def _normalised(scores: ArrayLike, *sides: tuple[str, ArrayLike, CohortStatistics]) -> np.ndarray:
    """Each score in standard deviations above the cohort's mean, averaged over the sides of the trial."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.dtype.kind not in "fiu":
        raise ValueError(f"scores must be (n_trials,) real numbers, got {scores.dtype} {scores.shape}")
    checked = [(name, check_index(name, index, len(statistics.mean)), statistics) for name, index, statistics in sides]
    for name, index, _ in checked:
        if len(index) != len(scores):
            raise ValueError(f"there are {len(scores)} scores, {name} has {len(index)} trials")
    normalised = np.empty(len(scores), dtype=np.float32)
    for start in range(0, len(scores), _TRIALS_A_CHUNK):
        part = slice(start, start + _TRIALS_A_CHUNK)
        raw = scores[part].astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(raw))
        if bad.size:
            raise ValueError(f"scores: the score of trial {start + bad[0]} is {raw[bad[0]]}")
        total = np.zeros(len(raw))
        for _, index, statistics in checked:
            total += (raw - statistics.mean[index[part]]) / statistics.std[index[part]]
        normalised[part] = total / len(checked)
    return normalised


def _tile(rows: np.ndarray, cohort: np.ndarray, n_rows: int) -> np.ndarray:
    """Scores (len(rows), C) float32, always by a product of ``n_rows`` rows.

    BLAS has other kernels for other shapes, a single row above all: they round differently.
    """
    full = rows
    if len(rows) < n_rows:
        full = np.zeros((n_rows, rows.shape[1]), dtype=np.float32)
        full[: len(rows)] = rows
    with np.errstate(over="ignore", invalid="ignore"):  # an infinite score has no std: its row is named
        return np.matmul(full, cohort.T)[: len(rows)]


def _top_statistics(scores: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of the n highest of each row; reorders ``scores``."""
    first = scores.shape[1] - n
    if first:
        scores.partition(first, axis=1)
    top = scores[:, first:].astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean = top.mean(axis=1)
        top -= mean[:, None]
        return mean, np.sqrt(np.einsum("ij,ij->i", top, top) / n)


def _lengths(name: str, rows: np.ndarray, first_row: int = 0) -> np.ndarray:
    """(len(rows),) float64 L2 norms, or a ValueError that names a row with NaN or infinity in it."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    bad = np.flatnonzero(~np.isfinite(lengths))
    if bad.size:
        raise ValueError(f"{name}: row {first_row + bad[0]} has a norm of {lengths[bad[0]]}")
    return lengths
