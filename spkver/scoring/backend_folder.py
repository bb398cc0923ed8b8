"""What scoring needs beside embeddings: a cohort, PLDA models, calibrations. They lie in the model's folder.

``model/backend/`` holds ``cohort.safetensors``, ``plda.safetensors``, ``calibration-SYSTEM.json``, a threshold that was
saved for a system, ``threshold-SYSTEM.json``, and ``weights``, the fingerprint of the model whose embeddings all of it
was fitted to.

A model that was trained again, or with other settings, makes other embeddings. What was fitted to the old
ones is refused when read, and thrown away when something new is written.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import embedding_fingerprint
from spkver.files import atomic_write, write_json
from spkver.scoring.backends.calibration import Calibration, read_calibration
from spkver.scoring.backends.plda import Plda
from spkver.scoring.backends.quality import quality_columns
from spkver.scoring.stored_threshold import Threshold


@dataclass(frozen=True, eq=False)
class Cohort:
    """The training speakers as score normalisation meets them.

    Attributes:
        speakers: whose recordings it is made of.
        embeddings: (S, D) float32, the mean of each one's embeddings, those brought to unit length first; or of
            clusters of speakers.
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

    def __init__(self, model: str | os.PathLike[str]) -> None:
        self.folder = Path(model) / "backend"
        self.digest = embedding_fingerprint(model)

    def write_cohort(self, cohort: Cohort) -> None:
        """Keep a cohort."""
        names = np.frombuffer("\n".join(cohort.speakers).encode(), np.uint8)
        settings = np.array([cohort.top_n, cohort.centred])
        arrays = {"embeddings": cohort.embeddings, "mean": cohort.mean, "speakers": names, "settings": settings}
        with atomic_write(self._new("cohort.safetensors"), "wb") as file:
            file.write(save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}))

    def cohort(self) -> Cohort:
        """Read the cohort.

        Raises:
            SpkverError: there is none, it is damaged, or of another model.
        """
        path = self._found("cohort.safetensors", "spkver norm")
        try:
            arrays = load_arrays(path.read_bytes())
            speakers = arrays["speakers"].tobytes().decode().splitlines()
            top_n, centred = arrays["settings"].tolist()
            cohort = Cohort(speakers, arrays["embeddings"], arrays["mean"], top_n, bool(centred))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise SpkverError(f"{path}: is no whole cohort ({error}); run `spkver norm` again") from None
        if cohort.embeddings.ndim != 2 or cohort.embeddings.shape[1:] != cohort.mean.shape:
            shapes = f"embeddings {cohort.embeddings.shape}, their mean {cohort.mean.shape}"
            raise SpkverError(f"{path}: {shapes}; run `spkver norm` again")
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
        command = f"spkver calibrate DATA EXP --train DIR --system {system}"
        path = self._found(f"calibration-{system}.json", command)
        calibration = read_calibration(path, f"run `{command}` (again)")
        columns = quality_columns({name: np.ones(1) for name in calibration.quality}, [0], [0])
        if set(calibration.weights) != {"score", *columns}:
            found = ", ".join(calibration.weights)
            raise SpkverError(f"{path}: its weights are of {found}, not of a score and measures; run `{command}` again")
        return calibration

    def write_threshold(self, system: str, threshold: Threshold) -> None:
        """Keep a threshold of a system's scores."""
        record = {"system": system, **threshold._asdict(), "made_by": self.makers(system)}
        write_json(self._new(f"threshold-{system}.json"), record)

    def threshold(self, system: str) -> Threshold | None:
        """The threshold that was saved for a system, None where none was.

        Raises:
            SpkverError: it is damaged, or of another model, cohort, PLDA model or calibration.
        """
        name = f"threshold-{system}.json"
        if not (self.folder / name).is_file():
            return None
        command = f"spkver threshold DATA EXP --system {system} --save"
        path = self._found(name, command)
        advice = f"run `{command}` again, or remove it"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            threshold = Threshold(record["value"], record["source"])
            is_whole = isinstance(threshold.value, float) and isinstance(threshold.source, str)
            made_by, of = record["made_by"], record["system"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SpkverError(f"{path}: holds no threshold ({error}); {advice}") from None
        if not is_whole or not math.isfinite(threshold.value) or of != system:
            raise SpkverError(f"{path}: holds no threshold of {system}; {advice}")
        if made_by != self.makers(system):
            raise SpkverError(f"{path}: is of other scores, since {system} was fitted anew; {advice}")
        return threshold

    def makers(self, system: str) -> dict[str, str]:
        """The files in the folder that make a system's scores, with their SHA-256."""
        base, *rest = system.split("+")
        names = [f"{base}.safetensors"] if base.startswith("plda") else []
        names += ["cohort.safetensors"] if any(part.endswith("norm") for part in rest) else []
        names += [f"calibration-{system.rpartition('+')[0]}.json"] if rest[-1:] == ["calibration"] else []
        paths = [self.folder / name for name in names]
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.is_file()}

    def fingerprint(self) -> dict[str, list[int]]:
        """What tells that nothing that makes scores has changed."""
        # What begins with a dot is not finished.
        paths = [path for path in sorted(self.folder.glob("[!.]*")) if not path.name.startswith("threshold-")]
        status = {path.name: path.stat() for path in paths}
        return {name: [found.st_size, found.st_mtime_ns] for name, found in status.items()}

    def calibrated(self, systems: tuple[str, ...]) -> str | None:
        """The first of some systems that has a calibration; None where none has."""
        return next((name for name in systems if (self.folder / f"calibration-{name}.json").is_file()), None)

    def _new(self, name: str) -> Path:
        """Where to write a file; what belongs to other weights goes away first."""
        if self._weights() != self.digest:
            for stale in self.folder.glob("*"):
                stale.unlink()
            with atomic_write(self.folder / "weights") as file:
                file.write(self.digest + "\n")
        return self.folder / name

    def _found(self, name: str, command: str) -> Path:
        """Where to read a file that ``command`` makes."""
        path = self.folder / name
        if not path.is_file():
            raise SpkverError(f"{path}: is not there; `{command}` makes it")
        if self._weights() != self.digest:
            raise SpkverError(
                f"{path}: belongs to other weights or settings than the model has now; run `{command}` again"
            )
        return path

    def _weights(self) -> str | None:
        path = self.folder / "weights"
        return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None
