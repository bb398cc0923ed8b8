"""Pictures of runs and of margins, as matplotlib figures, and animations.

``Run("exp/mini").plot_training_records()`` draws a run, ``animate(run)`` and ``show_animations([..])`` how its
embeddings move; ``spkver.pictures.margin.logit_curves()`` draws margins.
"""

from spkver.pictures.animation import animate, show_animations
from spkver.pictures.run import Run

__all__ = ["Run", "animate", "show_animations"]
