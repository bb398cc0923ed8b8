"""A system within an experiment: where its files lie, what they were made of, and the voices that it compares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory
from spkver.data.lookup import Rows
from spkver.embedding.folder import MADE_OF, embeddings_folder, read_embeddings, read_measures
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import IMPORTED
from spkver.experiment.provenance import data_name, data_record, file_record, read_record, same_data
from spkver.scoring.backend_folder import Backend
from spkver.scoring.systems import CALIBRATION, COHORT_MEAN, ONNX_BASES, EmbeddingSet, parse_system, rated_embeddings

FUSION = "fusion"


@dataclass(frozen=True)
class System:
    """One way from audio to scores within an experiment, by the name that tables give it."""

    exp: Path
    name: str = "cosine"

    def __post_init__(self) -> None:
        if self.name != FUSION:
            parse_system(self.name)

    @property
    def model(self) -> Path:
        return self.exp / ("untrained" if self._untrained else "model")

    @cached_property
    def backend(self) -> Backend:
        return Backend(self.model)

    @property
    def uncalibrated(self) -> "System":
        return replace(self, name=self.name.removesuffix(f"+{CALIBRATION}"))

    @property
    def calibrated(self) -> "System":
        return replace(self, name=f"{self.uncalibrated.name}+{CALIBRATION}")

    @property
    def _untrained(self) -> bool:
        return self.name == "untrained"

    @property
    def of_onnx(self) -> bool:
        """Whether its embeddings come from an exported file."""
        return self._base in ONNX_BASES

    @property
    def _base(self) -> str:
        return self.name.partition("+")[0]

    def embed_command(self, data: Path) -> str:
        """What makes the embeddings of a data directory, as advice."""
        if (self.model / IMPORTED).is_file():
            return f"run `spkver import-embeddings {data} {self.exp} FILE`"
        options = " --onnx FILE" if self.of_onnx else " --untrained" if self._untrained else ""
        return f"run `spkver embed {data} {self.exp}{options}`"

    def embeddings(self, data: Path) -> Path:
        """The folder of the embeddings of a data directory."""
        return embeddings_folder(self.exp, data, self._base)

    def scores(self, data: Path, trials: Path) -> Path:
        """The file of the scores of a trial list."""
        return self.exp / "scores" / data_name(data) / f"{trials.name}-{self.name}"

    def scores_record(self, data: Path, trials: Path) -> Path:
        """The file that says what those scores were made of."""
        path = self.scores(data, trials)
        return path.parent / "made_of" / f"{path.name}.json"

    def found_scores(self, data: Path, trials: Path) -> Path:
        """The file of the scores of a trial list, which is there and belongs to this list as it is now.

        Raises:
            SpkverError: the list was not scored yet; or the scores are of another list, other recordings or an
                earlier model, in one line that names both.
        """
        path = self.scores(data, trials)
        again = f"run `spkver score {data} {self.exp} --trials {trials} --system {self.name}`"
        if self.name == FUSION:
            again = f"run `spkver fuse` with --trials {trials}"
        if not path.is_file():
            raise SpkverError(f"{path}: {trials} is not scored yet; {again}")
        record = read_record(self.scores_record(data, trials), "data", "trials", "model")
        if record is None:
            raise SpkverError(f"{path}: does not say what list was scored, and on what; {again}")
        # Both are named, and paths may be long: not once more in a command.
        anew = f"run `spkver {'fuse' if self.name == FUSION else 'score'}` again"
        if trials.is_file() and record["trials"]["digest"] != file_record(trials)["digest"]:
            scored = record["trials"]["path"]
            raise SpkverError(f"{path}: are the scores of another list than {trials}, of {scored} as it was; {anew}")
        if not same_data(record["data"], data_record(data)):
            made = record["data"]["path"]
            raise SpkverError(f"{path}: are scores of other recordings than {data}, of {made} as it was; {anew}")
        if record["model"] and self.model.is_dir() and record["model"] != self.backend.digest:
            raise SpkverError(f"{path}: are scores of another model, or of other settings, than {self.model}; {again}")
        return path


@dataclass(frozen=True, eq=False)
class Embedded:
    """The stored embeddings of a data directory."""

    data: Path
    folder: Path
    embeddings: np.ndarray
    utts: list[str]

    @classmethod
    def of(cls, system: System, data: Path) -> "Embedded":
        """Read them.

        Raises:
            SpkverError: there are none yet, they are damaged, or they are of other recordings or of another model.
        """
        folder = system.embeddings(data)
        again = system.embed_command(data)
        if not (folder / "embeddings.npy").is_file():
            raise SpkverError(f"{folder}: there are no embeddings of {data} yet; {again}")
        record = read_record(folder / MADE_OF, "data", "model")
        if record is None:
            raise SpkverError(f"{folder}: does not say what was embedded, and by what model; {again}")
        if not same_data(record["data"], data_record(data)):
            made = record["data"]["path"]
            raise SpkverError(
                f"{folder}: are embeddings of other recordings than {data}, of {made} as it was; "
                "run `spkver embed` again"
            )
        if record["model"] != system.backend.digest:
            raise SpkverError(
                f"{folder}: are embeddings of another model, or of other settings, than {system.model} has; {again}"
            )
        return cls(data, folder, *read_embeddings(folder))

    def rows(self) -> Rows:
        """To find utterances by their ids."""
        return Rows(self.utts, self.data / "wav.scp")

    def speakers(self, directory: DataDirectory) -> np.ndarray:
        """The speaker of each embedding, (N,) strings.

        Raises:
            SpkverError: an embedding's utterance is not in the directory.
        """
        of = {utterance.id: utterance.speaker for utterance in directory.utterances}
        stranger = next((utt for utt in self.utts if utt not in of), None)
        if stranger is not None:
            raise SpkverError(f"{self.folder / 'utts'}: '{stranger}' is not in {directory.path}; embed it again")
        return np.array([of[utt] for utt in self.utts])

    def voices(self, backend: Backend, quality: Sequence[str]) -> EmbeddingSet:
        """One side of trials, with the quality measures that a calibration asks for."""
        measures = read_measures(self.folder, [name for name in quality if name != COHORT_MEAN])
        return rated_embeddings(self.embeddings, measures, quality, backend)
