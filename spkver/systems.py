"""A system within an experiment: where its files lie, and the voices that it compares."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from spkver.data.directory import DataDirectory
from spkver.errors import SpkverError
from spkver.scoring.backend import Backend
from spkver.scoring.embeddings import read_embeddings, read_measures
from spkver.scoring.lookup import Rows
from spkver.scoring.systems import CALIBRATION, COHORT_MEAN, ONNX_BASES, Voices, parse_system, qualified_voices

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

    @property
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

    def embeddings(self, data: str) -> Path:
        of_its_own = self._untrained or self.of_onnx
        return self.exp / "embeddings" / (f"{data}-{self._base}" if of_its_own else data)

    def scores(self, data: str, trials: Path) -> Path:
        return self.exp / "scores" / data / f"{trials.name}-{self.name}"


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
            SpkverError: there are none yet, or they are damaged.
        """
        folder = system.embeddings(data.resolve().name)
        if not (folder / "embeddings.npy").is_file():
            advice = f"run `spkver embed {data} {system.exp}{' --onnx FILE' if system.of_onnx else ''}`"
            raise SpkverError(f"{folder}: there are no embeddings of {data} yet; {advice}")
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

    def voices(self, backend: Backend, quality: list[str]) -> Voices:
        """One side of trials, with the quality measures that a calibration asks for."""
        measures = read_measures(self.folder, [name for name in quality if name != COHORT_MEAN])
        return qualified_voices(self.embeddings, measures, quality, backend)
