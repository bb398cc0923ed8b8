"""An experiment and its pictures.

``Run("exp/mini")`` reads what training and scoring left; each picture of it is a method that returns a
matplotlib figure (``run.records()``, ``run.drift()``, ``run.det()``, ...), and ``Run.PICTURES`` names them.
"""

from spkver.pictures import detection, embeddings, records
from spkver.pictures.run_data import RunData
from spkver.pictures.style import Picture


class Run(RunData):
    """The pictures of an experiment; what each shows stands at the function that draws it.

    Args:
        folder: ``exp/NAME``.

    Raises:
        SpkverError: it holds no run. Whatever else is missing is said by the picture that needs it.
    """

    def records(self) -> Picture:
        return records.training_records(self)

    def gradients(self) -> Picture:
        return records.gradients(self)

    def confusion(self) -> Picture:
        return embeddings.confusion_development(self)

    def drift(self) -> Picture:
        return embeddings.drift(self)

    def cka(self) -> Picture:
        return embeddings.cka(self)

    def spectrum(self) -> Picture:
        return embeddings.spectrum(self)

    def curvature(self) -> Picture:
        return embeddings.curvature(self)

    def clusters(self) -> Picture:
        return embeddings.clusters(self)

    def space(self) -> Picture:
        return embeddings.space(self)

    def tsne(self) -> Picture:
        return embeddings.tsne(self)

    def score_histograms(self) -> Picture:
        return detection.score_histograms({f"{self.name}, {name}": both for name, both in self.scores().items()})

    def det(self) -> Picture:
        systems = {f"{self.name}, {name}": both for name, both in self.scores().items()}
        return detection.det_curves(systems, self.config.scoring.p_targets)

    PICTURES = (
        "records",
        "gradients",
        "confusion",
        "drift",
        "cka",
        "spectrum",
        "curvature",
        "clusters",
        "space",
        "tsne",
        "score_histograms",
        "det",
    )
