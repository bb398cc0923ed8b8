"""Score files of other toolkits, matched to a trial list by names, or by order where they hold scores alone.

Known forms, told apart by looking which columns hold names of the trial list, labels and numbers:

- ``enroll test score``, with a label before or behind (Kaldi, WeSpeaker, 3D-Speaker, SpeechBrain, this house);
- ``score enroll test`` (VoxSRC's submissions);
- ``enroll*test score``, with a label behind (ESPnet);
- ``score`` alone, or with a label: in the order of the trial list;
- a ``.csv`` or ``.tsv`` table with a header that names ``enroll``, ``test`` and ``score``.

Notable: names must agree to the letter, base names are not guessed. A pair that has two different scores is refused,
as is a trial without a score; scores of pairs that are not in the list are counted and left out.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spkver.errors import SpkverError
from spkver.scoring.scores import finite_score
from spkver.scoring.text_tables import Block, Irregular, line_number, read_blocks, table_rows
from spkver.scoring.trial_table import is_table, read_trial_table
from spkver.scoring.trials import Trials

_LABEL_WORDS = {"0", "1", "target", "nontarget"}


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


def match_scores(path: str | os.PathLike, trials: Trials) -> Matched:
    """Read a score file of any known form and bring it into the order of a trial list.

    Raises:
        SpkverError: naming file and line: no form fits, a score is no finite number, a trial has no score or two,
            or the counts differ where order alone tells.
    """
    enroll, test, scores = _read(path, trials)
    if enroll is None:
        if len(scores) != len(trials):
            raise SpkverError(
                f"{path}: {len(scores)} scores without names, but {len(trials)} trials in {trials.path}; "
                "a file of scores alone must follow the list line by line"
            )
        return Matched(scores, "order", 0, 0)
    return _by_names(path, trials, enroll, test, scores)


def _by_names(
    path: str | os.PathLike, trials: Trials, enroll: np.ndarray, test: np.ndarray, scores: np.ndarray
) -> Matched:
    """Join on the pair, as one number."""
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
        a, b = divmod(int(keys[differing[0]]), n_names)
        pair = f"'{trials.names[a].as_py()}' and '{trials.names[b].as_py()}'"
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
    asked = np.isin(keys, wanted)
    return Matched(scores[line_of[place]], "names", len(again), int((~known).sum() + (~asked).sum()))


def _read(path: str | os.PathLike, trials: Trials) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """Each line's positions among the list's names (-1: not there; None where there are no names), and its score."""
    if is_table(path):
        table = read_trial_table(path)
        if table.scores is None:
            raise SpkverError(f"{path}:1: no column 'score' in the header")
        return _find(table.enroll, trials), _find(table.test, trials), table.scores
    try:
        blocks = list(read_blocks(path))
        if len({len(block.columns) for block in blocks}) > 1:
            raise Irregular
    except Irregular:
        raise SpkverError(_complaint(path)) from None
    roles = _roles(path, blocks[0], trials)
    parts = [_part(path, block, roles, trials) for block in blocks]
    enroll, test, scores = zip(*parts)
    joined = [None if side[0] is None else np.concatenate(side) for side in (enroll, test)]
    return *joined, np.concatenate(scores)


class _Roles(NamedTuple):
    """Which column is what."""

    ids: Sequence[int]  # two columns, one of pairs joined by a star, or none
    score: int


def _roles(path: str | os.PathLike, block: Block, trials: Trials) -> _Roles:
    """Tell the columns of a file apart by its first block."""
    columns = range(len(block.columns))
    words = [block.columns[column].dictionary for column in columns]
    named = [c for c in columns if pc.any(pc.is_in(words[c], trials.names)).as_py()]
    starred = [c for c in columns if c not in named and pc.all(pc.match_substring(words[c], "*")).as_py()]
    labels = [c for c in columns if c not in named and set(words[c][:3].to_pylist()) <= _LABEL_WORDS]
    rest = [c for c in columns if c not in {*named, *starred} and _numeric(words[c][0].as_py())]
    # A file whose scores are all 0 or 1 has no other number.
    numbers = [c for c in rest if c not in labels] or rest
    if len(numbers) == 1 and (len(named), len(starred)) in ((2, 0), (0, 1), (0, 0)):
        others = [c for c in columns if c not in {*named, *starred, *numbers}]
        if len(others) <= 1 and set(others) <= set(labels):
            return _Roles(named or starred, numbers[0])
    first = " ".join(word[0].as_py() for word in words)
    if len(named) < 2 and len(columns) >= 3:
        advice = f"its names are not those of {trials.path}, such as '{trials.names[0].as_py()}'"
    else:
        advice = "expected 'enroll test score', 'score enroll test', 'enroll*test score' or a score alone"
    raise SpkverError(f"{path}:1: cannot tell names and score apart in '{first}'; {advice}")


def _numeric(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _part(
    path: str | os.PathLike, block: Block, roles: _Roles, trials: Trials
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    column = block.columns[roles.score]
    try:
        scores = pc.cast(column.dictionary, pa.float32()).to_numpy()[column.indices.to_numpy()]
    except pa.ArrowInvalid:
        scores = np.array([np.nan])
    if not np.isfinite(scores).all():
        raise SpkverError(_bad_score(path, roles.score))
    if not roles.ids:
        return None, None, scores
    if len(roles.ids) == 2:
        return *(_find(block.columns[column], trials) for column in roles.ids), scores
    pairs = block.columns[roles.ids[0]]
    sides = pc.split_pattern(pairs.dictionary, "*", max_splits=1)
    index = pairs.indices.to_numpy()
    return *(_positions(pc.list_element(sides, side), trials)[index] for side in (0, 1)), scores


def _find(column: pa.DictionaryArray, trials: Trials) -> np.ndarray:
    return _positions(column.dictionary, trials)[column.indices.to_numpy()]


def _positions(names: pa.Array, trials: Trials) -> np.ndarray:
    return pc.fill_null(pc.index_in(names, value_set=trials.names), -1).to_numpy().astype(np.int64)


def _bad_score(path: str | os.PathLike, column: int) -> str:
    """The complaint about the first score that is no finite number."""
    for line, columns in table_rows(path):
        try:
            finite_score(columns[column], f"{path}:{line}")
        except SpkverError as error:
            return str(error)
    return f"{path}: a score is not a finite float32 number"


def _complaint(path: str | os.PathLike) -> str:
    """The complaint about a file whose lines differ in width."""
    width = None
    for line, columns in table_rows(path):
        width = width or len(columns)
        if len(columns) != width:
            return f"{path}:{line}: {len(columns)} columns; expected {width} as on the lines before"
    return f"{path}: is no table of one width"


def _line(path: str | os.PathLike, entry: int) -> str:
    return f"{path}:{entry + 2 if is_table(path) else line_number(path, int(entry))}"
