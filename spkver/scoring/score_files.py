"""The file in which scores pass between stages: ``enroll test score [target|nontarget]``, one trial a line.

- Scores are written with the fewest digits that give the same float32 back.
- A long list is scored block by block into a file beside the final one. Stopped at any moment, the same
  command goes on behind the last whole block, and the file has the same bytes as if nothing had happened.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from spkver.data.label_words import LABEL_OF_WORD
from spkver.data.lookup import Rows, check_ids
from spkver.data.text_tables import BLOCK_BYTES, Block, Irregular, joined_lines, read_blocks, table_rows
from spkver.data.trials import Trials, joined, labels_of, look_up, read_trial_blocks, refuse_contradictions
from spkver.errors import SpkverError
from spkver.files import atomic_write, locked, write_json, writing

_WRITTEN_AT_ONCE = 1 << 18


def write_scores(path: str | os.PathLike[str], trials: Trials, scores: np.ndarray) -> None:
    """Write ``enroll test score [target|nontarget]``, one trial a line, in the order of the trials.

    Args:
        path: the file; whole or not at all.
        trials: n_trials pairs; their labels are written where known.
        scores: (n_trials,), kept as float32.

    Raises:
        SpkverError: there are no trials, a score is NaN or infinite (the message names the trial), or a name
            cannot be written.
        ValueError: the number of scores is not that of the trials.
    """
    if not len(trials):
        raise SpkverError(f"{path}: there are no scores to write")
    check_ids(trials.names.to_pylist(), lambda _: path)
    scores = _checked(trials, scores)
    with atomic_write(path, "wb") as file:
        for start in range(0, len(trials), _WRITTEN_AT_ONCE):
            file.write(_lines(trials, scores, slice(start, start + _WRITTEN_AT_ONCE)))


def score_list(
    path: str | os.PathLike[str],
    trial_list: str | os.PathLike[str],
    rows: tuple[Rows, Rows],
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    fingerprint: dict,
    block_bytes: int = BLOCK_BYTES,
) -> int:
    """Score a trial list of any length into a file, which appears when it is whole.

    Args:
        path: the score file.
        trial_list: read block by block.
        rows: where the enrolment's and the test's names are looked up; the same one twice as a rule.
        score: (enroll_index, test_index) -> (n_trials,) scores. A trial's score must not depend on the others.
        fingerprint: what the scores depend on, as JSON holds it. A file that was left unfinished is gone on
            with where this and the list are the same, otherwise begun anew.
        block_bytes: of the list at a time; the file has the same bytes for any value.

    Returns:
        The number of trials.

    Raises:
        SpkverError: as `read_trials` and `look_up`, or a score is NaN or infinite; each names the trial's line. Or
            another process is scoring to this file.
    """
    path = Path(path)
    with locked(path.with_name(f".{path.name}.lock"), f"scoring to {path.name}"):
        return _score_list(path, trial_list, rows, score, fingerprint, block_bytes)


def _score_list(
    path: Path,
    trial_list: str | os.PathLike[str],
    rows: tuple[Rows, Rows],
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    fingerprint: dict,
    block_bytes: int,
) -> int:
    unfinished = _Unfinished(path, {"trials": file_fingerprint(trial_list), **fingerprint})
    start, n_done = unfinished.begin()
    with (
        writing(path),
        unfinished.text.open("r+b") as out,
        tqdm(
            total=Path(trial_list).stat().st_size,
            initial=start,
            desc=f"scoring {Path(trial_list).name}",
            unit="B",
            unit_scale=True,
            disable=None,
            leave=False,
        ) as bar,
    ):
        out.seek(0, os.SEEK_END)
        try:
            for trials, end in read_trial_blocks(trial_list, start, n_done, block_bytes):
                scores = _checked(trials, score(*look_up(trials, *rows)))
                out.write(_lines(trials, scores))
                n_done += len(trials)
                unfinished.note(out, end, n_done)
                bar.update(end - start)
                start = end
        except SpkverError:
            unfinished.remove()
            raise
        os.fsync(out.fileno())
    unfinished.finish()
    return n_done


def read_scores(path: str | os.PathLike[str]) -> tuple[Trials, np.ndarray]:
    """Read what `write_scores` wrote.

    Returns:
        ``(trials, scores)``: the pairs, with labels where the file has them, and (n_trials,) float32.

    Raises:
        SpkverError: naming file and line: a wrong number of columns, a score that is no finite number, an
            unknown label, labels on some lines only, a pair with both labels; or an empty or unreadable file.
    """
    width = len(next(table_rows(path))[1])
    if width not in (3, 4):
        return _read_line_by_line(path)
    try:
        blocks = [_scored(block, path, width) for block in read_blocks(path, numbers=(2,))]
    except Irregular:
        return _read_line_by_line(path)
    trials = joined([trials for trials, _ in blocks])
    refuse_contradictions(trials)
    return trials, np.concatenate([scores for _, scores in blocks])


def file_fingerprint(path: str | os.PathLike[str]) -> dict:
    """What tells that a file is still the same: its absolute path, size and time of change."""
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise SpkverError(f"{path}: cannot be read ({error.strerror})") from None
    return {"path": str(path.absolute()), "bytes": status.st_size, "changed": status.st_mtime_ns}


class _Unfinished:
    """A score file on its way: the text so far, and how far the trial list is done."""

    def __init__(self, path: Path, fingerprint: dict) -> None:
        self.path = path
        self.text = path.with_name(f".{path.name}.unfinished")
        self.state = path.with_name(f".{path.name}.unfinished.json")
        self.fingerprint = fingerprint

    def begin(self) -> tuple[int, int]:
        """The offset in the trial list to go on from, and the number of trials before it."""
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            places = [state[name] for name in ("read", "written", "n_trials")]
            known = state["fingerprint"] == self.fingerprint and all(type(n) is int and n >= 0 for n in places)
            known = known and self.text.stat().st_size >= state["written"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            known = False
        if not known:
            self.state.unlink(missing_ok=True)
            with writing(self.text):
                self.text.write_bytes(b"")
            return 0, 0
        os.truncate(self.text, state["written"])
        return state["read"], state["n_trials"]

    def note(self, out, read: int, n_trials: int) -> None:
        """Keep what is done; the text reaches the disk before the note that says so."""
        out.flush()
        state = {"fingerprint": self.fingerprint, "read": read, "written": out.tell(), "n_trials": n_trials}
        write_json(self.state, state)

    def remove(self) -> None:
        self.state.unlink(missing_ok=True)
        self.text.unlink(missing_ok=True)

    def finish(self) -> None:
        os.replace(self.text, self.path)
        self.state.unlink(missing_ok=True)


def _checked(trials: Trials, scores: np.ndarray) -> np.ndarray:
    """Scores as float32, one for each trial and finite."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite, and is named below
        scores = np.asarray(scores).astype(np.float32, copy=False)
    if scores.shape != (len(trials),):
        raise ValueError(f"scores have shape {scores.shape}, there are {len(trials)} trials")
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        enroll, test = trials.pair(bad[0])
        where = f"{trials.where(bad[0])}: the score of '{enroll}' and '{test}'"
        raise SpkverError(f"{where} is {scores[bad[0]]}; look at their embeddings")
    return scores


