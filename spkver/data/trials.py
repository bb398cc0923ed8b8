"""Trial lists: which pairs of utterances are compared, and which of them are the same speaker.

- The common forms are read: VoxCeleb's ``1|0 enroll test``, CN-Celeb's ``enroll test 1|0`` and Kaldi's
  ``enroll test target|nontarget`` (or ``tgt|imp``), the last also without label. Each line is checked against the
  form of the file, so that a list glued together from two sources is refused rather than half misread.
- A third column ``target`` or ``nontarget`` means Kaldi's form whatever the first column holds, because ``0`` and
  ``1`` may be utterance ids. Where the first and the third column are 0 or 1, other lines tell which is the label.
- A pair that is target on one line and nontarget on another is refused.
- A ``.csv`` or ``.tsv`` file is a table with a header (`spkver.data.trial_table`).
- A trial is two numbers into the distinct names: 10^8 trials are a gigabyte, and names are looked up by a hash
  join. Longer lists are read block by block.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.data.label_words import LABEL_OF_DIGIT, LABEL_OF_WORD, WORD_OF_LABEL
from spkver.data.lookup import Rows, check_ids, check_sides
from spkver.data.text_tables import (
    BLOCK_BYTES,
    Block,
    Irregular,
    joined_lines,
    line_number,
    read_blocks,
    table_rows,
)
from spkver.data.trial_table import is_table, read_trial_table
from spkver.errors import SpkverError
from spkver.files import atomic_write


class _Form(NamedTuple):
    """How the lines of a list are written."""

    name: str
    ids: tuple[int, int]  # the columns of both ids
    label: int | None  # the column of the label
    label_of_word: dict[str, int]

    def label_word(self, columns: list[str]) -> str | None:
        """The word that a line has for a label; None where the form has no labels."""
        return None if self.label is None else columns[self.label]


_VOXCELEB = _Form("VoxCeleb's '1|0 enroll test'", (1, 2), 0, LABEL_OF_DIGIT)
_CNCELEB = _Form("CN-Celeb's 'enroll test 1|0'", (0, 1), 2, LABEL_OF_DIGIT)
_KALDI = _Form("Kaldi's 'enroll test target|nontarget'", (0, 1), 2, LABEL_OF_WORD)
_UNLABELLED = _Form("two columns 'enroll test'", (0, 1), None, {})
_EXPECTED = f"{_KALDI.name}, {_CNCELEB.name} or {_VOXCELEB.name}"

_COMPARED_AT_ONCE = 1 << 24
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
    path: str | os.PathLike[str] | None = None
    first: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.names, pa.Array):
            self.names = pa.array(self.names, pa.string())
        n_names = len(self.names)
        self.enroll_index, self.test_index = check_sides(self.enroll_index, self.test_index, n_names, n_names)
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
        labels: Sequence[int] | np.ndarray | None = None,
        path: str | os.PathLike[str] | None = None,
    ) -> "Trials":
        """Trials from the names of each side."""
        labels = None if labels is None else np.asarray(labels)
        names, (enroll_index, test_index) = _numbered([pa.array(enroll, pa.string()), pa.array(test, pa.string())])
        return cls(names, enroll_index, test_index, labels, path)

    @classmethod
    def of_columns(
        cls,
        enroll: pa.DictionaryArray,
        test: pa.DictionaryArray,
        labels: np.ndarray | None,
        path: str | os.PathLike[str],
        first: int,
    ) -> "Trials":
        """Trials from two columns of a block of a table."""
        names, (of_enroll, of_test) = _numbered([enroll.dictionary, test.dictionary])
        enroll_index, test_index = of_enroll[enroll.indices.to_numpy()], of_test[test.indices.to_numpy()]
        return cls(names, enroll_index, test_index, labels, path, first)

    @property
    def known_labels(self) -> np.ndarray:
        """``labels`` of trials that were made with them.

        Raises:
            ValueError: they are unknown.
        """
        if self.labels is None:
            raise ValueError("the labels of these trials are unknown")
        return self.labels

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


def read_trials(path: str | os.PathLike[str]) -> Trials:
    """Read a trial list in one of the forms of the module's docstring.

    Raises:
        SpkverError: naming file and line: a wrong number of columns, an unknown label, forms that are mixed,
            an id that may as well be a label, a pair with both labels; or an empty or unreadable file.
    """
    trials = joined([trials for trials, _ in read_trial_blocks(path)])
    refuse_contradictions(trials)
    return trials


def read_trial_blocks(
    path: str | os.PathLike[str], start: int = 0, first: int = 0, block_bytes: int = BLOCK_BYTES
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
        SpkverError: as `read_trials`, but for pairs with both labels.
    """
    if is_table(path):
        table = read_trial_table(path)
        yield Trials.of_columns(table.enroll, table.test, table.labels, path, 0), Path(path).stat().st_size
        return
    form = _form_of_file(path)
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


