"""Score files of other toolkits, matched to a trial list by names, or by order where they hold scores alone.

Known forms, told apart by looking which columns hold names of the trial list, labels and numbers:

- ``enroll test score``, with a label before or behind (Kaldi, WeSpeaker, 3D-Speaker, SpeechBrain, `spkver score`);
- ``score enroll test`` (VoxSRC's submissions);
- ``enroll*test score``, with a label behind (ESPnet);
- ``score`` alone, or with a label: in the order of the trial list;
- a ``.csv`` or ``.tsv`` table with a header that names ``enroll``, ``test`` and ``score``.

- Names must agree to the letter, base names are not guessed. A pair that has two different scores is refused, as is
  a trial without a score; scores of pairs that are not in the list are counted and left out.
- Where ids are numbers, scores and labels look like them: the two columns whose pairs are in the trial list are ids.
- Labels of the score file must be those of the list.
"""

import os
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.data.label_words import LABEL_OF_DIGIT, LABEL_OF_WORD, WORD_OF_LABEL
from spkver.data.text_tables import Block, Irregular, line_number, read_blocks, table_rows
from spkver.data.trial_table import is_table, read_trial_table
from spkver.data.trials import Trials, labels_of
from spkver.errors import SpkverError
from spkver.scoring.score_files import finite_score

_LABELS = LABEL_OF_WORD | LABEL_OF_DIGIT
_LINES_LOOKED_AT = 1000


class Matched(NamedTuple):
    """Scores in the order of a trial list, and what was noticed on the way."""

    scores: np.ndarray  # (n_trials,) float32
    by: str  # "names" or "order"
    twice: int  # pairs that the score file holds more than once, with the same score
    left_out: int  # scores of pairs that the list does not ask for

    def report(self) -> str:
        """What was noticed, in words."""
        said = [f"{len(self.scores)} scores matched by {self.by}"]
        said += [f"{self.twice} pairs are there twice, with the same score"] if self.twice else []
        said += [f"{self.left_out} scores of pairs that are not in the list are left out"] if self.left_out else []
        return "; ".join(said)


def match_scores(path: str | os.PathLike[str], trials: Trials) -> Matched:
    """Read a score file of any known form and bring it into the order of a trial list.

    Raises:
        SpkverError: naming file and line: no form fits, a score is no finite number, a trial has no score or two,
            a label is not the list's, or the counts differ where order alone tells.
    """
    found = _read(path, trials)
    if found.enroll is not None and found.test is not None:
        return _by_names(path, trials, found.enroll, found.test, found.scores, found.labels)
    if len(found.scores) != len(trials):
        raise SpkverError(
            f"{path}: {len(found.scores)} scores without names, but {len(trials)} trials in {trials.path}; "
            "a file of scores alone must follow the list line by line"
        )
    _check_labels(path, trials, found.labels, np.arange(len(trials)))
    return Matched(found.scores, "order", 0, 0)


class _Entries(NamedTuple):
    """The lines of a score file, each (n_lines,)."""

    enroll: np.ndarray | None  # positions among the list's names, -1: not there; None where there are no names
    test: np.ndarray | None
    scores: np.ndarray
    labels: np.ndarray | None


def _by_names(
    path: str | os.PathLike[str],
    trials: Trials,
    enroll: np.ndarray,
    test: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray | None,
) -> Matched:
    """Join on the pair, as one number; of the lines of a score file as in `_Entries`."""
    n_names = len(trials.names)
    known = (enroll >= 0) & (test >= 0)
    line_of = np.flatnonzero(known)
    keys = enroll[known].astype(np.int64) * n_names + test[known]
    order = np.argsort(keys, kind="stable")
    keys, line_of = keys[order], line_of[order]
    again = np.flatnonzero(keys[1:] == keys[:-1]) + 1
    differing = again[scores[line_of[again]] != scores[line_of[again - 1]]]
    if differing.size:
        first, second = line_of[differing[0] - 1], line_of[differing[0]]
        pair = " and ".join(f"'{trials.names[i].as_py()}'" for i in divmod(int(keys[differing[0]]), n_names))
        raise SpkverError(
            f"{_line(path, second)}: {pair} have the score {scores[second]:g}, but {scores[first]:g} on line "
            f"{line_number(path, int(first)) if not is_table(path) else first + 2}; which one is right?"
        )
    wanted = trials.enroll_index.astype(np.int64) * n_names + trials.test_index
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    missing = np.flatnonzero(keys[place] != wanted) if len(keys) else np.arange(len(wanted))
    if missing.size:
        first = int(missing[0])
        a, b = trials.pair(first)
        swapped = int(trials.test_index[first]) * n_names + int(trials.enroll_index[first])
        hint = " (the file has it the other way round)" if len(keys) and np.isin(swapped, keys) else ""
        raise SpkverError(
            f"{trials.where(first)}: no score of '{a}' and '{b}' in {path}{hint}; "
            f"{missing.size} of {len(trials)} trials have none"
        )
    _check_labels(path, trials, labels, line_of[place])
    asked = np.isin(keys, wanted)
    return Matched(
        scores[line_of[place]], "names", len(again), int(np.count_nonzero(~known) + np.count_nonzero(~asked))
    )


