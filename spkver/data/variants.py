"""Views of an utterance: the recording, and the recording as other voices would sound, each embedded by itself.

Training makes new speakers of such voices, so the encoder tells speakers apart by each view, and errs a little
differently in each. The embedding of an utterance is those of its views side by side, brought to unit length: the
cosine of two utterances is then the mean of the cosines of their like views.
"""

from itertools import product
from typing import NamedTuple


class Variant(NamedTuple):
    """A variant of a recording: played faster by the one factor, its spectrum stretched by the other."""

    speed_factor: float
    formant_factor: float


ORIGINAL = (Variant(1.0, 1.0),)


def variants_of(augment) -> list[Variant]:
    """The voices that training makes of each speaker, in the order of the head's classes: all speeds (changing
    slowest) by all formant factors. The first is the voice as recorded."""
    return [Variant(*factors) for factors in product(augment.speed_factors, augment.formant_factors)]
