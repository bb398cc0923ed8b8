"""The two covariances of PLDA, between and within speakers, in the basis where both are diagonal."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from spkver.scoring.backends.lda import SINGULAR


def diagonalised(between: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``(to_latent, psi)``: ``to_latent.T`` turns ``within`` into the identity and ``between`` into diag(psi)."""
    psi, to_latent = eigh(between, within)
    return to_latent, np.maximum(psi, 0)


def covariance_through(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """The covariance of ``matrix @ x`` where x has ``covariance``, symmetric to the last bit."""
    product = matrix @ covariance @ matrix.T
    return (product + product.T) / 2


def refuse_singular(within: np.ndarray, between: np.ndarray) -> None:
    """Raise ValueError, saying what to do, where a speaker's utterances do not differ in some direction."""
    rank = np.sum(np.linalg.eigvalsh(within) > SINGULAR * np.linalg.norm(between + within, 2))
    if rank < len(within):
        raise ValueError(
            f"within is singular: utterances of a speaker differ in {rank} of {len(within)} dimensions only; take "
            "more utterances of each speaker, or LDA to fewer dimensions"
        )


def speaker_index(embeddings: ArrayLike, speakers: ArrayLike) -> np.ndarray:
    """Speaker ids as numbers 0 .. S-1; ValueError where there are not as many as embeddings."""
    speakers = np.asarray(speakers)
    if speakers.shape != (len(embeddings),):
        raise ValueError(f"speakers must be an id for each of {len(embeddings)} embeddings, got {speakers.shape}")
    return np.unique(speakers, return_inverse=True)[1]
