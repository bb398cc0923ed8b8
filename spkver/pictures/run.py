"""An experiment and its pictures.

``Run("exp/mini")`` reads what training and scoring left; each picture of it is a method that returns a
matplotlib figure (``run.records()``, ``run.drift()``, ``run.det()``, ...), and ``Run.PICTURES`` names them.
"""

from spkver.pictures import detection, embeddings
from spkver.pictures.records import gradients, training_records
from spkver.pictures.run_data import RunData
from spkver.pictures.style import Picture


class Run(RunData):
    """The pictures of an experiment; what each shows stands at the function that draws it.

    Args:
        folder: ``exp/NAME``.

    Raises:
        SpkverError: it holds no run. Whatever else is missing is said by the picture that needs it.
    """

    records, gradients = training_records, gradients
    confusion, drift, cka = embeddings.confusion_development, embeddings.drift, embeddings.cka
    spectrum, curvature = embeddings.spectrum, embeddings.curvature
    clusters, space, tsne = embeddings.clusters, embeddings.space, embeddings.tsne

    def score_histograms(self) -> Picture:
        """Scores of targets and nontargets, one panel a system."""
        return detection.score_histograms(self._systems())

    def det(self) -> Picture:
        """Detection error trade-off of all systems."""
        return detection.det_curves({self.name: self.scores()}, self.config.scoring.p_targets)

    def _systems(self) -> detection.Systems:
        return {f"{self.name}, {name}": both for name, both in self.scores().items()}

    PICTURES = (
        *("records", "gradients", "confusion", "drift", "cka", "spectrum", "curvature", "clusters", "space", "tsne"),
        *("score_histograms", "det"),
    )
