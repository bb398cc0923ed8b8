"""Utterance ids: what makes them valid, and finding them."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.data.names import is_utf8
from spkver.errors import SpkverError


class Rows:
    """Which row each utterance has, to look names up in.

    Names must agree to the letter: guessing by file name is how one utterance gets scored as another.

    Args:
        utts: N utterance ids.
        source: the file that they came from, for messages.

    Raises:
        SpkverError: an id is there twice.
    """

    def __init__(self, utts: Sequence[str], source: str | os.PathLike) -> None:
        check_no_duplicates(source, utts)
        self._utts = pa.array(utts, pa.string())
        self.source = source

    def find(self, names: pa.Array) -> np.ndarray:
        """The row of each name, int64; -1 where it has none."""
        return pc.fill_null(pc.index_in(names, value_set=self._utts), -1).to_numpy().astype(np.int64)

    def find_names(self, names: Sequence[str]) -> np.ndarray:
        """The same of a few names."""
        return self.find(pa.array(names, pa.string()))


def check_names(path: str | os.PathLike, names: Sequence[str]) -> None:
    """Refuse a name that a table of columns cannot hold.

    Raises:
        SpkverError: a name is empty, holds white space or is not UTF-8; ``path`` is the file it was meant for.
    """
    for name in names:
        if name.split() != [name]:
            raise SpkverError(f"{path}: the id {name!r} is empty or holds white space; rename the utterance")
        if not is_utf8(name):
            raise SpkverError(f"{path}: the id {name!r} is not UTF-8; rename the utterance")


def check_no_duplicates(source: str | os.PathLike, utts: Sequence[str]) -> None:
    """Refuse an utterance id that is given twice.

    Raises:
        SpkverError: naming ``source`` and an id that is there twice.
    """
    if len(set(utts)) < len(utts):
        twice = Counter(utts).most_common(1)[0][0]
        raise SpkverError(f"{source}: the id '{twice}' is there twice; ids must be unique")
