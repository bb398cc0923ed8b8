"""Snapshots: the embeddings of a fixed subset after each epoch, which the pictures are drawn from.

``exp/NAME/snapshots/`` holds ``utterances`` (``utt speaker train|held_out`` a line: the rows of every
snapshot) and ``epoch-007.npz``, one an epoch; epoch 0 is the encoder before its first step.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.data.names import composed
from spkver.errors import SpkverError
from spkver.experiment.paths import epoch_files
from spkver.files import atomic_write

# A snapshot has some hundred kilobytes.
_MOST_BYTES = 1 << 30
# Edges of the gradient histograms, in powers of ten.
GRADIENT_EDGES = np.linspace(-12.0, 2.0, 141)


@dataclass(frozen=True)
class Subset:
    """Whose embeddings the snapshots hold.

    Args:
        utts: (n,) utterance ids.
        speakers: (n,) the speaker of each.
        held_out: (n,) bool, True where training does not see the speaker.
    """

    utts: np.ndarray
    speakers: np.ndarray
    held_out: np.ndarray

    @property
    def train_speakers(self) -> list[str]:
        """The training speakers, in the order of ``Snapshot.centres`` and of what ``predicted`` counts."""
        return list(dict.fromkeys(self.speakers[~self.held_out].tolist()))


@dataclass(frozen=True)
class Snapshot:
    """The subset after an epoch.

    Args:
        epoch: counted from 1; 0 is before training.
        embeddings: (n, embed_dim) float32.
        predicted: (n,) the subset's training speaker to whom the head gives the highest logit, without a
            margin; -1 for held-out speakers.
        centres: (n_train_speakers, rows_per_class, embed_dim) float32, the head's weights of those speakers.
        gradients_before, gradients_after: counts between ``GRADIENT_EDGES`` of log10 of the absolute
            gradients of all weights in the epoch's last step, before and after clipping; empty at epoch 0.
    """

    epoch: int
    embeddings: np.ndarray
    predicted: np.ndarray
    centres: np.ndarray
    gradients_before: np.ndarray
    gradients_after: np.ndarray


def write_subset(folder: Path, subset: Subset) -> None:
    """Write ``utterances``."""
    with atomic_write(folder / "utterances") as file:
        for utt, speaker, held_out in zip(subset.utts, subset.speakers, subset.held_out):
            file.write(f"{utt} {speaker} {'held_out' if held_out else 'train'}\n")


def read_subset(folder: Path) -> Subset:
    """Read ``utterances``.

    Raises:
        SpkverError: it is not there, is no text, or a line has not three columns.
    """
    path = folder / "utterances"
    try:
        lines = composed(path.read_text(encoding="utf-8")).splitlines()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror}); train with snapshots.speakers above 0") from None
    except UnicodeDecodeError:
        raise SpkverError(f"{path}: is not UTF-8 text; train again with snapshots.speakers above 0") from None
    rows = [line.split() for line in lines]
    for number, row in enumerate(rows, 1):
        if len(row) != 3 or row[2] not in ("train", "held_out"):
            raise SpkverError(
                f"{path}:{number}: expected `utt speaker train|held_out`, found '{lines[number - 1][:80]}'"
            )
    utts, speakers, kinds = zip(*rows) if rows else ((), (), ())
    return Subset(np.array(utts, str), np.array(speakers, str), np.array([kind == "held_out" for kind in kinds], bool))


def write_snapshot(folder: Path, snapshot: Snapshot) -> None:
    """Write ``epoch-NNN.npz``."""
    arrays = {name: value for name, value in vars(snapshot).items() if name != "epoch"}
    with atomic_write(folder / f"epoch-{snapshot.epoch:03d}.npz", "wb") as file:
        np.savez_compressed(file, **arrays)


def snapshot_files(folder: Path) -> dict[int, Path]:
    """The snapshots in a folder by epoch, in order."""
    return epoch_files(folder, "npz")


def read_snapshot(path: Path, epoch: int) -> Snapshot:
    """Read one file.

    Raises:
        SpkverError: it is damaged, or holds other arrays.
    """
    try:
        _check_size(path)
        with np.load(path, allow_pickle=False) as arrays:
            snapshot = Snapshot(epoch, **{name: arrays[name] for name in arrays.files})
        _check_arrays(snapshot)
    except Exception as error:  # what damaged bytes lead to, there is no list of
        # Short: some put the damaged bytes into it.
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        raise SpkverError(f"{path}: is no snapshot of an epoch ({reason}); delete it or train again") from None
    return snapshot


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > _MOST_BYTES:
        raise ValueError(f"it claims to hold {claimed} bytes")


def _check_arrays(snapshot: Snapshot) -> None:
    n, dim = snapshot.embeddings.shape
    n_speakers, _, centre_dim = snapshot.centres.shape
    if snapshot.predicted.shape != (n,) or centre_dim != dim:
        raise ValueError("its arrays do not fit one another")
    for floats in (snapshot.embeddings, snapshot.centres):
        if floats.dtype.kind != "f" or not np.isfinite(floats).all():
            raise ValueError("it holds other values than finite numbers")
    histograms = snapshot.gradients_before, snapshot.gradients_after
    for integers in (snapshot.predicted, *histograms):
        if integers.dtype.kind not in "iu":
            raise ValueError("it holds other values than integers where these are due")
    if n and not (snapshot.predicted.min() >= -1 and snapshot.predicted.max() < n_speakers):
        raise ValueError("it predicts speakers that it has no centres of")
    if any(counts.shape not in ((0,), (len(GRADIENT_EDGES) - 1,)) for counts in histograms):
        raise ValueError("its histograms have another number of bins")
