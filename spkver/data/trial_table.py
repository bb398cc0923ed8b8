"""Trial tables: comma- or tab-separated files with a header, whose further columns are conditions of the trials.

``enroll,test,label,channel,noise_db`` for example. ``enroll`` and ``test`` must be there; ``label`` is ``target`` or
``nontarget``, or 1 or 0; ``score`` is a score; whatever else there is can be evaluated by (`--by channel`).
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from spkver.data.label_words import LABEL_OF_DIGIT, LABEL_OF_WORD
from spkver.errors import SpkverError

_LABELS = LABEL_OF_WORD | LABEL_OF_DIGIT
SEPARATORS = {".csv": ",", ".tsv": "\t"}
_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, eq=False)
class TrialTable:
    """What a table says of its trials.

    Attributes:
        enroll: n_trials names, dictionary-encoded.
        test: likewise.
        labels: (n_trials,) int8 or None.
        scores: (n_trials,) float32 or None.
        conditions: name -> (n_trials,) strings or numbers.
    """

    enroll: pa.DictionaryArray
    test: pa.DictionaryArray
    labels: np.ndarray | None
    scores: np.ndarray | None
    conditions: dict[str, np.ndarray]


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a table with a header, by its name."""
    return Path(path).suffix.lower() in SEPARATORS


def read_trial_table(path: str | os.PathLike[str]) -> TrialTable:
    """Read a ``.csv`` or ``.tsv`` file of trials.

    Raises:
        SpkverError: naming the file, and line or column: it cannot be read, a row has another width than the
            header, ``enroll`` or ``test`` is missing, a label is unknown, a score is no finite number, or there is
            no trial.
    """
    separator = SEPARATORS[Path(path).suffix.lower()]
    try:
        content = Path(path).read_bytes()
        if b"\0" in content:
            line = content.count(b"\n", 0, content.index(b"\0")) + 1
            raise SpkverError(f"{path}:{line}: holds a NUL byte, the table is damaged; write it again")
        table = csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(block_size=1 << 30),
            csv.ParseOptions(delimiter=separator),
            csv.ConvertOptions(column_types={name: _TEXT for name in ("enroll", "test", "label")}, null_values=[]),
        )
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pa.ArrowInvalid as error:
        raise SpkverError(f"{path}: is no table ({' '.join(str(error).split())})") from None
    try:
        names = [name.strip() for name in table.column_names]
    except UnicodeDecodeError:
        raise SpkverError(f"{path}:1: not UTF-8; convert the file (iconv -t UTF-8)") from None
    if not table.num_rows:
        raise SpkverError(f"{path}: the list is empty")
    table = table.unify_dictionaries().combine_chunks()
    columns = {
        name: _composed(column.chunk(0), f"{path}: column '{name}'") for name, column in zip(names, table.columns)
    }
    for name in ("enroll", "test"):
        if name not in columns:
            found = ", ".join(names)
            found = found if len(found) <= 100 else found[:97] + "..."
            raise SpkverError(f"{path}:1: no column '{name}'; the header must name enroll and test, found {found}")
    if len(columns) < len(names):
        raise SpkverError(f"{path}:1: a column's name is given twice in the header")
    return TrialTable(
        columns.pop("enroll"),
        columns.pop("test"),
        _labels(path, columns.pop("label", None)),
        _scores(path, columns.pop("score", None)),
        {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()},
    )


def _composed(column: pa.Array, where: str) -> pa.Array:
    """Text in Unicode's composed form, see `spkver.data.names`; numbers as they are; dates and the like as text."""
    if isinstance(column, pa.DictionaryArray):
        names = pc.utf8_normalize(column.dictionary, form="NFC").dictionary_encode()
        return pa.DictionaryArray.from_arrays(names.indices.take(column.indices), names.dictionary)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return column
    if pa.types.is_binary(kind):
        raise SpkverError(f"{where} is not UTF-8; save the table as UTF-8")
    return pc.utf8_normalize(column.cast(pa.string()), form="NFC")


def _labels(path: str | os.PathLike[str], column: pa.DictionaryArray | None) -> np.ndarray | None:
    if column is None:
        return None
    words = column.dictionary.to_pylist()
    index = column.indices.to_numpy()
    unknown = [number for number, word in enumerate(words) if word not in _LABELS]
    if unknown:
        line = 2 + int(np.flatnonzero(np.isin(index, unknown))[0])
        word = words[index[line - 2]]
        raise SpkverError(f"{path}:{line}: unknown label '{word}'; expected target or nontarget, or 1 or 0")
    return np.array([_LABELS[word] for word in words], np.int8)[index]


def _scores(path: str | os.PathLike[str], column: pa.Array | None) -> np.ndarray | None:
    if column is None:
        return None
    try:
        scores = column.cast(pa.float32()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise SpkverError(f"{path}: column 'score' is not of numbers ({' '.join(str(error).split())})") from None
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise SpkverError(f"{path}:{2 + bad[0]}: the score {scores[bad[0]]} is not a finite float32 number")
    return scores
