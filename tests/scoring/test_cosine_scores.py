"""Cosine scores agree with scipy and do not depend on chunks; the score file gives every float32 back."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import cosine

from spkver.errors import SpkverError
from spkver.scoring.cosine import cosine_scores, read_scores, unit_rows, write_scores
from spkver.scoring.trials import Trials


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32) * np.arange(1, 31)[:, None]


def drawn(n):
    return np.random.default_rng(1).integers(0, 30, size=(2, n))


def test_scores_are_one_minus_the_cosine_distance_of_scipy(rows):
    enroll, test = drawn(200)
    scores = cosine_scores(rows, enroll, test)
    expected = [1 - cosine(rows[a].astype(float), rows[b].astype(float)) for a, b in zip(enroll, test)]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-7)


def test_neither_chunk_nor_length_nor_side_changes_a_score(rows):
    enroll, test = drawn(1000)
    scores = cosine_scores(rows, enroll, test)
    for chunk in (1, 7, 1000, 10**6):
        assert (cosine_scores(rows, enroll, test, chunk=chunk) == scores).all()
    assert (cosine_scores(rows, test, enroll) == scores).all()
    assert (cosine_scores(rows * np.float32(2.0**40), enroll, test) == scores).all()


def test_huge_and_tiny_rows_have_a_norm(rows):
    enroll, test = drawn(50)
    scores = cosine_scores(rows, enroll, test)
    rows = rows.astype(np.float64)
    rows[::2] *= 1e30
    rows[1::2] *= 1e-30
    np.testing.assert_allclose(cosine_scores(rows.astype(np.float32), enroll, test), scores, atol=3e-7)


def test_no_score_leaves_minus_one_to_one():
    rows = np.random.default_rng(2).normal(size=(2000, 192)).astype(np.float32)
    at = np.arange(2000)
    both = cosine_scores(np.concatenate([rows, -rows]), np.concatenate([at, at]), np.concatenate([at, at + 2000]))
    assert both.min() >= -1 and both.max() <= 1
    assert (abs(both) > 1 - 1e-6).all()


def test_a_memory_map_is_scored(tmp_path, rows):
    np.save(tmp_path / "rows.npy", rows)
    enroll, test = drawn(10)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert (cosine_scores(mapped, enroll, test) == cosine_scores(rows, enroll, test)).all()


def test_unit_rows_have_unit_length_and_leave_the_input_alone(rows):
    before = rows.copy()
    np.testing.assert_allclose(np.linalg.norm(unit_rows(rows), axis=1), 1, atol=1e-6)
    assert (rows == before).all()


def test_senseless_arguments_are_named(rows):
    with pytest.raises(ValueError, match=r"test_index must lie in 0 .. 29, found -1 .. 1"):
        cosine_scores(rows, [0, 0], [-1, 1])
    with pytest.raises(ValueError, match=r"enroll_index must lie in 0 .. 29, found 0 .. 30"):
        cosine_scores(rows, [0, 30], [0, 0])
    with pytest.raises(ValueError, match="equally long"):
        cosine_scores(rows, [0], [0, 1])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        cosine_scores(rows, [0], [0], chunk=0)
    rows[20] = 0
    with pytest.raises(ValueError, match=r"row 20 has a norm of 0\.0"):
        cosine_scores(rows, [0], [0], chunk=8)
    with pytest.raises(ValueError, match=r"must be \(N, D\)"):
        unit_rows(rows[0])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    scores=hnp.arrays(
        np.float32, st.integers(1, 30), elements=st.floats(allow_nan=False, allow_infinity=False, width=32)
    )
)
def test_every_finite_float32_is_read_back_to_the_bit(tmp_path, scores):
    names = [f"u{n}" for n in range(len(scores))]
    write_scores(tmp_path / "scores", Trials(names, names[::-1], np.arange(len(names)) % 2), scores)
    trials, again = read_scores(tmp_path / "scores")
    assert again.dtype == np.float32
    assert again.tobytes() == scores.tobytes()
    assert (trials.enroll, trials.test) == (names, names[::-1])
    assert trials.labels.tolist() == [n % 2 for n in range(len(names))]


def test_the_score_file_is_enroll_test_score_label(tmp_path):
    path = tmp_path / "scores"
    write_scores(path, Trials(["a", "b"], ["c", "d"], [1, 0]), np.array([0.25, -1e-9]))
    assert path.read_text() == "a c 0.25 target\nb d -9.99999972e-10 nontarget\n"
    write_scores(path, Trials(["a"], ["c"]), np.array([0.1]))
    assert path.read_text() == "a c 0.100000001\n"
    assert read_scores(path)[0].labels is None


def test_a_score_that_is_nan_names_its_trial_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores"
    trials = Trials(["a", "b"], ["c", "d"], None, "data/x/trials", np.array([3, 7]))
    write_scores(path, trials, np.array([0, 1]))
    with pytest.raises(SpkverError, match=r"^data/x/trials:7: the score of 'b' and 'd' is nan"):
        write_scores(path, trials, np.array([0, np.nan]))
    with pytest.raises(ValueError, match=r"scores have shape \(1,\), there are 2 trials"):
        write_scores(path, trials, np.array([0]))
    with pytest.raises(SpkverError, match="no scores to write"):
        write_scores(path, Trials([], []), np.array([]))
    assert path.read_text() == "a c 0\nb d 1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b .5\r\n\r\na b x\r\n", "scores:3: the score 'x' is not a number"),
        ("a b nan\n", "scores:1: the score nan is not a finite"),
        ("a b -inf\n", "scores:1: the score -inf is not a finite"),
        ("a b 1e39\n", "scores:1: the score 1e+39 is not a finite"),
        ("a b .5 target\na b .5\n", "scores:2: 3 columns; expected 4 as on the lines before"),
        ("a b\n", "scores:1: 2 columns; expected 'enroll test score"),
        ("a b .5 1\n", "scores:1: unknown label '1'"),
        ("", "scores: the list is empty"),
    ],
)
def test_a_bad_line_of_a_score_file_is_named(tmp_path, text, message):
    path = tmp_path / "scores"
    path.write_bytes(text.encode())
    with pytest.raises(SpkverError) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")
