"""Trial lists: which pairs of utterances are compared, and which of them are the same speaker.

Notable:
- Both common forms are read: VoxCeleb's ``1|0 enroll test`` and Kaldi's ``enroll test target|nontarget``,
  the latter also without label. Each line is checked against the form of the file, so that a list
  glued together from two sources is refused rather than half misread.
- A third column ``target`` or ``nontarget`` means Kaldi's form whatever the first column holds,
  because ``0`` and ``1`` are lawful utterance ids.
- A ``.csv`` or ``.tsv`` file is a table with a header (`spkver.scoring.trial_table`).
- A trial is two numbers into the distinct names: 10^8 trials are a gigabyte, and names are looked up by a hash
  join. Longer lists are read block by block.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.errors import SpkverError
from spkver.scoring.lookup import check_names
from spkver.scoring.text_tables import (
    BLOCK_BYTES,
    Block,
    Irregular,
    joined_lines,
    line_number,
    read_blocks,
    table_rows,
)
from spkver.scoring.trial_table import is_table, read_trial_table
from spkver.whole_file import whole_file

LABEL_OF_WORD = {"nontarget": 0, "target": 1}
WORD_OF_LABEL = ("nontarget", "target")

_VOXCELEB = "VoxCeleb's '1|0 enroll test'"
_KALDI = "Kaldi's 'enroll test target|nontarget'"
_UNLABELLED = "two columns 'enroll test'"

_WRITTEN_AT_ONCE = 1 << 18


@dataclass(eq=False)
class Trials:
    """Pairs of utterances to compare.

    Attributes:
        names: the utterance ids that occur (a Sequence of strings becomes an Arrow array).
        enroll_index: (n_trials,) integers, the enrolment's position among ``names``.
        test_index: (n_trials,) likewise of the test.
        labels: (n_trials,) int8, 1 = target (same speaker), 0 = nontarget; None where unknown.
        path: the file they were read from; None for trials made in memory.
        first: how many trials of that file come before these.

    Raises:
        ValueError: the columns differ in length, an index is out of range, or a label is neither 0 nor 1.
    """

    names: pa.Array
    enroll_index: np.ndarray
    test_index: np.ndarray
    labels: np.ndarray | None = None
    path: str | os.PathLike | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.names, pa.Array):
            self.names = pa.array(self.names, pa.string())
        self.enroll_index, self.test_index = np.asarray(self.enroll_index), np.asarray(self.test_index)
        for index in (self.enroll_index, self.test_index):
            if index.size and not 0 <= index.min() <= index.max() < len(self.names):
                raise ValueError(
                    f"indices must lie in 0 .. {len(self.names) - 1}, found {index.min()} .. {index.max()}"
                )
        if len(self.enroll_index) != len(self.test_index):
            raise ValueError(f"enroll has {len(self.enroll_index)} names, test has {len(self.test_index)}")
        if self.labels is None:
            return
        labels = np.asarray(self.labels)
        if labels.shape != (len(self),):
            raise ValueError(f"labels have shape {labels.shape}, there are {len(self)} trials")
        if not ((labels == 0) | (labels == 1)).all():
            raise ValueError("labels must be 0 (nontarget) or 1 (target)")
        self.labels = labels.astype(np.int8, copy=False)

    @classmethod
    def of(
        cls,
        enroll: Sequence[str],
        test: Sequence[str],
        labels: np.ndarray | None = None,
        path: str | os.PathLike | None = None,
    ) -> "Trials":
        """Trials from the names of each side."""
        names, (enroll_index, test_index) = _numbered([pa.array(enroll, pa.string()), pa.array(test, pa.string())])
        return cls(names, enroll_index, test_index, labels, path)

    @classmethod
    def of_columns(
        cls,
        enroll: pa.DictionaryArray,
        test: pa.DictionaryArray,
        labels: np.ndarray | None,
        path: str | os.PathLike,
        first: int,
    ) -> "Trials":
        """Trials from two columns of a block of a table."""
        names, numbers = _numbered([enroll.dictionary, test.dictionary])
        return cls(names, *(n[c.indices.to_numpy()] for n, c in zip(numbers, (enroll, test))), labels, path, first)

    @property
    def enroll(self) -> list[str]:
        """n_trials names; for short lists and messages."""
        return self.names.take(pa.array(self.enroll_index)).to_pylist()

    @property
    def test(self) -> list[str]:
        """n_trials names; for short lists and messages."""
        return self.names.take(pa.array(self.test_index)).to_pylist()

    def __len__(self) -> int:
        return len(self.enroll_index)

    def pair(self, index: int) -> tuple[str, str]:
        """The names of one trial."""
        return self.names[self.enroll_index[index]].as_py(), self.names[self.test_index[index]].as_py()

    def where(self, index: int) -> str:
        """The place of a trial as messages name it: ``file:line``, or its number where there is no file."""
        number = self.first + int(index)
        if self.path is None:
            return f"trial {number + 1}"
        return f"{self.path}:{number + 2 if is_table(self.path) else line_number(self.path, number)}"

    def columns(self, part: slice = slice(None)) -> tuple[pa.Array, pa.Array]:
        """Both sides' names of some trials, as Arrow arrays."""
        return tuple(self.names.take(pa.array(index[part])) for index in (self.enroll_index, self.test_index))

    def label_words(self, part: slice = slice(None)) -> list[pa.Array]:
        """A list of one array of ``target`` and ``nontarget``, an empty one where labels are unknown."""
        return [] if self.labels is None else [pa.array(WORD_OF_LABEL).take(pa.array(self.labels[part]))]


