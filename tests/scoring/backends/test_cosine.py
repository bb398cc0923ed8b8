"""Cosine scores agree with scipy, whatever else is scored beside them."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from spkver.scoring.backends.cosine import cosine_scores, unit_rows


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


def test_neither_company_nor_length_nor_side_changes_a_score(rows):
    enroll, test = drawn(1000)
    scores = cosine_scores(rows, enroll, test)
    assert (
        np.concatenate([cosine_scores(rows, *part) for part in zip(np.split(enroll, 50), np.split(test, 50))]) == scores
    ).all()
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
    with pytest.raises(ValueError, match=r"must lie in 0 .. 29, found -1"):
        cosine_scores(rows, np.array([0, 0]), np.array([-1, 1]))
    with pytest.raises(ValueError, match=r"must lie in 0 .. 29, found 30"):
        cosine_scores(rows, np.array([0, 30]), np.array([0, 0]))
    with pytest.raises(ValueError, match="has 1 trials, right_index has 2"):
        cosine_scores(rows, np.array([0]), np.array([0, 1]))
    rows[20] = 0
    with pytest.raises(ValueError, match=r"row 20"):
        cosine_scores(rows, np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        unit_rows(rows[0])
