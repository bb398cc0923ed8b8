"""Variants of an utterance: the recording as it is, or at another speed, its formants moved (VTLP).

Training makes a new speaker of each variant of a speaker, so the encoder tells speakers apart by each of them, and errs
a little differently in each. At test time an utterance can be embedded in several (test-time augmentation): its
embedding is those of its variants side by side, brought to unit length, and the cosine of two utterances the mean of
the cosines of their like variants.
"""

from itertools import product
from typing import NamedTuple

from spkver.config.schema import Augment


class Variant(NamedTuple):
    """A variant of a recording: played faster by the one factor, its spectrum stretched by the other."""

    speed_factor: float
    formant_factor: float


ORIGINAL = (Variant(1.0, 1.0),)


def variants_of(augment: Augment) -> list[Variant]:
    """The variants that training makes of each speaker, in the order of the head's classes: all speeds (changing
    slowest) by all formant factors. The first is the original."""
    return [Variant(*factors) for factors in product(augment.speed_factors, augment.formant_factors)]