def read_trials(path: str | os.PathLike) -> Trials:
    """Read a trial list in VoxCeleb's or Kaldi's form (see the module's docstring).

    Raises:
        SpkverError: naming file and line: a wrong number of columns, an unknown label, forms that are mixed,
            an id that may as well be a label; or an empty or unreadable file.
    """
    return joined([trials for trials, _ in read_trial_blocks(path)])


def read_trial_blocks(
    path: str | os.PathLike, start: int = 0, first: int = 0, block_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[Trials, int]]:
    """Read a trial list piece by piece, for lists longer than memory.

    Args:
        path: the list.
        start: the offset to begin at, one that an earlier call yielded.
        first: how many trials lie before it.
        block_bytes: about as many bytes at a time; the trials are the same for any value.

    Yields:
        ``(trials, end)``: the trials of a block, and the offset of the first byte behind them.

    Raises:
        SpkverError: as `read_trials`.
    """
    if is_table(path):
        table = read_trial_table(path)
        yield Trials.of_columns(table.enroll, table.test, table.labels, path, 0), Path(path).stat().st_size
        return
    form = _form(next(table_rows(path))[1])
    try:
        for block in read_blocks(path, start, block_bytes=block_bytes):
            trials = _trials_of(block, form, path, first)
            yield trials, block.end
            first += len(trials)
    except Irregular:
        yield _read_line_by_line(path, first), Path(path).stat().st_size


def joined(parts: Sequence[Trials]) -> Trials:
    """Consecutive blocks as one list."""
    if len(parts) == 1:
        return parts[0]
    names, numbers = _numbered([part.names for part in parts])
    enroll, test = (
        np.concatenate([number[getattr(part, side)] for number, part in zip(numbers, parts)])
        for side in ("enroll_index", "test_index")
    )
    labels = None if parts[0].labels is None else np.concatenate([part.labels for part in parts])
    return Trials(names, enroll, test, labels, parts[0].path, parts[0].first)


def _numbered(lists: Sequence[pa.Array]) -> tuple[pa.Array, list[np.ndarray]]:
    """The distinct strings of some lists, and for each list the numbers of its strings among them."""
    encoded = pa.concat_arrays(lists).dictionary_encode()
    ends = np.cumsum([len(part) for part in lists])[:-1]
    return encoded.dictionary, np.split(encoded.indices.to_numpy(), ends)


