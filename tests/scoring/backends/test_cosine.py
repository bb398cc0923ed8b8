"""Products of trials agree with a slow loop and keep every bit, whatever the threads, pieces and neighbours; cosines
agree with scipy."""

import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import distance

from spkver.scoring.backends import cosine
from spkver.scoring.backends.cosine import cosine_scores, in_threads, pair_products, unit_rows

# Ends of vector registers and of unrolled loops lie between these, 8192 is the last that einsum keeps whole.
DIMENSIONS = (1, 2, 3, 7, 16, 17, 63, 64, 100, 192, 193, 257, 512, 1000, 5000, 8192)


def drawn(n_trials, n_rows=40, dimension=192, seed=0, dtype=np.int64):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, dimension)).astype(np.float32)
    return rows, *rng.integers(0, n_rows, size=(2, n_trials), dtype=dtype)


@pytest.fixture
def small_pieces(monkeypatch):
    """Many tasks and many blocks, the last of each incomplete, from few trials."""
    monkeypatch.setattr(cosine, "_TRIALS_A_TASK", 100)
    monkeypatch.setattr(cosine, "_FLOATS_A_BLOCK", 7 * 192)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_products_are_those_of_a_slow_loop_in_float64(small_pieces, dtype):
    left, left_index, _ = drawn(1234, seed=1, dtype=dtype)
    right, _, right_index = drawn(1234, n_rows=23, seed=2, dtype=dtype)
    products = pair_products(left, right, left_index, right_index % 23)
    trials = zip(left_index, right_index % 23)
    expected = [np.dot(left[a].astype(float), right[b].astype(float)) for a, b in trials]
    assert products.dtype == np.float32
    np.testing.assert_allclose(products, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_a_trial_scores_the_same_alone_and_among_others(dimension):
    rows, left_index, right_index = drawn(60, dimension=dimension)
    products = pair_products(rows, rows, left_index, right_index)
    alone = [pair_products(rows, rows, left_index[i : i + 1], right_index[i : i + 1])[0] for i in range(60)]
    assert products.tolist() == alone
    assert (pair_products(rows, rows, right_index, left_index) == products).all()
    assert (pair_products(rows, rows, left_index[::-1], right_index[::-1]) == products[::-1]).all()


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_threads_do_not_change_a_bit(small_pieces, threads):
    rows, left_index, right_index = drawn(5001)
    expected = np.einsum("ij,ij->i", rows[left_index], rows[right_index])
    assert (pair_products(rows, rows, left_index, right_index, threads=threads) == expected).all()


@settings(deadline=None, max_examples=30)
@given(block=st.integers(1, 3000), task=st.integers(1, 1000), cut=st.integers(0, 500))
def test_neither_blocks_nor_tasks_nor_pieces_change_a_bit(block, task, cut):
    rows, left_index, right_index = drawn(500, dimension=19)
    expected = pair_products(rows, rows, left_index, right_index)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosine, "_TRIALS_A_TASK", task)
        patch.setattr(cosine, "_FLOATS_A_BLOCK", block)
        first = pair_products(rows, rows, left_index[:cut], right_index[:cut])
        rest = pair_products(rows, rows, left_index[cut:], right_index[cut:])
    assert np.concatenate([first, rest]).tobytes() == expected.tobytes()


def test_memory_maps_and_empty_lists_are_scored(tmp_path):
    rows, left_index, right_index = drawn(50)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    products = pair_products(mapped, mapped, left_index, right_index)
    assert type(products) is np.ndarray
    assert (products == pair_products(rows, rows, left_index, right_index)).all()
    assert pair_products(rows, rows, left_index[:0], right_index[:0]).shape == (0,)


