"""Score files: read back to the bit, whole or not at all, and the same however often scoring was stopped."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spkver.data.lookup import Rows
from spkver.data.trials import Trials, read_trial_blocks, read_trials, write_trials
from spkver.errors import SpkverError
from spkver.scoring.score_files import read_scores, score_list, write_scores


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    scores=hnp.arrays(
        np.float32, st.integers(1, 30), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    )
)
def test_every_finite_float32_is_read_back_to_the_bit(tmp_path, scores):
    names = [f"u{n}" for n in range(len(scores))]
    write_scores(tmp_path / "scores", Trials.of(names, names[::-1], np.arange(len(names)) % 2), scores)
    trials, again = read_scores(tmp_path / "scores")
    assert again.dtype == np.float32
    assert again.tobytes() == scores.tobytes()
    assert (trials.enroll, trials.test) == (names, names[::-1])
    assert trials.labels.tolist() == [n % 2 for n in range(len(names))]


def test_the_score_file_is_enroll_test_score_label(tmp_path):
    path = tmp_path / "scores"
    write_scores(path, Trials.of(["a", "b"], ["c", "d"], [1, 0]), np.array([0.25, -1e-9]))
    assert path.read_text() == "a c 0.25 target\nb d -1e-9 nontarget\n"
    write_scores(path, Trials.of(["a"], ["c"]), np.array([0.1]))
    assert path.read_text() == "a c 0.1\n"
    assert read_scores(path)[0].labels is None


def test_a_score_that_is_nan_names_its_trial_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores"
    (tmp_path / "trials").write_text("\n\na c\n\n\n\nb d\n")
    trials = read_trials(tmp_path / "trials")
    write_scores(path, trials, np.array([0, 1]))
    with pytest.raises(SpkverError, match=r"/trials:7: the score of 'b' and 'd' is nan"):
        write_scores(path, trials, np.array([0, np.nan]))
    with pytest.raises(ValueError, match=r"scores have shape \(1,\), there are 2 trials"):
        write_scores(path, trials, np.array([0]))
    with pytest.raises(SpkverError, match="no scores to write"):
        write_scores(path, Trials.of([], []), np.array([]))
    assert path.read_text() == "a c 0\nb d 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b 0.5\r\n\r\na b x\r\n", "scores:3: the score 'x' is not a number"),
        ("a b nan\n", "scores:1: the score nan is not a finite"),
        ("a b -inf\n", "scores:1: the score -inf is not a finite"),
        ("a b 1e39\n", "scores:1: the score 1e+39 is not a finite"),
        ("a b 0.5 target\na b 0.5\n", "scores:2: 3 columns; expected 4 as on the lines before"),
        ("a b\n", "scores:1: 2 columns; expected 'enroll test score"),
        ("a b 0.5 1\n", "scores:1: unknown label '1'"),
        ("", "scores: the list is empty"),
    ],
)
def test_a_bad_line_of_a_score_file_is_named(tmp_path, text, message):
    path = tmp_path / "scores"
    path.write_bytes(text.encode())
    with pytest.raises(SpkverError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


# Long lists, scored block by block.

UTTS = [f"speaker{n % 7}/utt{n:03d}.wav" for n in range(40)]


def long_list(path, n=5000):
    enroll, test = np.random.default_rng(3).integers(len(UTTS), size=(2, n))
    write_trials(path, Trials(UTTS, enroll, test, (enroll % 7 == test % 7).astype(np.int8)))


def score(enroll, test):
    return np.sin(enroll * 41.0 + test)


def rows():
    found = Rows(UTTS, "utts")
    return found, found


def own_rows(trials):
    own = np.array([UTTS.index(name) for name in trials.names.to_pylist()])
    return own[trials.enroll_index], own[trials.test_index]


@pytest.mark.parametrize("block_bytes", [300, 5000, 1 << 24])
def test_the_file_has_the_same_bytes_for_any_size_of_block(tmp_path, block_bytes):
    long_list(tmp_path / "trials")
    trials = read_trials(tmp_path / "trials")
    write_scores(tmp_path / "whole", trials, score(*own_rows(trials)))
    assert score_list(tmp_path / "out", tmp_path / "trials", rows(), score, {}, block_bytes=block_bytes) == 5000
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "trials", "whole"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    pairs=st.lists(st.tuples(st.sampled_from("abcdé"), st.sampled_from("abcdé"), st.booleans()), min_size=1),
    newline=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
    block_bytes=st.integers(1, 40),
)
def test_blocks_of_any_size_hold_the_same_trials(tmp_path, pairs, newline, block_bytes):
    text = newline.join(f"{a} {b} {'target' if same else 'nontarget'}" for a, b, same in pairs)
    (tmp_path / "trials").write_bytes(text.encode())
    size = (tmp_path / "trials").stat().st_size
    found, first = [], 0
    for trials, end in read_trial_blocks(tmp_path / "trials", block_bytes=block_bytes):
        assert trials.first == first
        assert end <= size
        first += len(trials)
        found += zip(trials.enroll, trials.test, (trials.labels == 1).tolist())
    assert found == pairs


SLOW = """
import sys, time
sys.path.insert(0, {tests!r})
from test_score_files import *
def slow(enroll, test):
    time.sleep(0.02)
    return score(enroll, test)
