"""Pictures of runs and of margins. Every function returns a matplotlib figure.

``Run("exp/mini").records()`` draws a run; ``spkver.pictures.margin.logit_curves()`` draws margins.
"""

from spkver.pictures.run import Run

__all__ = ["Run"]