def _trials_of(block: Block, form: str | None, path: str | os.PathLike, first: int) -> Trials:
    """The trials of a block of a list in this form; Irregular where a line may be in another one."""
    if form is None or len(block.columns) != (2 if form == _UNLABELLED else 3):
        raise Irregular
    ids = block.columns[1:] if form == _VOXCELEB else block.columns[:2]
    if form == _KALDI:
        return Trials.of_columns(*ids, labels_of(block, 2, LABEL_OF_WORD), path, first)
    # A word for a label where an id belongs; ids that may as well be labels.
    if pc.any(pc.is_in(ids[1].dictionary, pa.array(WORD_OF_LABEL))).as_py():
        raise Irregular
    if form == _VOXCELEB:
        return Trials.of_columns(*ids, labels_of(block, 0, {"0": 0, "1": 1}), path, first)
    if first == 0 and set(ids[0].dictionary.to_pylist()) <= {"0", "1"}:
        raise Irregular
    return Trials.of_columns(*ids, None, path, first)


def labels_of(block: Block, column: int, label_of_word: dict[str, int]) -> np.ndarray:
    """A column's labels, (n_lines,) int8; Irregular where a word is unknown."""
    words, index = block.text(column)
    if not set(words) <= set(label_of_word):
        raise Irregular
    return np.array([label_of_word[word] for word in words], np.int8)[index]


def _read_line_by_line(path: str | os.PathLike, first: int) -> Trials:
    """The trials from number ``first`` on, or the complaint about the first line that is not lawful."""
    enroll, test, labels, form = [], [], [], None
    for line, columns in table_rows(path):
        line_form = _form(columns)
        form = form or line_form
        if line_form is None or line_form != form:
            raise SpkverError(f"{path}:{line}: {_complaint(columns, line_form, form)}")
        if form == _VOXCELEB:
            labels.append(columns[0] == "1")
            columns = columns[1:]
        elif form == _KALDI:
            labels.append(columns[2] == "target")
        enroll.append(columns[0])
        test.append(columns[1])
    if form == _UNLABELLED and set(enroll) <= {"0", "1"}:
        problem = "two columns, the first of every line 0 or 1: labels or ids? Add the third column"
        raise SpkverError(f"{path}:{line_number(path, 0)}: {problem}")
    trials = Trials.of(enroll[first:], test[first:], labels[first:] or None, path)
    trials.first = first
    return trials


def _form(columns: list[str]) -> str | None:
    """The form that one line is written in; None where it is in none."""
    if len(columns) == 2:
        return None if columns[1] in LABEL_OF_WORD else _UNLABELLED
    if len(columns) != 3:
        return None
    if columns[2] in LABEL_OF_WORD:
        return _KALDI
    return _VOXCELEB if columns[0] in ("0", "1") else None


def _complaint(columns: list[str], line_form: str | None, file_form: str | None) -> str:
    """What is wrong with a line that has no form, or another one than its file."""
    if len(columns) not in (2, 3):
        return f"{len(columns)} columns; expected 'enroll test', {_KALDI} or {_VOXCELEB}"
    if line_form is None and len(columns) == 2:
        return f"a label '{columns[1]}' but only one id; expected {_KALDI}"
    if line_form is None:
        label = {_VOXCELEB: columns[0], _KALDI: columns[2]}.get(file_form, " ".join(columns))
        return f"unknown label in '{label}'; expected {file_form or f'{_KALDI} or {_VOXCELEB}'}"
    if line_form == _KALDI and file_form == _VOXCELEB and columns[0] in ("0", "1"):
        return f"ambiguous: is '{columns[0]}' the label or '{columns[2]}'? Rename utterance '{columns[2]}'"
    return f"{line_form}, but the lines before are in {file_form}; a list keeps to one form"


def write_trials(path: str | os.PathLike, trials: Trials) -> None:
    """Write Kaldi's form, which no id can make ambiguous; two columns where labels are unknown.

    Raises:
        SpkverError: there are no trials, or a name is empty or holds white space and could not be read back.
    """
    if not len(trials):
        raise SpkverError(f"{path}: there are no trials to write")
    check_names(path, trials.names.to_pylist())
    with whole_file(path, "wb") as file:
        for start in range(0, len(trials), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            file.write(joined_lines(*trials.columns(part), *trials.label_words(part)))
