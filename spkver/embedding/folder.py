"""The folder in which embeddings pass between stages: ``embeddings.npy`` (float32, N x D), ``utts`` (N ids).

``measures.npz``, where it is there, holds a number for each utterance that tells how far it can be trusted
(``duration`` in seconds, ``magnitude`` of the embedding before it was normalised).

Reading memory-maps the array, so a million embeddings cost no memory until they are used. Each row is
checked when written and when read, because one row that is NaN or zero makes every trial of its utterance
senseless.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from spkver.data.text_tables import table_rows
from spkver.embedding.arrays import map_npy, read_npz
from spkver.embedding.rows import check_embeddings
from spkver.errors import SpkverError
from spkver.experiment.provenance import data_name, read_record, refuse_to_replace, same_data
from spkver.files import atomic_write, is_file

MADE_OF = "made_of.json"  # what the embeddings were made of, see `spkver.experiment.provenance`
# Other embeddings than those of the model by Python: of the encoder before training, or by an exported file.
_BASES_WITH_A_FOLDER = ("untrained", "onnx", "onnx_int8")
_AGAIN = "make the embeddings again"


def embeddings_folder(exp: Path, data: Path, base: str = "cosine") -> Path:
    """Where an experiment keeps the embeddings of a data directory.

    Args:
        base: what tables call a system of these embeddings before anything is added to it.
    """
    name = data_name(data)
    return exp / "embeddings" / (f"{name}-{base}" if base in _BASES_WITH_A_FOLDER else name)


def refuse_other_data(folder: Path, record: dict) -> None:
    """Keep embeddings from being replaced by those of another data directory of the same name.

    Args:
        folder: of the embeddings.
        record: what the new ones are made of.

    Raises:
        SpkverError: naming both directories.
    """
    old = (read_record(folder / MADE_OF, "data", "model") or {}).get("data")
    is_same = old is not None and same_data(old, record["data"])
    refuse_to_replace(folder, old, record["data"], is_same, "embeddings")


def write_embeddings(
    folder: str | os.PathLike[str],
    embeddings: np.ndarray,
    utts: Sequence[str],
    measures: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write embeddings and their utterance ids into a folder; what fails before the end leaves it as it was.

    Args:
        folder: made where missing; other files in it are left alone.
        embeddings: (N, D), kept as float32.
        utts: N utterance ids.
        measures: name -> (N,) real numbers; an earlier file of them goes away where there are none now.

    Raises:
        SpkverError: counts differ, an id is there twice or cannot be written, or a row is NaN, infinite or
            zero.
        ValueError: ``embeddings`` is not a two-dimensional array of numbers.
    """
    folder = Path(folder)
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.dtype.kind not in "fiu":
        raise ValueError(f"embeddings must be (N, D) numbers, got {embeddings.dtype} {embeddings.shape}")
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named below
        embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
    utts = list(utts)
    _check(folder, embeddings, utts)
    # `utts` goes away first and comes back last: whoever stops this half-way leaves a folder that says that
    # it is incomplete, never new embeddings beside old ids.
    with atomic_write(folder / "utts") as ids, atomic_write(folder / "embeddings.npy", "wb") as array:
        ids.writelines(utt + "\n" for utt in utts)
        np.save(array, embeddings, allow_pickle=False)
        ids.flush()
        array.flush()
        (folder / "utts").unlink(missing_ok=True)
        _write_measures(folder / "measures.npz", measures or {}, len(utts))


def read_measures(folder: str | os.PathLike[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Read measures of the utterances of a folder of embeddings by name; each (N,) float64.

    Raises:
        SpkverError: the folder has no such measure, or the file is damaged.
    """
    path = Path(folder) / "measures.npz"
    if not names:
        return {}
    measures = read_npz(path, _AGAIN) if path.exists() else {}
    strange = next(
        (name for name, values in measures.items() if values.ndim != 1 or values.dtype.kind not in "fiu"), None
    )
    if strange is not None:
        raise SpkverError(f"{path}: '{strange}' is no number for each utterance; {_AGAIN}")
    missing = [name for name in names if name not in measures]
    if missing:
        raise SpkverError(
            f"{path}: no measure '{missing[0]}' of the utterances; embed them again with `spkver embed`, "
            f"or leave '{missing[0]}' out of scoring.calibration.quality"
        )
    chosen = {name: measures[name].astype(np.float64) for name in names}
    odd = next((name for name, values in chosen.items() if not np.isfinite(values).all()), None)
    if odd is not None:
        raise SpkverError(f"{path}: '{odd}' is NaN or infinite for an utterance; {_AGAIN}")
    return chosen


def _write_measures(path: Path, measures: Mapping[str, np.ndarray], n: int) -> None:
    path.unlink(missing_ok=True)
    if not measures:
        return
    arrays = {name: np.asarray(values, np.float32) for name, values in measures.items()}
    for name, values in arrays.items():
        if values.shape != (n,) or not np.isfinite(values).all():
            raise ValueError(f"measure '{name}' must be {n} finite numbers, got shape {values.shape}")
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # the stubs take any of them for allow_pickle


def read_embeddings(folder: str | os.PathLike[str]) -> tuple[np.memmap, list[str]]:
    """Read what `write_embeddings` wrote.

    Returns:
        ``(embeddings, utts)``: a read-only memory map (N, D) float32, and N utterance ids.

    Raises:
        SpkverError: a file is missing or damaged, counts differ, an id is there twice, or a row is NaN,
            infinite or zero (the message names the utterance).
    """
    folder = Path(folder)
    for name in ("embeddings.npy", "utts"):
        if not is_file(folder / name):
            raise SpkverError(f"{folder}: has no file '{name}'; make the embeddings (again)")
    embeddings = map_npy(folder / "embeddings.npy", _AGAIN)
    if embeddings.ndim != 2 or embeddings.dtype != np.float32:
        found = f"{embeddings.dtype} {embeddings.shape}"
        raise SpkverError(f"{folder / 'embeddings.npy'}: expected float32 (N, D), found {found}; {_AGAIN}")
    utts = []
    for line, columns in table_rows(folder / "utts"):
        if len(columns) != 1:
            raise SpkverError(f"{folder / 'utts'}:{line}: {len(columns)} columns; expected one utterance id")
        utts.append(columns[0])
    _check(folder, embeddings, utts)
    return embeddings, utts


def _check(folder: Path, embeddings: np.ndarray, utts: list[str]) -> None:
    """The promises of the folder form, for writing and reading alike."""
    if not embeddings.size:
        raise SpkverError(f"{folder}: there are no embeddings, the array is {embeddings.shape}")
    check_embeddings(embeddings, utts, folder, lambda _: str(folder))