def refuse_contradictions(trials: Trials) -> None:
    """Refuse a list in which a pair is a target and a nontarget trial.

    Raises:
        SpkverError: naming both lines.
    """
    if trials.labels is None:
        return
    n_parts = -(-len(trials) // _COMPARED_AT_ONCE)  # by the enrolment's name, to bound the memory
    for part in range(n_parts):
        chosen = slice(None) if n_parts == 1 else trials.enroll_index % n_parts == part
        pairs = trials.enroll_index[chosen].astype(np.int64) * len(trials.names) + trials.test_index[chosen]
        pairs *= 2
        pairs += trials.labels[chosen]
        pairs.sort()
        both = np.flatnonzero((pairs[1:] % 2 == 1) & (pairs[1:] - pairs[:-1] == 1))
        if both.size:
            enroll, test = divmod(int(pairs[both[0]]) // 2, len(trials.names))
            raise SpkverError(_contradiction(trials, trials.labels, enroll, test))


def _contradiction(trials: Trials, labels: np.ndarray, enroll: int, test: int) -> str:
    """The complaint about a pair with both labels, which names the line of the first of each."""
    places = np.flatnonzero((trials.enroll_index == enroll) & (trials.test_index == test))
    first, second = sorted(int(places[np.argmax(labels[places] == label)]) for label in (0, 1))
    a, b = trials.pair(first)
    there, here = (WORD_OF_LABEL[labels[index]] for index in (first, second))
    line = trials.where(first).rpartition(":")[2].removeprefix("trial ")
    return (
        f"{trials.where(second)}: '{a}' and '{b}' are a {here} trial, but a {there} trial on line {line}; which is it?"
    )


def _numbered(lists: Sequence[pa.Array]) -> tuple[pa.Array, list[np.ndarray]]:
    """The distinct strings of some lists, and for each list the numbers of its strings among them."""
    encoded = pa.concat_arrays(lists).dictionary_encode()
    ends = np.cumsum([len(part) for part in lists])[:-1]
    return encoded.dictionary, np.split(encoded.indices.to_numpy(), ends)


def _trials_of(block: Block, form: _Form | None, path: str | os.PathLike[str], first: int) -> Trials:
    """The trials of a block of a list in this form; Irregular where a line may be in another one."""
    if form is None or len(block.columns) != (2 if form is _UNLABELLED else 3):
        raise Irregular
    enroll, test = (block.columns[column] for column in form.ids)
    # A word for a label where an id belongs; ids that may as well be labels.
    if form in (_VOXCELEB, _UNLABELLED) and pc.any(pc.is_in(test.dictionary, pa.array(LABEL_OF_WORD))).as_py():
        raise Irregular
    if form is _UNLABELLED and first == 0 and set(enroll.dictionary.to_pylist()) <= {"0", "1"}:
        raise Irregular
    labels = None if form.label is None else labels_of(block, form.label, form.label_of_word)
    return Trials.of_columns(enroll, test, labels, path, first)


def labels_of(block: Block, column: int, label_of_word: dict[str, int]) -> np.ndarray:
    """A column's labels, (n_lines,) int8; Irregular where a word is unknown."""
    words, index = block.text(column)
    if not set(words) <= set(label_of_word):
        raise Irregular
    return np.array([label_of_word[word] for word in words], np.int8)[index]


def _read_line_by_line(path: str | os.PathLike[str], first: int) -> Trials:
    """The trials from number ``first`` on, or the complaint about the first line that cannot be read."""
    form = _form_of_file(path)
    enroll, test, labels = [], [], []
    for line, columns in table_rows(path):
        forms = _forms(columns)
        if form not in forms and (form is not None or not forms):
            raise SpkverError(f"{path}:{line}: {_complaint(columns, forms, form)}")
        if form is None:  # a line in two forms, before the one in none
            continue
        labels += [form.label_of_word[columns[form.label]]] if form.label is not None else []
        enroll.append(columns[form.ids[0]])
        test.append(columns[form.ids[1]])
    if form is _UNLABELLED and set(enroll) <= {"0", "1"}:
        problem = "two columns, the first of every line 0 or 1: labels or ids? Add the third column"
        raise SpkverError(f"{path}:{line_number(path, 0)}: {problem}")
    trials = Trials.of(enroll[first:], test[first:], labels[first:] or None, path)
    trials.first = first
    return trials


def _form_of_file(path: str | os.PathLike[str]) -> _Form | None:
    """The form of the first line that is in one form only; None where that line is in none.

    Raises:
        SpkverError: every line begins and ends with 0 or 1.
    """
    for _, columns in table_rows(path):
        forms = _forms(columns)
        if len(forms) < 2:
            return forms[0] if forms else None
    line = line_number(path, 0)
    raise SpkverError(
        f"{path}:{line}: is the label the first or the last column? Every line begins and ends with 0 or 1; "
        f"write {_KALDI.name}"
    )


def _forms(columns: list[str]) -> list[_Form]:
    """The forms that one line can be in."""
    if len(columns) == 2:
        return [] if columns[1] in LABEL_OF_WORD else [_UNLABELLED]
    if len(columns) != 3:
        return []
    if columns[2] in LABEL_OF_WORD:
        return [_KALDI]
    return [form for form in (_VOXCELEB, _CNCELEB) if form.label_word(columns) in LABEL_OF_DIGIT]


def _complaint(columns: list[str], forms: list[_Form], file_form: _Form | None) -> str:
    """What is wrong with a line that is in no form, or in another one than its file."""
    if len(columns) not in (2, 3):
        return f"{len(columns)} columns; expected 'enroll test', {_EXPECTED}"
    if not forms and len(columns) == 2:
        return f"a label '{columns[1]}' but only one id; expected {_KALDI.name}"
    if file_form is None:  # then the line is in no form, too
        return f"unknown label in '{' '.join(columns)}'; expected {_EXPECTED}"
    if not forms:
        return f"unknown label in '{file_form.label_word(columns) or ' '.join(columns)}'; expected {file_form.name}"
    if forms == [_KALDI] and file_form is _VOXCELEB and columns[0] in LABEL_OF_DIGIT:
        return f"ambiguous: is '{columns[0]}' the label or '{columns[2]}'? Rename utterance '{columns[2]}'"
    return f"{forms[0].name}, but the lines before are in {file_form.name}; a list keeps to one form"


def write_trials(path: str | os.PathLike[str], trials: Trials) -> None:
    """Write Kaldi's form, which no id can make ambiguous; two columns where labels are unknown.

    Raises:
        SpkverError: there are no trials, or a name is empty or holds white space and could not be read back.
    """
    if not len(trials):
        raise SpkverError(f"{path}: there are no trials to write")
    check_ids(trials.names.to_pylist(), lambda _: path)
    with atomic_write(path, "wb") as file:
        for start in range(0, len(trials), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            file.write(joined_lines(*trials.columns(part), *trials.label_words(part)))


def look_up(trials: Trials, enroll: Rows, test: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Both sides of trials as rows, each (n_trials,) int64; the two `Rows` are the same one as a rule.

    Raises:
        SpkverError: a name is in no line of the source; the message has the trial's line.
    """
    of_name = enroll.find(trials.names)
    enroll_index = of_name[trials.enroll_index]
    test_index = (of_name if test is enroll else test.find(trials.names))[trials.test_index]
    unknown = np.flatnonzero((enroll_index < 0) | (test_index < 0))
    if unknown.size:
        first = int(unknown[0])
        side = 0 if enroll_index[first] < 0 else 1
        name, source = trials.pair(first)[side], (enroll, test)[side].source
        raise SpkverError(f"{trials.where(first)}: '{name}' is in no line of {source}")
    return enroll_index, test_index


def map_trials(trials: Trials, utts: Sequence[str], source: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Look up every name of a trial list among utterance ids; see `look_up`."""
    rows = Rows(utts, source)
    return look_up(trials, rows, rows)
