"""An experiment and its pictures.

``Run("exp/mini")`` reads what training and scoring left; each picture of it is a method that returns a matplotlib
figure (``run.plot_training_records()``, ``run.space()``, ``run.det()``, ...). ``help`` of each says what is drawn, what
a good and a bad run look like, and where it comes from.
"""

from collections.abc import Callable
from typing import Any, ClassVar

from spkver.errors import SpkverError
from spkver.pictures import detection, embeddings
from spkver.pictures.animation import confusion_panel
from spkver.pictures.motion import Motion
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

    plot_training_records, gradients = training_records, gradients
    plot_embedding_drifts, plot_cka_similarities = embeddings.embedding_drifts, embeddings.cka_similarities
    eigenvalues, curvature = embeddings.eigenvalues, embeddings.curvature
    clusters, space, tsne = embeddings.clusters, embeddings.space, embeddings.tsne

    def confusion_matrix(self, annotate: bool = False) -> Motion:
        """Whom the head takes the training utterances for, after each epoch; in a notebook under a slider.

        Rows are the true speakers, columns those that the head answers, without its margin. A good run ends with all on
        the diagonal. In a bad one a column is dark (the head answers one speaker to everything), or two speakers go on
        being taken for each other. Of many speakers those in most errors are shown.

        Args:
            annotate: write how many utterances into the cells.

        Raises:
            SpkverError: no snapshots, or fewer than two training speakers in them.
        """
        epochs = self.snapshot_epochs.astype(float)
        return Motion(self.name, [confusion_panel(self, epochs, "confusion", annotate)], epochs)

    def architecture(self) -> Picture:
        """The parts of the model from top to bottom, with their shapes, parameters, and shares of all parameters.

        It is read from the module itself, sent one utterance. A good share lies in the layers over time; a bad one in a
        single projection. Before training ends, it is the model as it was before its first step.

        Raises:
            SpkverError: neither model is there.
        """
        from spkver.pictures.architecture import architecture  # loads torch, which no other picture needs

        return architecture(self.experiment.model if self.experiment.model.is_dir() else self.experiment.untrained)

    def score_histograms(self) -> Picture:
        """Scores of targets and nontargets, one panel a system.

        The vertical line is the threshold at the equal error rate: what lies on the wrong side of it is an error. In a
        good run the two hills have little in common; in a bad one they lie on one another.
        """
        return detection.score_histograms(self._systems())

    def det(self) -> Picture:
        """Detection error trade-off of all systems: how many are missed for how many false alarms.

        The lower left is the better. A good system is a straight line there; where two cross, the better one depends on
        the costs. On a short trial list the ends of a line are a handful of trials.

        Source: A. Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997.
        """
        return detection.det_curves({self.name: self.scores()}, self.config.scoring.p_targets)

    def __repr__(self) -> str:
        parts = [self.config.model.name, self.config.head.name]
        for describe in (self._epochs_in_words, self._snapshots_in_words):
            try:
                parts.append(describe())
            except SpkverError:  # of a run that has not come so far
                continue
        return f"<Run {self.folder}: {', '.join(parts)}>"

    def _epochs_in_words(self) -> str:
        eer = self.epochs.get("held_out_eer")
        best = f", best held-out EER {min(eer):.2%}" if eer is not None else ""
        return f"{len(self.epochs['epoch'])} of {self.config.training.epochs} epochs{best}"

    def _snapshots_in_words(self) -> str:
        held_out = self.subset.held_out
        trained, others = (len(set(self.subset.speakers[kind])) for kind in (~held_out, held_out))
        n = len(self.snapshots)
        return f"{n} snapshots of {len(held_out)} utterances by {trained} training and {others} held-out speakers"

    def _systems(self) -> detection.Systems:
        return {f"{self.name}, {name}": both for name, both in self.scores().items()}

    # What `spkver plot run` draws, by the names of the files.
    PICTURES: ClassVar[dict[str, Callable[[Any], Picture]]] = {
        "records": training_records,
        "gradients": gradients,
        "confusion": embeddings.confusion_development,
        "drift": embeddings.drift,
        "cka": embeddings.cka_similarities,
        "spectrum": embeddings.eigenvalues,
        "curvature": embeddings.curvature,
        "clusters": embeddings.clusters,
        "space": embeddings.space,
        "tsne": embeddings.tsne,
        "score_histograms": score_histograms,
        "det": det,
    }
