"""The files of a speaker store: who is enrolled, by which recordings, with which model.

A store is a folder: ``store.json`` (names, recordings, the model's fingerprint) and the array that it names,
``embeddings-DIGEST.npy`` (float32, a row for each recording in the order of the names).

Notable: an array is never written over. A change writes a new one first and then ``store.json``, so that whoever
reads, or whatever stops it half-way, finds the old store or the new one.
"""

import fcntl
import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError
from spkver.whole_file import whole_file

_ADVICE = "enrol again into another folder"


@dataclass(frozen=True)
class Recording:
    """What is known of a recording beside its embedding."""

    file: str  # where it was; empty of samples
    seconds: float
    magnitude: float  # of the embedding before it was normalised


@dataclass(frozen=True, eq=False)
class Enrolled:
    """All that a store holds.

    Attributes:
        fingerprint: of the model that made the embeddings, `spkver.model_fingerprint`.
        model: the folder of that model when the store was last written.
        speakers: name -> recordings.
        embeddings: (n_recordings, embed_dim) float32, those of the first speaker first.
    """

    fingerprint: str
    model: str
    speakers: dict[str, list[Recording]] = field(default_factory=dict)
    embeddings: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def rows(self, name: str) -> np.ndarray:
        """The embeddings of one speaker."""
        names = list(self.speakers)
        first = sum(len(self.speakers[other]) for other in names[: names.index(name)])
        return self.embeddings[first : first + len(self.speakers[name])]


def read_enrolled(folder: Path) -> Enrolled | None:
    """Read a store; None where there is none yet.

    Raises:
        SpkverError: it is damaged; the message names the file.
    """
    path = folder / "store.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        speakers = {name: [Recording(**one) for one in listed] for name, listed in record["speakers"].items()}
        fingerprint, model, name = record["fingerprint"], record["model"], record["embeddings"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpkverError(f"{path}: is no speaker store ({type(error).__name__}: {error}); {_ADVICE}") from None
    array = folder / Path(str(name)).name  # never a path that leads out of the folder
    try:
        content = array.read_bytes()
        embeddings = np.load(io.BytesIO(content), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SpkverError(f"{array}: cannot be read ({' '.join(str(error).split())}); {_ADVICE}") from None
    if array.name != _array_name(content):
        raise SpkverError(f"{array}: has been changed since it was written; {_ADVICE}")
    n = sum(map(len, speakers.values()))
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != n or not all(speakers.values()):
        raise SpkverError(
            f"{array}: {n} recordings of {len(speakers)} speakers are listed, "
            f"found {embeddings.dtype} {embeddings.shape}; {_ADVICE}"
        )
    return Enrolled(fingerprint, model, speakers, embeddings)


def write_enrolled(folder: Path, enrolled: Enrolled) -> None:
    """Write a store, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(enrolled.embeddings, np.float32), allow_pickle=False)
    content = buffer.getvalue()
    name = _array_name(content)
    with whole_file(folder / name, "wb") as file:
        file.write(content)
    record = {
        "fingerprint": enrolled.fingerprint,
        "model": enrolled.model,
        "embeddings": name,
        "speakers": {name: [asdict(one) for one in listed] for name, listed in enrolled.speakers.items()},
    }
    with whole_file(folder / "store.json") as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.write("\n")
    for stale in folder.glob("embeddings-*.npy"):
        if stale.name != name:
            stale.unlink(missing_ok=True)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """While entered, no other process changes the store: two that enrol at a time would lose one of the speakers."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _array_name(content: bytes) -> str:
    return f"embeddings-{hashlib.sha256(content).hexdigest()[:16]}.npy"
