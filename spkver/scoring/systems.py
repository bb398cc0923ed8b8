"""Systems: the ways from the embeddings of two sides to a score, named as tables name them.

``cosine``, ``cosine+asnorm``, ``cosine+asnorm+calibration``, ``plda``, ``plda+calibration``, ...; each is a function
``(enroll_index, test_index) -> (n_trials,) float32`` whose score of a trial depends on that trial alone, so that a
list may be scored in any pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from spkver.errors import SpkverError, did_you_mean
from spkver.scoring.backend_folder import Backend, Cohort
from spkver.scoring.backends.calibration import Calibration
from spkver.scoring.backends.cosine import pair_products, unit_rows
from spkver.scoring.backends.enrolment import Models, enrolment_means, expand_trials, score_means
from spkver.scoring.backends.plda import Plda
from spkver.scoring.backends.quality import quality_columns
from spkver.scoring.backends.score_norm import centre, cohort_statistics, s_norm, t_norm, z_norm

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]

PLDA_BASES = ("plda", "plda_adapted")
ONNX_BASES = ("onnx", "onnx_int8")  # the cosine of embeddings that an exported file made
BASES = ("cosine", "untrained", *ONNX_BASES, *PLDA_BASES)
NORMS = ("znorm", "tnorm", "snorm", "asnorm")
CALIBRATION = "calibration"
EQUAL_ERROR_THRESHOLD = "equal_error_threshold"  # what a calibration knows of its own trials
# Of the systems that a model was calibrated for, the first of these decides.
_DECIDE = ("cosine+asnorm", "cosine", "plda")
COHORT_MEAN = "cohort_mean"  # a quality measure that is made from the embeddings and the cohort


@dataclass(frozen=True, eq=False)
class EmbeddingSet:
    """The utterances, or the enrolled models, of one side of trials.

    Attributes:
        embeddings: (N, D).
        measures: name -> (N,), as `spkver.embedding.folder.read_measures` gives them; no more than are used.
    """

    embeddings: np.ndarray
    measures: dict[str, np.ndarray] = field(default_factory=dict)


def rated_embeddings(
    embeddings: np.ndarray, measures: dict[str, np.ndarray], quality: Sequence[str], backend: Backend
) -> EmbeddingSet:
    """Voices with the quality measures that a calibration asks for, the mean of their cohort scores among them."""
    if COHORT_MEAN in quality:
        cohort = backend.cohort()
        mean = cohort.mean if cohort.centred else np.zeros_like(cohort.mean)
        statistics = cohort_statistics(centre(embeddings, mean), centre(cohort.embeddings, mean), cohort.top_n)
        measures = measures | {COHORT_MEAN: statistics.mean}
    return EmbeddingSet(embeddings, {name: measures[name] for name in quality})


def enrolled_embeddings(voices: EmbeddingSet, models: Models) -> EmbeddingSet:
    """The enrolment's side where a name is a model: mean embeddings, and the mean of each measure.

    No measure is summed. The embedding of a minute is another thing than the mean of fifteen embeddings of 4 s, and a
    calibration knows of the latter only what it knows of 4 s: with sums, more enrolment made decisions worse.
    """
    measures = {name: models.sums(values) / models.counts for name, values in voices.measures.items()}
    return EmbeddingSet(enrolment_means(voices.embeddings, models), measures)


class Cosine:
    """The cosine of embeddings; ``mean`` (D,), where given, is subtracted from both sides first."""

    def __init__(self, enroll: EmbeddingSet, test: EmbeddingSet, mean: np.ndarray | None = None) -> None:
        bring = unit_rows if mean is None else partial(centre, mean=mean)
        self.left = bring(enroll.embeddings)
        self.right = self.left if test is enroll else bring(test.embeddings)

    def __call__(self, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
        return np.clip(pair_products(self.left, self.right, enroll_index, test_index), -1, 1)


class Normalised:
    """Cosines normalised by those that each side has with a cohort; the same mean is subtracted from all three."""

    def __init__(self, enroll: EmbeddingSet, test: EmbeddingSet, cohort: Cohort, norm: str) -> None:
        mean = cohort.mean if cohort.centred else None
        self.cosine = Cosine(enroll, test, mean)
        rows = unit_rows(cohort.embeddings) if mean is None else centre(cohort.embeddings, mean)
        nearest = cohort.top_n if norm == "asnorm" else None
        of_enroll = cohort_statistics(self.cosine.left, rows, nearest)
        of_test = of_enroll if test is enroll else cohort_statistics(self.cosine.right, rows, nearest)
        self.normalise = {
            "znorm": lambda scores, enroll, test: z_norm(scores, enroll, of_enroll),
            "tnorm": lambda scores, enroll, test: t_norm(scores, test, of_test),
            "snorm": lambda scores, enroll, test: s_norm(scores, enroll, test, of_enroll, of_test),
            "asnorm": lambda scores, enroll, test: s_norm(scores, enroll, test, of_enroll, of_test),
        }[norm]

    def __call__(self, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
        return self.normalise(self.cosine(enroll_index, test_index), enroll_index, test_index)


class PldaRatio:
    """The log-likelihood ratio of a PLDA model."""

    def __init__(self, enroll: EmbeddingSet, test: EmbeddingSet, plda: Plda) -> None:
        self.left, self.left_constants = plda.rows(enroll.embeddings)
        self.right, self.right_constants = (
            (self.left, self.left_constants) if test is enroll else plda.rows(test.embeddings)
        )

    def __call__(self, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
        products = pair_products(self.left, self.right, enroll_index, test_index)
        constants = self.left_constants[enroll_index] + self.right_constants[test_index]
        return (products + constants).astype(np.float32)


class RatedScores:
    """What a calibration is fed with: a system's score and the quality measures of the two sides."""

    def __init__(self, score: Score, enroll: EmbeddingSet, test: EmbeddingSet) -> None:
        self.score = score
        # One array of both sides, as a quality measure has no side.
        self.first_test = 0 if test is enroll else len(enroll.embeddings)
        self.measures = {
            name: values if test is enroll else np.concatenate([values, test.measures[name]])
            for name, values in enroll.measures.items()
        }

    def columns(self, enroll_index: np.ndarray, test_index: np.ndarray) -> dict[str, np.ndarray]:
        """The columns by name, each (n_trials,)."""
        qualities = quality_columns(self.measures, enroll_index, test_index + self.first_test)
        return {"score": self.score(enroll_index, test_index)} | qualities


