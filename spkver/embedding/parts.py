"""Where embeddings lie while a directory is being embedded: parts of it, each a file that is whole.

A part is taken up again only while nothing that made it has changed: the weights and the settings that
an embedding depends on, the list of utterances, and size and time of each of its audio files.
"""

import hashlib
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spkver.data.shards import stamp
from spkver.data.utterance_table import UtteranceTable
from spkver.embedding.arrays import read_npz
from spkver.errors import SpkverError
from spkver.files import atomic_write, writing

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
    """The parts of one directory by one model, which several processes may make together.

    Args:
        place: the folder of the embeddings that they become; theirs is a hidden one beside it.
        utterances: all of them, in order.
        model: fingerprint of what makes the embeddings.
    """

    def __init__(self, place: Path, utterances: UtteranceTable, model: str):
        self.utterances = utterances
        listed = hashlib.sha256(f"{model} {UTTERANCES_A_PART}".encode())
        for utterance in utterances:
            listed.update(f"\n{utterance.id} {utterance.path}".encode(errors="surrogateescape"))
        self._place = place
        # By what they are made of: those of other weights, or of another list, never pass for these.
        self.folder = place.with_name(f".{place.name}.parts-{listed.hexdigest()[:12]}")
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return -(-len(self.utterances) // UTTERANCES_A_PART)

    def group(self, number: int) -> UtteranceTable:
        """The utterances of a part."""
        return self.utterances[number * UTTERANCES_A_PART : (number + 1) * UTTERANCES_A_PART]

    def lock(self, number: int) -> Path:
        """The lock file of a part; outside of the folder, which it would bring back."""
        return self.folder.with_name(f"{self.folder.name}-{number:06d}.lock")

    def are_over(self) -> bool:
        """Whether another process has taken them all together, and removed them."""
        return not self.folder.is_dir()

    def write(self, number: int, part: Part) -> None:
        """Keep a part."""
        with atomic_write(self._path(number), "wb") as file:
            np.savez(file, **part._asdict())

    def read(self, number: int) -> Part | None:
        """A part that is there; None where there is none, it is damaged, or its audio has changed."""
        try:
            part = Part(**read_npz(self._path(number), "it is made again"))
        except (SpkverError, TypeError):  # TypeError: other arrays than a part has
            return None
        group = self.group(number)
        if part.embeddings.ndim != 2 or part.reasons.dtype.kind != "U" or any(len(each) != len(group) for each in part):
            return None
        return part if np.array_equal(part.stamps, [stamp(utterance.path) for utterance in group]) else None

    def remove(self) -> None:
        """Take the parts away, when what they were made for is written, and those of other weights or lists."""
        for folder in self.folder.parent.glob(f".{self._place.name}.parts-*"):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npz"