def _check_labels(path: str | os.PathLike[str], trials: Trials, labels: np.ndarray | None, entries: np.ndarray) -> None:
    """Refuse labels of a score file that are not those of the list; ``entries``: (n_trials,) a line of each trial."""
    if labels is None or trials.labels is None:
        return
    differing = np.flatnonzero(labels[entries] != trials.labels)
    if differing.size == len(trials):
        raise SpkverError(
            f"{path}: every label is the opposite of that in {trials.path}; 1 and target mean the same speaker: "
            "turn the labels of one of them round"
        )
    if differing.size:
        first = int(differing[0])
        here, there = (WORD_OF_LABEL[label] for label in (labels[entries[first]], trials.labels[first]))
        a, b = trials.pair(first)
        raise SpkverError(
            f"{_line(path, int(entries[first]))}: '{a}' and '{b}' are {here} here, but {there} on "
            f"{trials.where(first)}; {differing.size} of {len(trials)} labels differ"
        )


def _read(path: str | os.PathLike[str], trials: Trials) -> _Entries:
    if is_table(path):
        table = read_trial_table(path)
        if table.scores is None:
            raise SpkverError(f"{path}:1: no column 'score' in the header")
        return _Entries(_find(table.enroll, trials), _find(table.test, trials), table.scores, table.labels)
    try:
        blocks = list(read_blocks(path))
        if len({len(block.columns) for block in blocks}) > 1:
            raise Irregular
    except Irregular:
        raise SpkverError(_complaint(path)) from None
    roles = _roles(path, blocks[0], trials)
    parts = [_part(path, block, roles, trials) for block in blocks]
    return _Entries(
        _joined([part.enroll for part in parts]),
        _joined([part.test for part in parts]),
        np.concatenate([part.scores for part in parts]),
        _joined([part.labels for part in parts]),
    )


