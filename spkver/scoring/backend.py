"""What scoring needs beside embeddings: a cohort, PLDA models, calibrations. They lie in the model's folder.

``model/backend/`` holds ``cohort.safetensors``, ``plda.safetensors``, ``calibration-SYSTEM.json`` and ``weights``,
the digest of the weights that all of it was made with.

Notable: a model that was trained again makes other embeddings. What was fitted to the old ones is refused when
read, and thrown away when something new is written.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from spkver.errors import SpkverError
from spkver.files import is_file
from spkver.scoring.calibration import Calibration, read_calibration
from spkver.scoring.plda import Plda
from spkver.whole_file import whole_file

# Stands in place of weights where embeddings came from elsewhere.
IMPORTED = "imported.json"


@dataclass(frozen=True, eq=False)
class Cohort:
    """The training speakers as score normalisation meets them.

    Attributes:
        speakers: S names.
        embeddings: (S, D) float32, the mean of each one's embeddings, those brought to unit length first.
        mean: (D,) float32, of all training embeddings: what centring subtracts.
        top_n: how many of them, the nearest to an utterance, AS-norm takes.
        centred: whether the mean is subtracted.
    """

    speakers: list[str]
    embeddings: np.ndarray
    mean: np.ndarray
    top_n: int
    centred: bool


class Backend:
    """The folder ``backend`` of a model.

    Args:
        model: the model's folder.

    Raises:
        SpkverError: there is no model in it.
    """

    def __init__(self, model: str | os.PathLike) -> None:
        self.folder = Path(model) / "backend"
        imported = Path(model) / IMPORTED
        weights = imported if is_file(imported) else Path(model) / "model.safetensors"
        try:
            self.digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        except OSError as error:
            advice = "`spkver average EXP` makes EXP/model"
            raise SpkverError(f"{model}: is no model folder ({error.strerror}); {advice}") from None

    def write_cohort(self, cohort: Cohort) -> None:
        """Keep a cohort."""
        names = np.frombuffer("\n".join(cohort.speakers).encode(), np.uint8)
        settings = np.array([cohort.top_n, cohort.centred])
        arrays = {"embeddings": cohort.embeddings, "mean": cohort.mean, "speakers": names, "settings": settings}
        with whole_file(self._new("cohort.safetensors"), "wb") as file:
            file.write(save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    def cohort(self) -> Cohort:
        """Read the cohort.

        Raises:
            SpkverError: there is none, it is damaged, or of another model.
        """
        path = self._found("cohort.safetensors", "spkver norm")
        try:
            arrays = load_arrays(path.read_bytes())
            speakers = arrays["speakers"].tobytes().decode().split("\n")
            top_n, centred = arrays["settings"].tolist()
            cohort = Cohort(speakers, arrays["embeddings"], arrays["mean"], top_n, bool(centred))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise SpkverError(f"{path}: is no whole cohort ({error}); run `spkver norm` again") from None
        if cohort.embeddings.shape != (len(speakers), len(cohort.mean)):
            shape = cohort.embeddings.shape
            raise SpkverError(f"{path}: {len(speakers)} speakers, embeddings {shape}; run `spkver norm` again")
        return cohort

    def write_plda(self, plda: Plda, name: str = "plda") -> None:
        """Keep a PLDA model under the name of its system, ``plda`` or ``plda_adapted``."""
        plda.save(self._new(f"{name}.safetensors"))

    def plda(self, name: str = "plda") -> Plda:
        """Read a PLDA model; raises SpkverError as `cohort`."""
        return Plda.load(self._found(f"{name}.safetensors", "spkver plda"))

    def write_calibration(self, system: str, calibration: Calibration) -> None:
        """Keep the calibration of a system such as ``cosine+asnorm``."""
        calibration.write(self._new(f"calibration-{system}.json"))

    def calibration(self, system: str) -> Calibration:
        """Read the calibration of a system; raises SpkverError as `cohort`."""
        return read_calibration(self._found(f"calibration-{system}.json", f"spkver calibrate --system {system}"))

    def fingerprint(self) -> dict[str, list[int]]:
        """What tells that nothing in the folder has changed."""
        status = {path.name: path.stat() for path in sorted(self.folder.glob("*"))}
        return {name: [found.st_size, found.st_mtime_ns] for name, found in status.items()}

    def calibrated(self, systems: tuple[str, ...]) -> str | None:
        """The first of some systems that has a calibration; None where none has."""
        return next((name for name in systems if (self.folder / f"calibration-{name}.json").is_file()), None)

    def _new(self, name: str) -> Path:
        """Where to write a file; what belongs to other weights goes away first."""
        if self._weights() != self.digest:
            for stale in self.folder.glob("*"):
                stale.unlink()
            with whole_file(self.folder / "weights") as file:
                file.write(self.digest + "\n")
        return self.folder / name

    def _found(self, name: str, command: str) -> Path:
        """Where to read a file that ``command`` makes."""
        path = self.folder / name
        if not path.is_file():
            raise SpkverError(f"{path}: is not there; `{command}` makes it")
        if self._weights() != self.digest:
            raise SpkverError(f"{path}: belongs to other weights, the model was trained again; run `{command}` again")
        return path

    def _weights(self) -> str | None:
        path = self.folder / "weights"
        return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None
