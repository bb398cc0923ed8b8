"""Cosine scores of trials, and the file that scores are kept in.

Notable: rows are brought to unit length once, not for each trial; trials are scored in chunks, so the memory
    beyond
that one copy of the embeddings does not grow with the list.
"""

import os

import numpy as np

from spkver.errors import SpkverError
from spkver.scoring.trials import LABEL_OF_WORD, WORD_OF_LABEL, Trials, check_names, table_rows
from spkver.whole_file import whole_file


def cosine_scores(
    embeddings: np.ndarray, enroll_index: np.ndarray, test_index: np.ndarray, chunk: int = 8192
) -> np.ndarray:
    """The cosine of the angle between the two embeddings of each trial.

    Args:
        embeddings: (N, D), of any length but zero; a memory map will do.
        enroll_index: (n_trials,) integers, rows of ``embeddings``.
        test_index: (n_trials,) likewise.
        chunk: trials at a time; it does not change the result.

    Returns:
        (n_trials,) float32, between -1 and 1.

    Raises:
        ValueError: a row is NaN, infinite or zero, the indices differ in length or lie outside of the rows,
            or ``chunk`` is below 1.
    """
    enroll_index, test_index = np.asarray(enroll_index), np.asarray(test_index)
    if enroll_index.ndim != 1 or enroll_index.shape != test_index.shape:
        raise ValueError(
            "enroll_index and test_index must be one-dimensional and equally long; "
            f"shapes are {enroll_index.shape}, {test_index.shape}"
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    for name, index in (("enroll_index", enroll_index), ("test_index", test_index)):
        # A negative index would be taken from the end, silently.
        if index.size and not 0 <= index.min() <= index.max() < len(embeddings):
            raise ValueError(f"{name} must lie in 0 .. {len(embeddings) - 1}, found {index.min()} .. {index.max()}")
    unit = unit_rows(embeddings, chunk)
    scores = np.empty(len(enroll_index), dtype=np.float32)
    for start in range(0, len(scores), chunk):
        part = slice(start, start + chunk)
        np.einsum("ij,ij->i", unit[enroll_index[part]], unit[test_index[part]], out=scores[part])
    return np.clip(scores, -1, 1, out=scores)


def unit_rows(embeddings: np.ndarray, chunk: int = 8192) -> np.ndarray:
    """Rows scaled to an L2 norm of 1 (the norm is taken in float64, ``chunk`` rows at a time).

    Returns:
        (N, D) float32, a new array.

    Raises:
        ValueError: a row is NaN, infinite or zero.
    """
    embeddings = np.asanyarray(embeddings)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must be (N, D), got shape {embeddings.shape}")
    unit = np.empty(embeddings.shape, dtype=np.float32)
    for start in range(0, len(unit), chunk):
        rows = np.asarray(embeddings[start : start + chunk], dtype=np.float64)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if bad.size:
            raise ValueError(f"embeddings: row {start + bad[0]} has a norm of {norms[bad[0], 0]}")
        unit[start : start + chunk] = rows / norms
    return unit


def write_scores(path: str | os.PathLike, trials: Trials, scores: np.ndarray) -> None:
    """Write ``enroll test score [target|nontarget]``, one trial a line, in the order of the trials.

    Nine significant digits: any float32 is read back to the bit.

    Args:
        path: the file; whole or not at all.
        trials: n_trials pairs; their labels are written where known.
        scores: (n_trials,), kept as float32.

    Raises:
        SpkverError: there are no trials, a score is NaN or infinite (the message names the trial), or a name
            cannot be written.
        ValueError: the number of scores is not that of the trials.
    """
    scores = np.asarray(scores, dtype=np.float32)
    if scores.shape != (len(trials),):
        raise ValueError(f"scores have shape {scores.shape}, there are {len(trials)} trials")
    if not len(trials):
        raise SpkverError(f"{path}: there are no scores to write")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        first = int(bad[0])
        pair = f"'{trials.enroll[first]}' and '{trials.test[first]}'"
        raise SpkverError(f"{trials.where(first)}: the score of {pair} is {scores[first]}; look at their embeddings")
    check_names(path, trials.enroll)
    check_names(path, trials.test)
    columns = [trials.enroll, trials.test, [f"{score:.9g}" for score in scores.tolist()]]
    if trials.labels is not None:
        columns.append([WORD_OF_LABEL[label] for label in trials.labels.tolist()])
    with whole_file(path) as file:
        file.writelines(" ".join(row) + "\n" for row in zip(*columns))


def read_scores(path: str | os.PathLike) -> tuple[Trials, np.ndarray]:
    """Read what `write_scores` wrote.

    Returns:
        ``(trials, scores)``: the pairs, with labels where the file has them, and (n_trials,) float32.

    Raises:
        SpkverError: naming file and line: a wrong number of columns, a score that is no finite number, an
            unknown label, labels on some lines only; or an empty or unreadable file.
    """
    enroll, test, scores, labels, lines = [], [], [], [], []
    width = None
    for line, columns in table_rows(path):
        width = width or len(columns)
        if len(columns) not in (3, 4) or len(columns) != width:
            expected = f"{width} as on the lines before" if lines else "'enroll test score [target|nontarget]'"
            raise SpkverError(f"{path}:{line}: {len(columns)} columns; expected {expected}")
        if width == 4:
            if columns[3] not in LABEL_OF_WORD:
                raise SpkverError(f"{path}:{line}: unknown label '{columns[3]}'; expected target or nontarget")
            labels.append(LABEL_OF_WORD[columns[3]])
        enroll.append(columns[0])
        test.append(columns[1])
        lines.append(line)
        try:
            scores.append(float(columns[2]))
        except ValueError:
            raise SpkverError(f"{path}:{line}: the score '{columns[2]}' is not a number") from None
    known = np.array(labels, dtype=np.int8) if width == 4 else None
    trials = Trials(enroll, test, known, path, np.array(lines, dtype=np.int64))
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named below
        found = np.array(scores).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise SpkverError(f"{trials.where(bad[0])}: the score {scores[bad[0]]} is not a finite float32 number")
    return trials, found
