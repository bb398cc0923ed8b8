"""The files of a speaker store: who is enrolled, by which recordings, with which model.

A store is a folder: ``store.json`` (names, recordings, the model's fingerprint) and the array that it names,
``embeddings-DIGEST.npy`` (float32, a row for each recording in the order of the names).

- An array is never written over. A change writes a new one first and then ``store.json``, so that whatever stops it
  half-way leaves the old store or the new one. Whoever reads while it changes reads again.
- A voice is personal data: the folder and its files can be read by their owner alone.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, remove_leftovers

_ADVICE = "enrol again into another folder"
_LONGEST_NAME = 200
# As often as writers are met; each time the store has changed, so that damage is reported at the first.
_MOST_READS = 100
_LOCK_SECONDS = 60.0


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
        fingerprint: of the model that made the embeddings, `spkver.experiment.model_fingerprint`.
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

    def is_finite(self, name: str) -> bool:
        """Whether all that is known of a speaker's recordings can be compared; earlier versions let in what cannot."""
        measures = [value for one in self.speakers[name] for value in (one.seconds, one.magnitude)]
        return bool(np.isfinite(self.rows(name)).all() and all(0 < value < math.inf for value in measures))


def read_enrolled(folder: Path) -> Enrolled | None:
    """Read a store; None where there is none yet.

    Raises:
        SpkverError: it is damaged; the message names the file.
    """
    path = folder / "store.json"
    content = _content(path)
    for _ in range(_MOST_READS):
        if content is None:
            return None
        try:
            return _enrolled(path, content)
        except SpkverError:
            read, content = content, _content(path)
            if content == read:  # nobody has written meanwhile: it is damage
                raise
    raise SpkverError(f"{folder}: is being changed all the time; try again later")


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpkverError(f"{path}: cannot be read ({reason}); is this the folder of a speaker store?") from None


def _enrolled(path: Path, content: bytes) -> Enrolled:
    """The store that the content of its ``store.json`` describes."""
    try:
        record = json.loads(content)
        speakers = {name: [Recording(**one) for one in listed] for name, listed in record["speakers"].items()}
        fingerprint, model, name = record["fingerprint"], record["model"], record["embeddings"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SpkverError(f"{path}: is no speaker store ({type(error).__name__}: {error}); {_ADVICE}") from None
    if not all(isinstance(value, str) for value in (fingerprint, model, name)):
        raise SpkverError(f"{path}: fingerprint, model and embeddings must be text; {_ADVICE}")
    for speaker, listed in speakers.items():
        if not is_name(speaker) or not listed or not all(map(_is_recording, listed)):
            raise SpkverError(f"{path}: what it says of the speaker {speaker!r} is damaged; {_ADVICE}")
    embeddings = _embeddings(path.parent / Path(name).name)  # never a path that leads out of the folder
    n = sum(map(len, speakers.values()))
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != n:
        raise SpkverError(
            f"{path.parent / Path(name).name}: {n} recordings of {len(speakers)} speakers are listed, "
            f"found {embeddings.dtype} {embeddings.shape}; {_ADVICE}"
        )
    return Enrolled(fingerprint, model, speakers, embeddings)


def _embeddings(path: Path) -> np.ndarray:
    """The array of a store, after a look at its digest: damaged bytes are never parsed."""
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        raise SpkverError(f"{path}: cannot be read ({error}); {_ADVICE}") from None
    if path.name != _array_name(content):
        raise SpkverError(f"{path}: has been changed since it was written; {_ADVICE}")
    try:
        return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SpkverError(f"{path}: cannot be read ({error}); {_ADVICE}") from None


def is_name(name: object) -> bool:
    """Whether something can be a speaker's name: printable text without spaces at its ends."""
    return isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name == name.strip() and name.isprintable()


def _is_recording(one: Recording) -> bool:
    numbers = all(isinstance(value, int | float) for value in (one.seconds, one.magnitude))
    return numbers and isinstance(one.file, str)


def write_enrolled(folder: Path, enrolled: Enrolled) -> None:
    """Write a store, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(enrolled.embeddings, np.float32), allow_pickle=False)
    content = buffer.getvalue()
    name = _array_name(content)
    with atomic_write(folder / name, "wb", private=True) as file:
        file.write(content)
    record = {
        "fingerprint": enrolled.fingerprint,
        "model": enrolled.model,
        "embeddings": name,
        "speakers": {name: [asdict(one) for one in listed] for name, listed in enrolled.speakers.items()},
    }
    with atomic_write(folder / "store.json", private=True) as file:
        json.dump(record, file, indent=2, ensure_ascii=False)
        file.write("\n")
    for stale in folder.glob("embeddings-*.npy"):
        if stale.name != name:
            stale.unlink(missing_ok=True)


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """While entered, no other process changes the store: two that enrol at a time would lose one of the speakers."""
    _make_private(folder)
    with locked(folder / ".lock", "a change of the speaker store", wait_seconds=_LOCK_SECONDS):
        remove_leftovers(folder)
        yield


def _is_ours(folder: Path) -> bool:
    return hasattr(os, "getuid") and folder.stat().st_uid == os.getuid()  # Windows has no such numbers


def _make_private(folder: Path) -> None:
    """Make the folder of a store, for its owner alone; also one that an earlier version made for all to read."""
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        elif (folder / "store.json").is_file() and _is_ours(folder):
            folder.chmod(0o700)
            for file in (folder / "store.json", *folder.glob("embeddings-*.npy")):
                file.chmod(0o600)
    except OSError as error:
        raise SpkverError(f"{folder}: cannot be made a speaker store ({error.strerror})") from None


def _array_name(content: bytes) -> str:
    return f"embeddings-{hashlib.sha256(content).hexdigest()[:16]}.npy"
