"""A threshold and what it belongs to: the system whose scores it is of, and where it comes from.

A threshold of the cosine says nothing of log-likelihood ratios: one that promised 2 % false acceptances let in 9 % when
it was given to another system. So it is written with its system's name, ``cosine+asnorm+calibration:2.94``.
"""

import math
from typing import NamedTuple

import numpy as np

from spkver.errors import SpkverError

EQUAL_ERROR = "equal error among held-out training speakers"


class Threshold(NamedTuple):
    """The score from which on it is the same speaker."""

    value: float
    source: str  # where it comes from, in words


def prior_source(p_target: float) -> str:
    """Where the Bayes threshold of a prior comes from."""
    return f"for a prior of {100 * p_target:g} %"


def threshold_text(system: str, value: float) -> str:
    """A threshold with its system's name, with the digits that tell it from the next float32."""
    digits = np.format_float_positional(np.float32(value), unique=True, trim="0")
    return f"{system}:{digits}"


def parse_threshold(text: str, system: str) -> float:
    """A threshold from its text: ``SYSTEM:NUMBER``, or a number alone, which is taken for the system that decides.

    Args:
        text: as it was given.
        system: that decides.

    Raises:
        SpkverError: it is of another system, or no finite number.

    >>> parse_threshold("cosine:0.5", "cosine"), parse_threshold("0.5", "cosine")
    (0.5, 0.5)
    """
    named, colon, digits = text.rpartition(":")
    if colon and named != system:
        raise SpkverError(
            f"--threshold {text}: is of the system '{named}', and {system} decides; "
            f"give a threshold of that, or --system {named}"
        )
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SpkverError(f"--threshold {text}: expected a number, or SYSTEM:NUMBER as `spkver threshold` prints it")
    return value
