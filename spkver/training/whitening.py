"""What tells one speaker's utterances apart is made equally small in all directions."""

import numpy as np
import torch
from torch import Tensor


def within_class_whitening(embeddings: Tensor, speakers: list[str], shrinkage: float) -> Tensor:
    """The symmetric matrix of within-class covariance normalisation (Hatch et al., Interspeech 2006).

    Args:
        embeddings: (n, embed_dim), each of unit length.
        speakers: of the embeddings.
        shrinkage: from 0 to 1, what is taken of a covariance that is equal in all directions instead; with 1, or where
            no speaker has two utterances, nothing is whitened.

    Returns:
        (embed_dim, embed_dim) float32, with a mean eigenvalue of 1; an embedding is multiplied by it.
    """
    _, speaker = np.unique(speakers, return_inverse=True)
    speaker = torch.from_numpy(speaker)
    embeddings = embeddings.double()
    dim = embeddings.shape[1]
    sums = torch.zeros(int(speaker.max()) + 1, dim, dtype=torch.double).index_add_(0, speaker, embeddings)
    centred = embeddings - (sums / speaker.bincount()[:, None])[speaker]
    within = centred.T @ centred / len(embeddings)
    even = within.trace() / dim
    if even == 0 or shrinkage == 1:
        return torch.eye(dim)
    eigenvalues, directions = torch.linalg.eigh(
        torch.lerp(within, even * torch.eye(dim, dtype=torch.double), shrinkage)
    )
    # The smallest may be rounding below 0 where nothing is shrunk.
    factors = eigenvalues.clamp_min(1e-6 * even).rsqrt()
    return (directions * (factors / factors.mean()) @ directions.T).float()
