"""Utterance ids and rows: what makes them valid, and which id has which row."""

import os
import re
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from spkver.errors import SpkverError

# Some form or other could not give these back: npz drops a NUL at the end, a text file its first byte order mark,
# and a surrogate (a file name that is not UTF-8) has no UTF-8 form.
_LOST = re.compile("[\0\ufeff\ud800-\udfff]")


class Rows:
    """Which row each utterance has, to look names up in.

    Names must agree to the letter: guessing by file name is how one utterance gets scored as another.

    Args:
        utts: N utterance ids.
        source: the file that they came from, for messages.

    Raises:
        SpkverError: as `check_ids`.
    """

    def __init__(self, utts: Sequence[str], source: str | os.PathLike[str]) -> None:
        check_ids(utts, lambda _: source)
        self._utts = pa.array(utts, pa.string())
        self.source = source

    def find(self, names: pa.Array) -> np.ndarray:
        """The row of each name, int64; -1 where it has none."""
        return pc.fill_null(pc.index_in(names, value_set=self._utts), -1).to_numpy().astype(np.int64)

    def find_names(self, names: Sequence[str]) -> np.ndarray:
        """The same of a few names."""
        return self.find(pa.array(names, pa.string()))


def check_ids(ids: Sequence[str], where: Callable[[int], object]) -> None:
    """Refuse ids that a list cannot hold, and ids that are there twice.

    Args:
        ids: of utterances, or of what else stands in the columns of a list.
        where: gives the place of each, by its position, for the message.

    Raises:
        SpkverError: naming the place of the id; of one that is there twice both places, where they differ.
    """
    text = " ".join(ids)
    if text.split() != list(ids) or _LOST.search(text):  # all in one look: there may be millions
        index, name = next((i, name) for i, name in enumerate(ids) if name.split() != [name] or _LOST.search(name))
        problem = "is empty or holds white space, NUL, a byte order mark or what is not UTF-8"
        raise SpkverError(f"{where(index)}: the id {name!r} {problem}; rename it")
    if len(set(ids)) == len(ids):
        return
    first: dict[str, int] = {}
    index, name = next((i, name) for i, name in enumerate(ids) if first.setdefault(name, i) != i)
    place, before = where(index), where(first[name])
    first_at = "" if before == place else f", first at {before}"
    raise SpkverError(f"{place}: the id '{name}' is there twice{first_at}; ids must be unique")


def check_index(name: str, index: ArrayLike, n_rows: int) -> np.ndarray:
    """``index`` as an array, after a look at all of it: a negative one would silently count from the end.

    Raises:
        ValueError: it is not (n_trials,) integers in 0 .. n_rows - 1; the message begins with ``name``.
    """
    index = np.asarray(index)
    if index.ndim != 1 or (index.size and index.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be (n_trials,) integers, got {index.dtype} {index.shape}")
    if index.size and not 0 <= index.min() <= index.max() < n_rows:
        at = np.flatnonzero((index < 0) | (index >= n_rows))[0]
        raise ValueError(f"{name} must lie in 0 .. {n_rows - 1}, found {index[at]} at trial {at}")
    return index


def check_sides(
    enroll_index: ArrayLike, test_index: ArrayLike, n_enroll: int, n_test: int
) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of trials as arrays.

    Raises:
        ValueError: as `check_index`, or they differ in length.
    """
    enroll = check_index("enroll_index", enroll_index, n_enroll)
    test = check_index("test_index", test_index, n_test)
    if len(enroll) != len(test):
        raise ValueError(f"enroll_index has {len(enroll)} trials, test_index has {len(test)}")
    return enroll, test
