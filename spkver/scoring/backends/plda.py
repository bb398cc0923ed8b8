"""Two-covariance PLDA: log-likelihood ratios of trials from a Gaussian model of speakers and utterances.

An utterance is its speaker plus noise, both Gaussian: x = y + e, y ~ N(mean, between), e ~ N(0, within).

Sources: S. Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006; N. Brümmer, E. de Villiers, "The
speaker partitioning problem", Odyssey 2010 (the model and its likelihood ratios); A. Sizov, K. A. Lee,
T. Kinnunen, "Unifying probabilistic linear discriminant analysis variants in biometric authentication", S+SSPR
2014 (its EM and its place among others).

- In the basis where the within-speaker covariance is the identity and the between-speaker one is diagonal
  (``psi``), the posterior of a speaker is one division for each dimension, whatever the number of utterances. So
  the E-step is exact and runs over all speakers at once, and a trial's score is a dot product and two constants.
- A speaker with one utterance may be among those that it is fitted to. It says nothing of the noise alone, but EM uses
  what it says of the sum of both covariances; without that, a step might lower the likelihood.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.linalg import eigh

from spkver.errors import SpkverError
from spkver.files import atomic_write
from spkver.scoring.backends.lda import (
    SINGULAR,
    Preprocessing,
    SpeakerMoments,
    as_they_are,
    fit_preprocessing,
    speaker_moments,
)


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


_TENSORS = {"centre", "length_norm", "mean", "between", "within"}


@dataclass(frozen=True, eq=False)
class Plda:
    """A fitted model; d is the number of dimensions after preprocessing, D before.

    Scores are natural log-likelihood ratios of "same speaker" against "different speakers"; above 0 speaks for the
    same speaker.

    Attributes:
        preprocessing: what embeddings go through first; every method does it itself.
        mean: (d,) float64.
        between: (d, d) float64, covariance of speakers.
        within: (d, d) float64, covariance of a speaker's utterances.

    Raises:
        ValueError: shapes do not fit, a value is not finite, or a matrix is no covariance (not symmetric,
            ``between`` with a negative eigenvalue, ``within`` singular).
    """

    preprocessing: Preprocessing
    mean: np.ndarray
    between: np.ndarray
    within: np.ndarray

    def __post_init__(self) -> None:
        dim = self.preprocessing.dim
        for name, shape in (("mean", (dim,)), ("between", (dim, dim)), ("within", (dim, dim))):
            found = getattr(self, name)
            if found.shape != shape:
                raise ValueError(f"{name} must have shape {shape}, has {found.shape}")
            if not np.isfinite(found).all():
                raise ValueError(f"{name} holds NaN or an infinity")
        for name in ("between", "within"):
            covariance = getattr(self, name)
            if abs(covariance - covariance.T).max() > 1e-9 * abs(covariance).max():
                raise ValueError(f"{name} is not symmetric")
        refuse_singular(self.within, self.between)
        lowest, highest = eigh(self.between, self.within, eigvals_only=True)[[0, -1]]
        if lowest < -1e-9 * max(highest, 1):
            raise ValueError(f"between has a negative variance ({lowest:.3g} of the one within)")

    @cached_property
    def _diagonal(self) -> tuple[np.ndarray, np.ndarray]:
        return diagonalised(self.between, self.within)

    def rows(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A row and a constant of each embedding, such that the score of a trial (e, t) is a dot product:
        ``rows[e] @ rows[t] + constants[e] + constants[t]``.

        With u, v in the diagonal basis the log-likelihood ratio is a sum over dimensions of
        psi/(1+2psi) uv - psi^2/(2(1+psi)(1+2psi)) (u^2+v^2) + log(1+psi) - log(1+2psi)/2. The factor of uv is
        never negative, so its root goes to either side; the rest is shared out evenly.

        Args:
            embeddings: (N, D); a memory map will do.

        Returns:
            ``(rows, constants)``: (N, d) float32 and (N,) float64.

        Raises:
            ValueError: as `Preprocessing.chunks`.
        """
        to_latent, psi = self._diagonal
        rows = np.empty((len(embeddings), len(self.mean)), dtype=np.float32)
        constants = np.full(len(embeddings), 0.5 * np.sum(np.log1p(psi) - 0.5 * np.log1p(2 * psi)))
        for part, chunk in self.preprocessing.chunks(embeddings):
            latent = (chunk - self.mean) @ to_latent
            rows[part] = latent * np.sqrt(psi / (1 + 2 * psi))
            constants[part] -= 0.5 * (latent**2 @ (psi**2 / ((1 + psi) * (1 + 2 * psi))))
        return rows, constants

    def adapted(self, embeddings: np.ndarray, within_scale: float, between_scale: float) -> "Plda":
        """The model moved to another domain by unlabelled embeddings of it.

        The centre and the mean become those of the new embeddings. Their total covariance is looked at in the
        space where the model's own (between + within) is the identity: along each eigenvector with a variance
        above 1, that excess is shared out to the two covariances. Less variance than the model's changes nothing.

        Source: Kaldi's ``PldaUnsupervisedAdaptor`` (D. Povey, D. Snyder; ``ivector-adapt-plda``), whose default
        shares are 0.3 within and 0.7 between, and in its SRE16 recipe 0.75 and 0.25. Unlike there, the distance
        between old and new mean does not count as variance: centring has already taken it away.

        Args:
            embeddings: (M, D), some times more than d, since chance alone gives a variance of up to about
                (1 + sqrt(d / M))^2 in some direction.
            within_scale: share of the excess that goes to ``within``, 0 to 1.
            between_scale: share that goes to ``between``, 0 to 1.

        Raises:
            ValueError: as `Preprocessing.chunks`, M is not above d, or a share is out of range.
        """
        for name, scale in (("within_scale", within_scale), ("between_scale", between_scale)):
            if not 0 <= scale <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {scale}")
        if len(embeddings) <= len(self.mean):
            raise ValueError(
                f"adaptation needs more embeddings than the model has dimensions ({len(self.mean)}), "
                f"got {len(embeddings)}"
            )
        as_one = np.zeros(len(embeddings), dtype=np.int64)
        centre = speaker_moments(embeddings, as_one, as_they_are(embeddings)).means[0]
        preprocessing = replace(self.preprocessing, centre=centre)
        moments = speaker_moments(embeddings, as_one, preprocessing)
        to_latent, psi = self._diagonal
        to_white = to_latent / np.sqrt(1 + psi)
        variances, directions = eigh(to_white.T @ (moments.within_scatter / len(embeddings)) @ to_white)
        back = self.within @ to_latent * np.sqrt(1 + psi)  # the inverse of to_white.T
        excess = covariance_through(back @ directions, np.diag(np.maximum(variances - 1, 0)))
        within, between = self.within + within_scale * excess, self.between + between_scale * excess
        return Plda(preprocessing, moments.means[0], between, within)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as one safetensors file, whole or not at all.

        Raises:
            SpkverError: the file cannot be written.
        """
        tensors = {name: getattr(self, name) for name in ("mean", "between", "within")}
        tensors |= {"centre": self.preprocessing.centre, "length_norm": np.array(self.preprocessing.length_norm)}
        if self.preprocessing.lda is not None:
            tensors["lda"] = self.preprocessing.lda
        with atomic_write(path, "wb") as file:
            file.write(save({name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plda":
        """Read what `save` wrote.

        Raises:
            SpkverError: the file is missing or damaged, or what it holds is no PLDA model.
        """
        try:
            tensors = load(Path(path).read_bytes())
        except OSError as error:
            raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise SpkverError(f"{path}: is not a whole safetensors file ({error}); fit the model again") from None
        if set(tensors) - {"lda"} != _TENSORS:
            raise SpkverError(f"{path}: holds {sorted(tensors)}, which is no PLDA model; fit it again")
        numbers = {name: tensor for name, tensor in tensors.items() if name != "length_norm"}
        wrong = [name for name, tensor in numbers.items() if tensor.dtype != np.float64]
        if wrong or tensors["length_norm"].shape != () or tensors["length_norm"].dtype != bool:
            raise SpkverError(f"{path}: '{[*wrong, 'length_norm'][0]}' is of the wrong type; fit the model again")
        try:
            preprocessing = Preprocessing(tensors["centre"], tensors.get("lda"), bool(tensors["length_norm"]))
            return cls(preprocessing, tensors["mean"], tensors["between"], tensors["within"])
        except ValueError as error:
            raise SpkverError(f"{path}: {error}; fit the model again") from None


def fit_plda(
    embeddings: np.ndarray,
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
        >>> rows, constants = plda.rows(voices[:2])
        >>> same, different = rows[0] @ rows.T + constants[0] + constants
        >>> bool(same > 0 > different)
        True
    """
    if iterations < 0:
        raise ValueError(f"iterations must be 0 or more, got {iterations}")
    speakers = np.asarray(speakers)
    if speakers.shape != (len(embeddings),):
        raise ValueError(f"speakers must be an id for each of {len(embeddings)} embeddings, got {speakers.shape}")
    index = np.unique(speakers, return_inverse=True)[1]
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
