"""Where embeddings lie while a directory is being embedded: parts of it, each a file that is whole.

A part is taken up again only while nothing that made it has changed: the weights and the settings that
an embedding depends on, the list of utterances, and size and time of each of its audio files.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.data.directory import Utterance
from spkver.data.shards import stamp
from spkver.embedding.arrays import read_npz
from spkver.errors import SpkverError
from spkver.files import atomic_write, write_json

# A few seconds of work on one core: little is lost by a stop, and little of it waits for the last part.
UTTERANCES_A_PART = 128


class Part(NamedTuple):
    """Consecutive utterances; where ``reasons`` names a fault the other values are zero."""

    embeddings: np.ndarray  # (n, embed_dim) float32
    magnitudes: np.ndarray  # (n,) float32
    seconds: np.ndarray  # (n,) float64, of audio that the embedding was made of
    durations: np.ndarray  # (n,) float64, seconds of the file
    reasons: np.ndarray  # (n,) text, why a file is unusable; empty if it is usable
    stamps: np.ndarray  # (n, 2) int64, size and modification time of the file


class EmbeddingParts:
    """The parts of one directory by one model.

    Args:
        folder: made where missing; emptied when it holds parts of something else.
        utterances: all of them, in order.
        model: fingerprint of what makes the embeddings.
    """

    def __init__(self, folder: Path, utterances: Sequence[Utterance], model: str):
        self.folder = folder
        self.groups = [
            utterances[first : first + UTTERANCES_A_PART] for first in range(0, len(utterances), UTTERANCES_A_PART)
        ]
        listed = hashlib.sha256("\n".join(f"{u.id} {u.path}" for u in utterances).encode(errors="surrogateescape"))
        plan = {"model": model, "utterances": listed.hexdigest(), "utterances_a_part": UTTERANCES_A_PART}
        if self._plan() != plan:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(folder / "plan.json", plan)

    def write(self, number: int, part: Part) -> None:
        """Keep a part."""
        with atomic_write(self._path(number), "wb") as file:
            np.savez(file, **part._asdict())

    def read(self, number: int) -> Part | None:
        """A part that an earlier run made; None where there is none, it is damaged, or its audio has changed."""
        try:
            part = Part(**read_npz(self._path(number), "it is made again"))
        except (SpkverError, TypeError):  # TypeError: other arrays than a part has
            return None
        n = len(self.groups[number])
        if part.embeddings.ndim != 2 or part.reasons.dtype.kind != "U" or any(len(values) != n for values in part):
            return None
        stamps = [stamp(utterance.path) for utterance in self.groups[number]]
        return part if np.array_equal(part.stamps, stamps) else None

    def remove(self) -> None:
        """Take the parts away, when what they were made for is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"

    def _plan(self) -> dict | None:
        try:
            return json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
