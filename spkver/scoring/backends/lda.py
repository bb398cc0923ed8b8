"""What embeddings go through before PLDA: the training mean is subtracted, Fisher LDA, length normalisation.

- All of it is float64 and done in chunks, so a memory map of a million embeddings is read, not copied.
- LDA and PLDA see the training data only through `SpeakerMoments`: counts and means of the speakers and one
  scatter matrix. An estimate from those costs the same for ten utterances of a speaker as for ten thousand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh
from scipy.sparse import csr_array

from spkver.embedding.rows import ROWS_A_CHUNK

# A within-speaker variance below this share of the largest variance of all counts as zero: rounding of float32
# embeddings leaves about 1e-14 where they are linearly dependent.
SINGULAR = 1e-10

# Of the mean within-speaker variance; see `fisher_lda`.
_RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Embeddings of D dimensions to rows of d dimensions.

    Length normalisation makes heavy-tailed embeddings nearly Gaussian, which PLDA supposes: D. Garcia-Romero,
    C. Y. Espy-Wilson, "Analysis of i-vector length normalization in speaker recognition systems", Interspeech
    2011.

    Attributes:
        centre: (D,) float64, subtracted first.
        lda: (D, d) float64, multiplied from the right; None leaves that out, and d is D.
        length_norm: whether rows are then scaled to an L2 norm of 1.

    Raises:
        ValueError: shapes do not fit, or a value is not finite.
    """

    centre: np.ndarray
    lda: np.ndarray | None = None
    length_norm: bool = True

    def __post_init__(self) -> None:
        if self.centre.ndim != 1 or not np.isfinite(self.centre).all():
            raise ValueError(f"centre must be (D,) and finite, its shape is {self.centre.shape}")
        if self.lda is None:
            return
        dim = len(self.centre)
        if self.lda.ndim != 2 or len(self.lda) != dim or not 1 <= self.lda.shape[1] <= dim:
            raise ValueError(f"lda must be (D, d) with D = {dim} and 1 <= d <= D, its shape is {self.lda.shape}")
        if not np.isfinite(self.lda).all():
            raise ValueError("lda holds NaN or an infinity")

    @property
    def dim(self) -> int:
        """d, the dimensions that come out."""
        return len(self.centre) if self.lda is None else self.lda.shape[1]

    def chunks(self, embeddings: ArrayLike) -> Iterator[tuple[slice, np.ndarray]]:
        """Some thousand of (N, D) embeddings at a time: where they stand among the N, and their (n, d) float64 rows.

        Raises:
            ValueError: the embeddings are not (N, D) numbers, or a row is NaN, infinite or, where lengths are
                normalised, zero after centring and LDA.
        """
        embeddings = np.asanyarray(embeddings)
        if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu" or embeddings.shape[1] != len(self.centre):
            expected = f"(N, {len(self.centre)}) numbers"
            raise ValueError(f"embeddings must be {expected}, got {embeddings.dtype} {embeddings.shape}")
        for start in range(0, len(embeddings), ROWS_A_CHUNK):
            part = slice(start, min(start + ROWS_A_CHUNK, len(embeddings)))
            rows = np.asarray(embeddings[part], dtype=np.float64) - self.centre
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if bad.size:
                raise ValueError(f"embeddings: row {start + bad[0]} is NaN or infinite")
            if self.lda is not None:
                rows = rows @ self.lda
            if self.length_norm:
                rows = _unit(rows, start)
            yield part, rows


@dataclass(frozen=True, eq=False)
class SpeakerMoments:
    """All that a Gaussian model of speakers needs to know of (N, d) rows of S speakers.

    Attributes:
        counts: (S,) int64, rows of each speaker.
        means: (S, d) float64, their mean.
        within_scatter: (d, d) float64, the sum over all rows of the outer product of (row - mean of its speaker).
    """

    counts: np.ndarray
    means: np.ndarray
    within_scatter: np.ndarray