def test_gathered_rows_are_never_held_for_a_whole_list():
    rows, left_index, right_index = drawn(300_000)
    tracemalloc.start()
    pair_products(rows, rows, left_index, right_index, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # both sides at once would take 460 MB


def test_senseless_arguments_are_named(small_pieces):
    rows, left_index, right_index = drawn(500)
    for wrong in (-1, 40, np.iinfo(np.int64).min):
        beyond = right_index.copy()
        beyond[[321, 400]] = wrong
        with pytest.raises(ValueError, match=rf"right_index must lie in 0 .. 39, found {wrong} at trial 321"):
            pair_products(rows, rows, left_index, beyond)
        with pytest.raises(ValueError, match=rf"left_index must lie in 0 .. 39, found {wrong} at trial 321"):
            pair_products(rows, rows, beyond, left_index)
    wrong_types = [left_index.astype(kind) for kind in (float, bool)]
    for index in (*wrong_types, left_index[None]):
        with pytest.raises(ValueError, match=r"left_index must be \(n_trials,\) integers, got"):
            pair_products(rows, rows, index, right_index)
    for bad in (rows.astype(np.float64), rows[0], rows[:, ::2], np.asfortranarray(rows)):
        with pytest.raises(ValueError, match=r"right must be float32 \(N, D\), C-contiguous"):
            pair_products(rows, bad, left_index, right_index)
    for bad in (rows[:, :0].copy(), np.zeros((1, 8193), dtype=np.float32)):
        with pytest.raises(ValueError, match="left must have 1 to 8192 columns"):
            pair_products(bad, rows, left_index, right_index)
    with pytest.raises(ValueError, match="left has 192 columns, right has 100"):
        pair_products(rows, rows[:, :100].copy(), left_index, right_index)
    with pytest.raises(ValueError, match="left_index has 500 trials, right_index has 499"):
        pair_products(rows, rows, left_index, right_index[1:])
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        pair_products(rows, rows, left_index, right_index, threads=0)


def test_an_error_in_a_thread_comes_out_and_stops_the_rest():
    begun = []

    def work(piece):
        begun.append(piece)
        if piece == 2:
            raise ValueError("the third")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="the third"):
        list(in_threads(work, range(2000), threads=1))
    assert len(begun) < 1000


def test_unit_rows_have_unit_length_for_any_chunk_and_leave_the_input_alone(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(30, 17)) * 10.0 ** np.linspace(-100, 100, 30)[:, None]
    before = rows.copy()
    unit = unit_rows(rows)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit.astype(float), axis=1), 1, atol=1e-7)
    np.testing.assert_allclose(unit, rows / np.sqrt((rows**2).sum(axis=1))[:, None], rtol=1e-6)
    assert (rows == before).all()
    for chunk in (1, 7, 30, 10**6):
        monkeypatch.setattr(cosine, "ROWS_A_CHUNK", chunk)
        assert (unit_rows(rows) == unit).all()


def test_rows_without_a_direction_are_refused_by_number(monkeypatch):
    monkeypatch.setattr(cosine, "ROWS_A_CHUNK", 8)
    rows = np.ones((30, 4))
    for value, norm in ((np.nan, "nan"), (np.inf, "inf"), (-np.inf, "inf"), (0, r"0\.0"), (1e200, "inf")):
        bad = rows.copy()
        bad[20] = value
        with pytest.raises(ValueError, match=f"embeddings: row 20 has a norm of {norm}"):
            unit_rows(bad)
    for bad in (rows[0], rows.astype(complex), rows.astype(str), rows > 0):
        with pytest.raises(ValueError, match=r"embeddings must be \(N, D\) numbers"):
            unit_rows(bad)


@pytest.fixture
def few_rows():
    """30 rows of 16 numbers and of many lengths."""
    return np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32) * np.arange(1, 31)[:, None]


def pairs_of_rows(n):
    return np.random.default_rng(1).integers(0, 30, size=(2, n))


def test_scores_are_one_minus_the_cosine_distance_of_scipy(few_rows):
    enroll, test = pairs_of_rows(200)
    scores = cosine_scores(few_rows, enroll, test)
    exact = few_rows.astype(float)
    expected = [1 - distance.cosine(exact[a], exact[b]) for a, b in zip(enroll, test)]
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=2e-7)


def test_neither_company_nor_length_nor_side_changes_a_score(few_rows):
    enroll, test = pairs_of_rows(1000)
    scores = cosine_scores(few_rows, enroll, test)
    parts = zip(np.split(enroll, 50), np.split(test, 50))
    assert (np.concatenate([cosine_scores(few_rows, *part) for part in parts]) == scores).all()
    assert (cosine_scores(few_rows, test, enroll) == scores).all()
    assert (cosine_scores(few_rows * np.float32(2.0**40), enroll, test) == scores).all()


def test_huge_and_tiny_rows_have_a_norm(few_rows):
    enroll, test = pairs_of_rows(50)
    scores = cosine_scores(few_rows, enroll, test)
    rows = few_rows.astype(np.float64)
    rows[::2] *= 1e30
    rows[1::2] *= 1e-30
    np.testing.assert_allclose(cosine_scores(rows.astype(np.float32), enroll, test), scores, atol=3e-7)


def test_no_score_leaves_minus_one_to_one():
    rows = np.random.default_rng(2).normal(size=(2000, 192)).astype(np.float32)
    at = np.arange(2000)
    both = cosine_scores(np.concatenate([rows, -rows]), np.concatenate([at, at]), np.concatenate([at, at + 2000]))
    assert both.min() >= -1 and both.max() <= 1
    assert (abs(both) > 1 - 1e-6).all()


def test_a_zero_row_is_named_before_anything_is_scored(few_rows):
    few_rows[20] = 0
    with pytest.raises(ValueError, match="row 20"):
        cosine_scores(few_rows, np.array([0]), np.array([0]))
