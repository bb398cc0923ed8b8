"""Cosine scores of trials."""

import numpy as np

from spkver.scoring.backends.pairs import pair_products, unit_rows


def cosine_scores(embeddings: np.ndarray, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
    """The cosine of the angle between the two embeddings of each trial.

    Rows are brought to unit length once, not for each trial.

    Args:
        embeddings: (N, D), of any length but zero; a memory map will do.
        enroll_index: (n_trials,) int32 or int64, rows of ``embeddings``.
        test_index: (n_trials,) likewise.

    Returns:
        (n_trials,) float32, between -1 and 1.

    Raises:
        ValueError: a row is NaN, infinite or zero, the indices differ in length or lie outside of the rows.
    """
    unit = unit_rows(embeddings)
    scores = pair_products(unit, unit, enroll_index, test_index)
    return np.clip(scores, -1, 1, out=scores)