class Calibrated:
    """A calibrated system: its scores are natural log-likelihood ratios."""

    def __init__(self, qualified: RatedScores, calibration: Calibration) -> None:
        self.qualified, self.calibration = qualified, calibration

    def __call__(self, enroll_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
        return self.calibration.llrs(self.qualified.columns(enroll_index, test_index))


class ScoreMean:
    """Enrolment by several utterances: the mean of the scores that each of them has with the test."""

    def __init__(self, score: Score, models: Models) -> None:
        self.score, self.models = score, models

    def __call__(self, model_index: np.ndarray, test_index: np.ndarray) -> np.ndarray:
        enroll_index, tests, starts = expand_trials(model_index, test_index, self.models)
        return score_means(self.score(enroll_index, tests), starts).astype(np.float32)


def build_system(name: str, enroll: EmbeddingSet, test: EmbeddingSet, backend: Backend) -> Score:
    """The scoring function of a system.

    Args:
        name: such as ``cosine+asnorm+calibration``.
        enroll: the enrolment's side.
        test: the test's; the same object where both come from one list of utterances.
        backend: where cohort, PLDA model and calibration are read from.

    Raises:
        SpkverError: the name is no system, or what it needs was not made yet.
        ValueError: embeddings or measures that are not finite, or a cohort smaller than ``top_n``.
    """
    base, norm, calibrated = parse_system(name)
    score: Score
    if base in PLDA_BASES:
        score = PldaRatio(enroll, test, backend.plda(base))
    elif norm is None:
        score = Cosine(enroll, test)
    else:
        score = Normalised(enroll, test, backend.cohort(), norm)
    if not calibrated:
        return score
    uncalibrated = name.removesuffix(f"+{CALIBRATION}")
    return Calibrated(RatedScores(score, enroll, test), backend.calibration(uncalibrated))


def deciding_system(backend: Backend) -> str:
    """The system that decides with a model where none is named: a calibrated one where there is, else the cosine."""
    calibrated = backend.calibrated(_DECIDE)
    return "cosine" if calibrated is None else f"{calibrated}+{CALIBRATION}"


def check_can_decide(name: str) -> None:
    """Refuse systems that compare other embeddings than those of a model's encoder.

    Raises:
        SpkverError: it is one of those, or no system.
    """
    if parse_system(name)[0] not in ("cosine", *PLDA_BASES):
        raise SpkverError(
            f"'{name}' cannot decide: its embeddings are not those of the model; name one of cosine or plda"
        )


def parse_system(name: str) -> tuple[str, str | None, bool]:
    """The parts of a system's name: base, normalisation or None, and whether it is calibrated.

    Raises:
        SpkverError: saying what a name is made of.
    """
    base, *rest = name.split("+")
    calibrated = rest[-1:] == [CALIBRATION]
    norm = rest[: len(rest) - calibrated]
    if base not in BASES or len(norm) > 1 or not set(norm) <= set(NORMS) or (norm and base in PLDA_BASES):
        valid = f"{', '.join(BASES)}, behind cosine one of +{', +'.join(NORMS)}, and behind any +{CALIBRATION}"
        raise SpkverError(f"no system '{name}'{did_you_mean(name, _systems())}; a name is one of {valid}")
    return base, norm[0] if norm else None, calibrated


def _systems() -> list[str]:
    """All names of systems."""
    plain = [*BASES, *(f"{base}+{norm}" for base in BASES if base not in PLDA_BASES for norm in NORMS)]
    return [*plain, *(f"{name}+{CALIBRATION}" for name in plain)]
