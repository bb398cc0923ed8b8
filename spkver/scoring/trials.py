"""Trial lists: which pairs of utterances are compared, and which of them are the same speaker.

Notable:
- Both common forms are read: VoxCeleb's ``1|0 enroll test`` and Kaldi's ``enroll test target|nontarget``,
  the latter also without label. Each line is checked against the form of the file, so that a list
  glued together from two sources is refused rather than half misread.
- A third column ``target`` or ``nontarget`` means Kaldi's form whatever the first column holds,
  because ``0`` and ``1`` are lawful utterance ids.
- New lists are drawn by the rank of a pair, so 100,000 utterances (5e9 pairs) need no enumeration.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spkver.errors import SpkverError
from spkver.whole_file import whole_file

LABEL_OF_WORD = {"nontarget": 0, "target": 1}
WORD_OF_LABEL = ("nontarget", "target")

_VOXCELEB = "VoxCeleb's '1|0 enroll test'"
_KALDI = "Kaldi's 'enroll test target|nontarget'"
_UNLABELLED = "two columns 'enroll test'"

# More pairs than this are a mistake rather than a wish: the list would be gigabytes of text.
_MOST_PAIRS = 50_000_000


@dataclass(eq=False)
class Trials:
    """Pairs of utterances to compare.

    Attributes:
        enroll: n_trials utterance ids.
        test: n_trials utterance ids.
        labels: (n_trials,) int8, 1 = target (same speaker), 0 = nontarget; None where unknown.
        path: the file they were read from; None for trials made in memory.
        lines: (n_trials,) int64, the line of each trial in that file; None likewise.

    Raises:
        ValueError: the columns differ in length, or a label is neither 0 nor 1.
    """

    enroll: list[str]
    test: list[str]
    labels: np.ndarray | None = None
    path: str | os.PathLike | None = None
    lines: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.enroll) != len(self.test):
            raise ValueError(f"enroll has {len(self.enroll)} names, test has {len(self.test)}")
        if self.labels is None:
            return
        labels = np.asarray(self.labels)
        if labels.shape != (len(self.enroll),):
            raise ValueError(f"labels have shape {labels.shape}, there are {len(self.enroll)} trials")
        if not np.isin(labels, (0, 1)).all():
            raise ValueError("labels must be 0 (nontarget) or 1 (target)")
        self.labels = labels.astype(np.int8)

    def __len__(self) -> int:
        return len(self.enroll)

    def where(self, index: int) -> str:
        """The place of a trial as messages name it: ``file:line``, or its number where there is no file."""
        return f"trial {index + 1}" if self.lines is None else f"{self.path}:{self.lines[index]}"


def table_rows(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line number, columns)`` for each line of a text table that is not blank.

    UTF-8 with or without byte order mark, LF or CRLF, columns parted by any white space.

    Raises:
        SpkverError: the file cannot be read, is not UTF-8, or has no line that is not blank.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpkverError(f"{path}:{line}: not UTF-8; convert the file (iconv -t UTF-8)") from None
    if not text.strip():
        raise SpkverError(f"{path}: the list is empty")
    # Not splitlines(): that also breaks at form feeds, and line numbers would differ from an editor's.
    for line, row in enumerate(text.split("\n"), start=1):
        if columns := row.split():
            yield line, columns


def read_trials(path: str | os.PathLike) -> Trials:
    """Read a trial list in VoxCeleb's or Kaldi's form (see the module's docstring).

    Raises:
        SpkverError: naming file and line: a wrong number of columns, an unknown label, forms that are mixed,
            an id that may as well be a label; or an empty or unreadable file.
    """
    enroll, test, labels, lines = [], [], [], []
    form = None
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
        lines.append(line)
    if form == _UNLABELLED and set(enroll) <= {"0", "1"}:
        problem = "two columns, the first of every line 0 or 1: labels or ids? Add the third column"
        raise SpkverError(f"{path}:{lines[0]}: {problem}")
    known = None if form == _UNLABELLED else np.array(labels, dtype=np.int8)
    return Trials(enroll, test, known, path, np.array(lines, dtype=np.int64))


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
    check_names(path, trials.enroll)
    check_names(path, trials.test)
    columns = [trials.enroll, trials.test]
    if trials.labels is not None:
        columns.append([WORD_OF_LABEL[label] for label in trials.labels.tolist()])
    with whole_file(path) as file:
        file.writelines(" ".join(row) + "\n" for row in zip(*columns))


def check_names(path: str | os.PathLike, names: Sequence[str]) -> None:
    """Refuse a name that a table of columns cannot hold.

    Raises:
        SpkverError: a name is empty or holds white space; ``path`` is the file it was meant for.
    """
    for name in set(names):
        if name.split() != [name]:
            raise SpkverError(f"{path}: the id {name!r} is empty or holds white space; rename the utterance")


def map_trials(trials: Trials, utts: Sequence[str], source: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Look up every name of a trial list among utterance ids.

    Names must agree to the letter: guessing by file name is how one utterance gets scored as another.

    Args:
        trials: the list.
        utts: N utterance ids.
        source: the file that they came from, for the message.

    Returns:
        ``(enroll_index, test_index)``, each (n_trials,) int64 into ``utts``.

    Raises:
        SpkverError: a name is in no line of ``source``, or an id is there twice.
    """
    index_of = {utt: index for index, utt in enumerate(utts)}
    check_no_duplicates(source, utts)
    enroll = np.array([index_of.get(name, -1) for name in trials.enroll], dtype=np.int64)
    test = np.array([index_of.get(name, -1) for name in trials.test], dtype=np.int64)
    unknown = np.flatnonzero((enroll < 0) | (test < 0))
    if unknown.size:
        first = int(unknown[0])
        name = trials.enroll[first] if enroll[first] < 0 else trials.test[first]
        raise SpkverError(f"{trials.where(first)}: '{name}' is in no line of {source}")
    return enroll, test


def check_no_duplicates(source: str | os.PathLike, utts: Sequence[str]) -> None:
    """Refuse an utterance id that is given twice.

    Raises:
        SpkverError: naming ``source`` and an id that is there twice.
    """
    if len(set(utts)) < len(utts):
        twice = Counter(utts).most_common(1)[0][0]
        raise SpkverError(f"{source}: the id '{twice}' is there twice; ids must be unique")


def make_trials(
    utts: Sequence[str],
    speakers: Sequence[str],
    seed: int,
    max_targets: int | None = None,
    max_nontargets: int | None = None,
    genders: dict[str, str] | None = None,
) -> Trials:
    """Draw a trial list: pairs without order, none twice, no utterance with itself; targets come first.

    Args:
        utts: N utterance ids.
        speakers: the speaker of each.
        seed: of the draw; the same arguments give the same list.
        max_targets: draw at most so many target pairs, evenly among all of them; None takes all.
        max_nontargets: likewise. Give it for a large corpus: nontarget pairs grow with N squared.
        genders: speaker -> gender. Nontargets whose genders are known to differ are left out;
            a speaker whose gender is not given is paired with all.

    Raises:
        SpkverError: no speaker has two utterances, or no nontarget pair exists.
        ValueError: lengths differ, an id is there twice, a limit is below 1, or no limit is set and the pairs
            are more than 50 million.
    """
    if len(set(utts)) != len(utts) or len(utts) != len(speakers):
        raise ValueError(f"{len(utts)} utts ({len(set(utts))} of them distinct), {len(speakers)} speakers")
    names, speaker = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    known = {name: gender for name, gender in (genders or {}).items() if gender}
    code_of = {gender: code for code, gender in enumerate(sorted(set(known.values())))}
    unknown = len(code_of)
    gender = np.array([code_of.get(known.get(name), unknown) for name in names.tolist()], dtype=np.int64)

    # Sorted by gender (unknown last), then speaker, the partners of each utterance that come after it are
    # stretches of positions: its speaker's rest, its gender's rest, and those of unknown gender.
    order = np.lexsort((speaker, gender[speaker]))
    speaker_end = _block_ends(speaker[order])
    gender_end = _block_ends(gender[speaker[order]])
    at = np.arange(len(utts))
    n_known = int((gender[speaker] != unknown).sum())
    first = np.concatenate([at, at[:n_known]])
    start = np.concatenate([speaker_end, np.full(n_known, n_known)])
    stop = np.concatenate([gender_end, np.full(n_known, len(utts))])

    rng = np.random.default_rng(seed)
    targets = _draw_pairs(rng, (at, at + 1, speaker_end), max_targets, "max_targets")
    nontargets = _draw_pairs(rng, (first, start, stop), max_nontargets, "max_nontargets")
    if not len(targets[0]):
        raise SpkverError("no target trial can be made: no speaker has two utterances; add utterances")
    if not len(nontargets[0]):
        raise SpkverError("no nontarget trial can be made: no two speakers can be paired; add speakers")
    pairs = np.sort(order[np.concatenate([targets, nontargets], axis=1)], axis=0)
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [len(targets[0]), len(nontargets[0])])
    enroll, test = ([utts[index] for index in side] for side in pairs.tolist())
    return Trials(enroll, test, labels)


def _block_ends(codes: np.ndarray) -> np.ndarray:
    """For each position of a grouped array, the position where its block of equal codes ends."""
    ends = np.append(np.flatnonzero(np.diff(codes)) + 1, len(codes))
    return np.repeat(ends, np.diff(ends, prepend=0))


def _draw_pairs(
    rng: np.random.Generator, partners: tuple[np.ndarray, ...], limit: int | None, limit_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs ``(first[i], j)``, start[i] <= j < stop[i], without replacement; all of them if no limit."""
    first, start, stop = partners
    if limit is not None and limit < 1:
        raise ValueError(f"{limit_name} is {limit}; it must be at least 1, or None for all pairs")
    ends = np.cumsum(stop - start)
    total = int(ends[-1]) if len(ends) else 0
    if limit is None and total > _MOST_PAIRS:
        raise ValueError(f"{limit_name} is None, which asks for {total:,} pairs; set it")
    if limit is None or limit >= total:
        ranks = np.arange(total)
    else:
        ranks = np.sort(rng.choice(total, limit, replace=False, shuffle=False))
    row = np.searchsorted(ends, ranks, side="right")
    return first[row], stop[row] - (ends[row] - ranks)
