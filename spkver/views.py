"""Views of an utterance: the recording at several speeds and with several vocal tracts, each embedded by itself.

Training makes new speakers of such voices, so the encoder tells speakers apart by each view, and errs a little
differently in each. The embedding of an utterance is those of its views side by side, brought to unit length: the
cosine of two utterances is then the mean of the cosines of their like views.
"""

from itertools import product
from typing import NamedTuple


class View(NamedTuple):
    """How a recording is heard: played faster by the one factor, its spectrum stretched by the other."""

    speed_factor: float
    formant_factor: float


AS_RECORDED = (View(1.0, 1.0),)


def views_of(section) -> tuple[View, ...]:
    """All speeds by all formant factors of a section of the configuration (``augment`` or ``scoring``).

    Speeds change slowest; the first view is the voice as recorded.
    """
    return tuple(View(*factors) for factors in product(section.speed_factors, section.formant_factors))