score_list({out!r}, {trials!r}, rows(), slow, {{"model": 1}}, block_bytes=4000)
"""


def killed_half_way(tmp_path):
    """A list of which some blocks are scored by a process that was killed; how many trials they hold."""
    long_list(tmp_path / "trials")
    tests = str(Path(__file__).parent)
    code = SLOW.format(tests=tests, out=str(tmp_path / "out"), trials=str(tmp_path / "trials"))
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    state = tmp_path / ".out.unfinished.json"
    for _ in range(3000):
        time.sleep(0.01)
        if state.exists() and json.loads(state.read_text())["n_trials"] > 200:
            break
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    return json.loads(state.read_text())["n_trials"]


def test_a_list_whose_scoring_was_killed_is_gone_on_with_and_has_the_same_bytes(tmp_path):
    done = killed_half_way(tmp_path)
    with (tmp_path / ".out.unfinished").open("ab") as file:
        file.write(b"half a li")  # what a killed process may leave behind the last whole block
    scored = []

    def counted(enroll, test):
        scored.append(len(enroll))
        return score(enroll, test)

    assert score_list(tmp_path / "out", tmp_path / "trials", rows(), counted, {"model": 1}) == 5000
    assert 0 < sum(scored) == 5000 - done < 5000
    score_list(tmp_path / "at once", tmp_path / "trials", rows(), score, {})
    assert (tmp_path / "out").read_bytes() == (tmp_path / "at once").read_bytes()


@pytest.mark.parametrize("changed", ["model", "list"])
def test_scores_of_another_model_or_list_are_not_gone_on_with(tmp_path, changed):
    killed_half_way(tmp_path)
    if changed == "list":
        long_list(tmp_path / "trials", 6000)
    n = score_list(tmp_path / "out", tmp_path / "trials", rows(), lambda e, t: -score(e, t), {"model": 2})
    trials, scores = read_scores(tmp_path / "out")
    assert n == len(trials) == (6000 if changed == "list" else 5000)
    assert (scores == -score(*own_rows(trials)).astype(np.float32)).all()


@pytest.mark.parametrize(
    ("last_line", "message"),
    [
        ("speaker0/utt000.wav nobody target", "trials:5001: 'nobody' is in no line of utts"),
        ("speaker0/utt000.wav speaker0/utt000.wav same", "trials:5001: unknown label in 'same'"),
        ("speaker0/utt000.wav", "trials:5001: 1 columns"),
    ],
)
def test_a_fault_at_the_end_of_a_long_list_is_named_and_nothing_is_left_behind(tmp_path, last_line, message):
    long_list(tmp_path / "trials")
    with (tmp_path / "trials").open("a") as file:
        file.write(last_line + "\n")
    with pytest.raises(SpkverError) as caught:
        score_list(tmp_path / "out", tmp_path / "trials", rows(), score, {}, block_bytes=4000)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
    assert [path.name for path in tmp_path.iterdir()] == ["trials"]


def test_a_score_that_is_not_finite_in_a_late_block_names_its_line(tmp_path):
    long_list(tmp_path / "trials")
    seen = []

    def bad(enroll, test):
        seen.append(len(enroll))
        scores = score(enroll, test)
        if sum(seen) > 3000:
            scores[0] = np.inf
        return scores

    with pytest.raises(SpkverError, match=r"the score of 'speaker.*' and 'speaker.*' is inf") as caught:
        score_list(tmp_path / "out", tmp_path / "trials", rows(), bad, {}, block_bytes=4000)
    assert f"trials:{sum(seen[:-1]) + 1}: " in str(caught.value)


SCORE_SLOWLY = """
import sys, time
import numpy as np
from spkver.data.lookup import Rows
from spkver.scoring.score_files import score_list
rows = Rows(["a", "b"], "utts")
def score(enroll, test):
    print("scores", flush=True)
    time.sleep(60)
    return np.zeros(len(enroll), np.float32)
score_list(sys.argv[1], sys.argv[2], (rows, rows), score, {})
"""


def test_a_second_process_that_scores_to_the_same_file_is_refused(tmp_path):
    trials, out = tmp_path / "trials", tmp_path / "scores" / "trials-cosine"
    trials.write_text("a b target\n")
    rows = Rows(["a", "b"], "utts")
    first = subprocess.Popen([sys.executable, "-c", SCORE_SLOWLY, out, trials], stdout=subprocess.PIPE, text=True)
    try:
        first.stdout.readline()
        with pytest.raises(SpkverError, match=f"scoring to trials-cosine is under way .*process {first.pid} "):
            score_list(out, trials, (rows, rows), lambda enroll, test: np.ones(len(enroll), np.float32), {})
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert score_list(out, trials, (rows, rows), lambda enroll, test: np.ones(len(enroll), np.float32), {}) == 1
    assert os.listdir(out.parent) == ["trials-cosine"]