def speaker_moments(
    embeddings: ArrayLike,
    speaker_index: np.ndarray,
    preprocessing: Preprocessing,
) -> SpeakerMoments:
    """Counts, means and within-speaker scatter of preprocessed embeddings.

    Twice over the data: sums of squares less the square of sums would cancel where embeddings lie far from zero.

    Args:
        embeddings: (N, D), N at least 1.
        speaker_index: (N,) integers 0 .. S-1, each at least once.
        preprocessing: what the embeddings go through first.

    Raises:
        ValueError: as `Preprocessing.chunks`.
    """
    counts = np.bincount(speaker_index)
    sums = np.zeros((len(counts), preprocessing.dim))
    for part, rows in preprocessing.chunks(embeddings):
        index = speaker_index[part]
        sums += csr_array((np.ones(len(rows)), (index, np.arange(len(rows)))), (len(counts), len(rows))) @ rows
    means = sums / counts[:, None]
    scatter = np.zeros((preprocessing.dim, preprocessing.dim))
    for part, rows in preprocessing.chunks(embeddings):
        offset = rows - means[speaker_index[part]]
        scatter += offset.T @ offset
    return SpeakerMoments(counts, means, scatter)


def fit_preprocessing(
    embeddings: ArrayLike, speaker_index: np.ndarray, lda_dim: int | None, length_norm: bool
) -> Preprocessing:
    """The mean of all embeddings and, unless ``lda_dim`` is None, LDA to that many dimensions.

    Raises:
        ValueError: as `Preprocessing.chunks` and `fisher_lda`.
    """
    moments = speaker_moments(embeddings, speaker_index, as_they_are(embeddings))
    centre = moments.counts @ moments.means / moments.counts.sum()
    lda = None if lda_dim is None else fisher_lda(moments, lda_dim)
    return Preprocessing(centre, lda, length_norm)


def as_they_are(embeddings: ArrayLike) -> Preprocessing:
    """The preprocessing that changes nothing.

    Raises:
        ValueError: the embeddings are not (N, D).
    """
    shape = np.shape(embeddings)
    if len(shape) != 2:
        raise ValueError(f"embeddings must be (N, D), got shape {shape}")
    return Preprocessing(np.zeros(shape[1]), length_norm=False)


def fisher_lda(moments: SpeakerMoments, dim: int) -> np.ndarray:
    """The projection that makes the scatter between speakers largest relative to the scatter within them.

    The leading generalised eigenvectors of the two covariances (R. A. Fisher, "The use of multiple measurements in
    taxonomic problems", 1936; K. Fukunaga, "Introduction to statistical pattern recognition", 1990, chapter 10),
    scaled so that the within-speaker covariance of the projected rows is the identity.

    Where the within-speaker covariance is singular (fewer utterances than dimensions, a dead dimension), 1 % of
    its mean eigenvalue is added to its diagonal. The ratio is then finite everywhere, and directions in which the
    denominator is small only for lack of data do not crowd out the others.

    Args:
        moments: of (N, D) embeddings of S speakers.
        dim: at most D and at most S - 1.

    Returns:
        (D, dim) float64, the best direction first.

    Raises:
        ValueError: ``dim`` is out of range, or no speaker has utterances that differ.
    """
    largest = min(moments.means.shape[1], len(moments.counts) - 1)
    if not 1 <= dim <= largest:
        raise ValueError(
            f"lda_dim must lie in 1 .. {largest}, got {dim}; there are {moments.means.shape[1]} dimensions and "
            f"{len(moments.counts)} speakers, and LDA finds at most one direction less than there are speakers"
        )
    total = moments.counts.sum()
    within = moments.within_scatter / total
    offset = moments.means - moments.counts @ moments.means / total
    between = (offset * moments.counts[:, None]).T @ offset / total
    variances = np.linalg.eigvalsh(within)
    least = SINGULAR * np.linalg.norm(between + within, 2)
    if variances[-1] <= least:
        raise ValueError("LDA needs a speaker with two utterances that differ; within each speaker all are equal")
    if variances[0] <= least:
        within = within + _RIDGE * variances.mean() * np.eye(len(within))
    return eigh(between, within)[1][:, ::-1][:, :dim]


def _unit(rows: np.ndarray, start: int) -> np.ndarray:
    """Rows scaled to an L2 norm of 1; ``start`` is the number of the first, for the message."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    zero = np.flatnonzero(norms == 0)
    if zero.size:
        raise ValueError(f"embeddings: row {start + zero[0]} lies on the mean and has no length to normalise")
    return rows / norms
