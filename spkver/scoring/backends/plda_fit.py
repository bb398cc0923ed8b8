"""Fitting two-covariance PLDA by EM; the model and its sources stand in `spkver.scoring.backends.plda`.

Notable: a speaker with one utterance is lawful. It says nothing of the noise alone, but EM uses what it says of the
sum of both covariances; without that, a step might lower the likelihood.
"""

import numpy as np
from numpy.typing import ArrayLike

from spkver.scoring.backends.covariances import covariance_through, diagonalised, refuse_singular, speaker_index
from spkver.scoring.backends.lda import SpeakerMoments, fit_preprocessing, speaker_moments
from spkver.scoring.backends.plda import Plda


def fit_plda(
    embeddings: ArrayLike,
    speakers: ArrayLike,
    lda_dim: int | None = None,
    iterations: int = 20,
    length_norm: bool = True,
) -> Plda:
    """Fit preprocessing and model to embeddings of known speakers, by maximum likelihood (EM).

    EM starts at moment estimates, which are nearly the answer where all speakers have equally many utterances.

    Args:
        embeddings: (N, D); a memory map will do.
        speakers: (N,) ids, strings or integers. Speakers may have different numbers of utterances, some only one.
        lda_dim: dimensions that LDA leaves, at most D and at most the number of speakers - 1; None: no LDA.
        iterations: of EM, 0 or more.
        length_norm: whether rows are scaled to an L2 norm of 1 after centring and LDA.

    Raises:
        ValueError: as `Preprocessing.chunks`; lengths differ, there are fewer than two speakers or none with two
            utterances, ``lda_dim`` or ``iterations`` is out of range, or the within-speaker covariance is singular
            (take more utterances of each speaker, or LDA to fewer dimensions).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> speakers = np.repeat(np.arange(500), 4)
        >>> voices = 2 * rng.normal(size=(500, 8))
        >>> plda = fit_plda(voices[speakers] + rng.normal(size=(2000, 8)), speakers, length_norm=False)
        >>> same, different = plda.score([voices[0], voices[0]], [voices[0], voices[1]])
        >>> bool(same > 0 > different)
        True
    """
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, got {iterations}")
    index = speaker_index(embeddings, speakers)
    n_utts = np.bincount(index)
    if len(n_utts) < 2:
        raise ValueError(f"PLDA needs at least two speakers, got {len(n_utts)}")
    if n_utts.max() < 2:
        raise ValueError("PLDA needs speakers with two utterances or more; here each has one")
    preprocessing = fit_preprocessing(embeddings, index, lda_dim, length_norm)
    moments = speaker_moments(embeddings, index, preprocessing)
    parameters = _moment_estimates(moments)
    for _ in range(iterations):
        parameters = _em_step(moments, *parameters)
    return Plda(preprocessing, *parameters)


def _moment_estimates(moments: SpeakerMoments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``(mean, between, within)``: the means of n utterances spread by between + within / n."""
    n_speakers = len(moments.counts)
    within = moments.within_scatter / (moments.counts.sum() - n_speakers)
    mean = moments.means.mean(axis=0)
    offset = moments.means - mean
    between_means = offset.T @ offset / (n_speakers - 1)
    refuse_singular(within, between_means)
    to_latent, spread = diagonalised(between_means, within)
    # A variance of zero EM could never leave, so what is not seen above the noise keeps a tenth.
    psi = np.maximum(spread - np.mean(1 / moments.counts), 0.1 * spread)
    return mean, covariance_through(within @ to_latent, np.diag(psi)), within


def _em_step(
    moments: SpeakerMoments, mean: np.ndarray, between: np.ndarray, within: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next ``(mean, between, within)``; source: Sizov, Lee & Kinnunen 2014, in the diagonal basis.

    There, of a speaker with n utterances whose mean is m, y has the posterior mean n psi / (1 + n psi) m and the
    posterior variance psi / (1 + n psi).
    """
    to_latent, psi = diagonalised(between, within)
    back = within @ to_latent  # the inverse of to_latent.T, since to_latent.T @ within @ to_latent is the identity
    n = moments.counts[:, None]
    means = (moments.means - mean) @ to_latent
    variances = psi / (1 + n * psi)
    speakers = n * variances * means
    centre = speakers.mean(axis=0)
    offset, rest = speakers - centre, np.sqrt(n) * (means - speakers)
    spread = offset.T @ offset / len(n) + np.diag(variances.mean(axis=0))
    noise = rest.T @ rest + np.diag(np.sum(n * variances, axis=0))
    within = (moments.within_scatter + covariance_through(back, noise)) / n.sum()
    return mean + back @ centre, covariance_through(back, spread), within