def _lines(trials: Trials, scores: np.ndarray, part: slice = slice(None)) -> pa.Buffer:
    written = pc.cast(pa.array(scores[part]), pa.string())
    return joined_lines(*trials.columns(part), written, *trials.label_words(part))


def _scored(block: Block, path: str | os.PathLike[str], width: int) -> tuple[Trials, np.ndarray]:
    """The trials and scores of a block; Irregular where something is not as it should be."""
    scores = block.columns[2].to_numpy() if len(block.columns) == width else np.array([np.nan])
    if not np.isfinite(scores).all():
        raise Irregular
    labels = labels_of(block, 3, LABEL_OF_WORD) if width == 4 else None
    enroll, test = block.columns[:2]
    return Trials.of_columns(enroll, test, labels, path, 0), scores


def _read_line_by_line(path: str | os.PathLike[str]) -> tuple[Trials, np.ndarray]:
    """The same, or the complaint about the first line that cannot be read."""
    enroll, test, scores, labels = [], [], [], []
    width = None
    for line, columns in table_rows(path):
        if len(columns) not in (3, 4) or len(columns) != (width or len(columns)):
            expected = f"{width} as on the lines before" if width else "'enroll test score [target|nontarget]'"
            raise SpkverError(f"{path}:{line}: {len(columns)} columns; expected {expected}")
        width = len(columns)
        if width == 4 and columns[3] not in LABEL_OF_WORD:
            raise SpkverError(f"{path}:{line}: unknown label '{columns[3]}'; expected target or nontarget")
        labels += [LABEL_OF_WORD[word] for word in columns[3:]]
        enroll.append(columns[0])
        test.append(columns[1])
        scores.append(finite_score(columns[2], f"{path}:{line}"))
    trials = Trials.of(enroll, test, labels or None, path)
    refuse_contradictions(trials)
    return trials, np.array(scores, np.float32)


def finite_score(text: str, where: str) -> float:
    """A score from its text.

    Raises:
        SpkverError: it is no number, or none that float32 holds; ``where`` begins the message.
    """
    try:
        score = float(text)
    except ValueError:
        raise SpkverError(f"{where}: the score '{text}' is not a number") from None
    with np.errstate(over="ignore"):
        if not np.isfinite(np.float32(score)):
            raise SpkverError(f"{where}: the score {score} is not a finite float32 number")
    return score