def _joined(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """A column of all blocks, which have it alike."""
    there = [column for column in columns if column is not None]
    return np.concatenate(there) if there else None


class _Roles(NamedTuple):
    """Which column is what."""

    ids: Sequence[int]  # two columns, one of pairs joined by a star, or none
    score: int
    label: int | None


def _roles(path: str | os.PathLike[str], block: Block, trials: Trials) -> _Roles:
    """Tell the columns of a file apart by its first block."""
    columns = range(len(block.columns))
    words = [block.columns[column].dictionary for column in columns]
    named = [c for c in columns if pc.any(pc.is_in(words[c], trials.names)).as_py()] if len(words) > 2 else []
    if len(named) > 2:
        named = _columns_of_pairs(block, named, trials)
    starred = [c for c in columns if c not in named and pc.all(pc.match_substring(words[c], "*")).as_py()]
    named = [] if starred else named  # a label of 0 or 1 may be an id as well
    labels = [c for c in columns if c not in named and set(words[c][:3].to_pylist()) <= set(_LABELS)]
    rest = [c for c in columns if c not in {*named, *starred} and _numeric(words[c][0].as_py())]
    # A file whose scores are all 0 or 1 has no other number.
    numbers = [c for c in rest if c not in labels] or rest
    if len(numbers) == 1 and (len(named), len(starred)) in ((2, 0), (0, 1), (0, 0)):
        others = [c for c in columns if c not in {*named, *starred, *numbers}]
        if len(others) <= 1 and set(others) <= set(labels):
            return _Roles(named or starred, numbers[0], others[0] if others else None)
    first = " ".join(block.columns[column][0].as_py() for column in columns)
    if len(named) < 2 and len(columns) >= 3:
        advice = f"its names are not those of {trials.path}, such as '{trials.names[0].as_py()}'"
    else:
        advice = (
            "expected 'enroll test score', 'score enroll test', 'enroll*test score' or a score alone, "
            "with a label before or behind"
        )
    raise SpkverError(f"{path}:1: cannot tell names and score apart in '{first}'; {advice}")


def _numeric(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _columns_of_pairs(block: Block, named: Sequence[int], trials: Trials) -> list[int]:
    """Of several columns that hold ids of the list, the two with the most pairs of it; none where two have as many."""
    n_names = len(trials.names)
    asked = trials.enroll_index.astype(np.int64) * n_names + trials.test_index
    found = {c: _find(block.columns[c][:_LINES_LOOKED_AT], trials) for c in named}
    hits = {}
    for a, b in combinations(named, 2):
        pairs = np.where((found[a] >= 0) & (found[b] >= 0), found[a] * n_names + found[b], -1)
        # Each pair once: a label beside one of the ids makes few pairs, which may be trials by chance.
        hits[a, b] = np.count_nonzero(np.isin(np.unique(pairs), asked))
    best = max(hits.values())
    winners = [pair for pair, count in hits.items() if count == best]
    return list(winners[0]) if len(winners) == 1 else []


def _part(path: str | os.PathLike[str], block: Block, roles: _Roles, trials: Trials) -> _Entries:
    column = block.columns[roles.score]
    try:
        scores = pc.cast(column.dictionary, pa.float32()).to_numpy()[column.indices.to_numpy()]
    except pa.ArrowInvalid:
        scores = np.array([np.nan])
    if not np.isfinite(scores).all():
        raise SpkverError(_bad_score(path, roles.score))
    labels = None
    if roles.label is not None:
        try:
            labels = labels_of(block, roles.label, _LABELS)
        except Irregular:
            raise SpkverError(_bad_label(path, roles.label)) from None
    if not roles.ids:
        return _Entries(None, None, scores, labels)
    if len(roles.ids) == 2:
        enroll, test = (_find(block.columns[column], trials) for column in roles.ids)
        return _Entries(enroll, test, scores, labels)
    pairs = block.columns[roles.ids[0]]
    sides = pc.split_pattern(pairs.dictionary, "*", max_splits=1)
    index = pairs.indices.to_numpy()
    enroll, test = (_positions(pc.list_element(sides, side), trials)[index] for side in (0, 1))
    return _Entries(enroll, test, scores, labels)


def _find(column: pa.DictionaryArray, trials: Trials) -> np.ndarray:
    return _positions(column.dictionary, trials)[column.indices.to_numpy()]


def _positions(names: pa.Array, trials: Trials) -> np.ndarray:
    return pc.fill_null(pc.index_in(names, value_set=trials.names), -1).to_numpy().astype(np.int64)


def _bad_score(path: str | os.PathLike[str], column: int) -> str:
    """The complaint about the first score that is no finite number."""
    for line, columns in table_rows(path):
        try:
            finite_score(columns[column], f"{path}:{line}")
        except SpkverError as error:
            return str(error)
    return f"{path}: a score is not a finite float32 number"


def _bad_label(path: str | os.PathLike[str], column: int) -> str:
    """The complaint about the first label that is none."""
    line, word = next((line, columns[column]) for line, columns in table_rows(path) if columns[column] not in _LABELS)
    return f"{path}:{line}: unknown label '{word}'; expected target or nontarget, or 1 or 0"


def _complaint(path: str | os.PathLike[str]) -> str:
    """The complaint about a file whose lines differ in width."""
    width = None
    for line, columns in table_rows(path):
        width = width or len(columns)
        if len(columns) != width:
            return f"{path}:{line}: {len(columns)} columns; expected {width} as on the lines before"
    return f"{path}: is no table of one width"


def _line(path: str | os.PathLike[str], entry: int) -> str:
    return f"{path}:{entry + 2 if is_table(path) else line_number(path, int(entry))}"
