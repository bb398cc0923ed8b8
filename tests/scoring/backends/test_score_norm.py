"""Normalised scores agree with the full, sorted score matrix, whatever the threads, pieces and cohort order."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from spkver.scoring.backends import score_norm
from spkver.scoring.backends.cosine import unit_rows
from spkver.scoring.backends.score_norm import (
    CohortStatistics,
    centre,
    cluster_means,
    cohort_statistics,
    s_norm,
    speaker_means,
    t_norm,
    z_norm,
)


def unit(n, seed, dimension=24):
    return unit_rows(np.random.default_rng(seed).normal(size=(n, dimension)))


def full_matrix_statistics(embeddings, cohort, top_n):
    scores = np.sort(embeddings.astype(np.float64) @ cohort.T.astype(np.float64), axis=1)[:, -top_n:]
    return scores.mean(axis=1), scores.std(axis=1)


def statistics_of(rng, n):
    return CohortStatistics(rng.normal(size=n), rng.uniform(0.1, 2, size=n))


@pytest.mark.parametrize("top_n", [2, 10, 300, 1499, 1500, None])
def test_statistics_are_those_of_the_sorted_full_matrix(top_n):
    # More than one tile, the last one incomplete; more scores than small selections sort as a whole.
    embeddings, cohort = unit(1500, seed=0), unit(1500, seed=1)
    found = cohort_statistics(embeddings, cohort, top_n)
    mean, std = full_matrix_statistics(embeddings, cohort, top_n or 1500)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.std, std, rtol=0, atol=2e-7)


def test_clusters_are_the_means_of_like_speakers_and_a_lone_voice_is_in_none():
    voices, noise = unit(4, seed=0), np.random.default_rng(1).normal(scale=0.02, size=(15, 24))
    group = np.array([0] * 7 + [1] * 5 + [2] * 2 + [3])  # the last one is alone
    rows = unit_rows(voices[group] + noise)
    means, smallest = cluster_means(rows, 4)
    assert (len(means), smallest) == (3, 2)
    for number in range(3):
        mean = rows[group == number].mean(0)
        np.testing.assert_allclose(np.max(means @ mean) / np.linalg.norm(mean), 1, atol=1e-6)
    assert np.max(means @ rows[-1]) < 0.9
    with pytest.raises(ValueError, match="15 speakers are too few for 8 clusters of two and more"):
        cluster_means(rows, 8)


@pytest.mark.parametrize("n_rows", [0, 1, 1023, 1024, 1025])
def test_every_row_is_measured_at_the_edges_of_tiles(n_rows):
    embeddings, cohort = unit(n_rows, seed=0), unit(20, seed=1)
    found = cohort_statistics(embeddings, cohort, 5)
    np.testing.assert_allclose(found.mean, full_matrix_statistics(embeddings, cohort, 5)[0], atol=2e-7)


@pytest.mark.parametrize("top_n", [50, None])
def test_threads_do_not_change_a_bit(top_n):
    embeddings, cohort = unit(7000, seed=0), unit(2000, seed=1)
    first = cohort_statistics(embeddings, cohort, top_n, threads=1)
    for threads in (2, 3, None):
        other = cohort_statistics(embeddings, cohort, top_n, threads=threads)
        assert other.mean.tobytes() == first.mean.tobytes()
        assert other.std.tobytes() == first.std.tobytes()


def test_the_blas_gets_its_threads_back():
    with threadpool_limits(2):
        before = threadpool_info()
        cohort_statistics(unit(3000, seed=0), unit(100, seed=1), 10, threads=2)
        assert threadpool_info() == before


def test_what_follows_a_row_does_not_change_it():
    embeddings, cohort = unit(1100, seed=0), unit(40, seed=1)
    whole = cohort_statistics(embeddings, cohort, 10)
    for n in (1, 2, 500, 1025):
        assert (cohort_statistics(embeddings[:n], cohort, 10).std == whole.std[:n]).all()


def test_nearly_equal_scores_keep_their_standard_deviation():
    # Rows of one number: each score is a cohort value, exactly, and fractions know the right answer.
    cohort = np.float32(1) + np.float32(2.0**-20) * np.arange(50, dtype=np.float32)[:, None]
    found = cohort_statistics(np.ones((1, 1), dtype=np.float32), cohort, 40)
    values = [Fraction(float(value)) for value in np.sort(cohort[:, 0])[-40:]]
    mean = sum(values) / 40
    assert found.mean[0] == float(mean)
    variance = sum((value - mean) ** 2 for value in values) / 40
    assert found.std[0] == pytest.approx(float(variance) ** 0.5, rel=1e-9)


def test_ties_at_the_selection_boundary_do_not_matter():
    cohort = np.array([3, 1, 2, 2, 2, 1, 2], dtype=np.float32)[:, None]
    found = cohort_statistics(np.ones((2, 1), dtype=np.float32), cohort, 3)
    np.testing.assert_allclose(found.mean, 7 / 3, rtol=1e-15)
    np.testing.assert_allclose(found.std, np.std([3, 2, 2]), rtol=1e-14)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), top_n=st.integers(2, 30))
def test_the_order_of_the_cohort_does_not_matter(seed, top_n):
    embeddings, cohort = unit(20, seed), unit(30, seed + 1)
    found = cohort_statistics(embeddings, cohort, top_n, threads=1)
    shuffled = cohort_statistics(embeddings, cohort[np.random.default_rng(seed).permutation(30)], top_n, threads=1)
    np.testing.assert_allclose(shuffled.mean, found.mean, rtol=0, atol=2e-7)
    np.testing.assert_allclose(shuffled.std, found.std, rtol=0, atol=2e-7)


def test_cohort_scores_are_never_held_for_all_rows():
    embeddings, cohort = unit(30_000, seed=0), unit(2000, seed=1)
    tracemalloc.start()
    cohort_statistics(embeddings, cohort, 100, threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # the full matrix takes 240 MB


def test_senseless_cohorts_are_refused():
    embeddings, cohort = unit(2000, seed=0), unit(30, seed=1)
    with pytest.raises(ValueError, match="the cohort has 30 rows, fewer than top_n = 31"):
        cohort_statistics(embeddings, cohort, 31)
    for top_n in (1, 0, -3):
        with pytest.raises(ValueError, match=f"top_n must be at least 2, .* got {top_n}"):
            cohort_statistics(embeddings, cohort, top_n)
    with pytest.raises(ValueError, match=r"top_n must be at least 2, .* got 1"):
        cohort_statistics(embeddings, cohort[:1], None)
    with pytest.raises(ValueError, match="embeddings have 24 columns, the cohort has 12"):
        cohort_statistics(embeddings, cohort[:, :12].copy(), 10)
    with pytest.raises(ValueError, match=r"cohort must be float32 \(N, D\), C-contiguous"):
        cohort_statistics(embeddings, cohort.astype(np.float64), 10)
    with pytest.raises(ValueError, match="threads must be at least 1, got 0"):
        cohort_statistics(embeddings, cohort, 10, threads=0)


def test_rows_without_statistics_are_refused_by_number():
    embeddings, cohort = unit(2000, seed=0), unit(30, seed=1)
    for value in (np.nan, np.inf):
        bad = embeddings.copy()
        bad[1500, 3] = value
        with pytest.raises(ValueError, match=f"embeddings: row 1500 has a norm of {value}"):
            cohort_statistics(bad, cohort, 10)
        bad = cohort.copy()
        bad[7, 3] = value
        with pytest.raises(ValueError, match=f"cohort: row 7 has a norm of {value}"):
            cohort_statistics(embeddings, bad, 10)
    zero = embeddings.copy()
    zero[1500] = 0
    with pytest.raises(ValueError, match=r"10 highest cohort scores of row 1500 are alike \(std 0\)"):
        cohort_statistics(zero, cohort, 10)
    huge = embeddings.copy()
    huge[1500] = 3e38
    with pytest.raises(ValueError, match=r"row 1500 are alike \(std nan\)"):
        cohort_statistics(huge, cohort * np.float32(100), 10)


def test_a_cohort_of_one_voice_is_refused_though_its_scores_may_differ_in_the_last_digit():
    cohort = np.tile(unit(1, seed=1, dimension=192), (6000, 1))
    with pytest.raises(ValueError, match=r"cohort scores of row \d+ are alike"):
        cohort_statistics(unit(100, seed=0, dimension=192), cohort, None)
    last_digit = np.array([1, 1 + 2.0**-23] * 10, dtype=np.float32)[:, None]
    with pytest.raises(ValueError, match=r"cohort scores of row 0 are alike \(std 5\.96e-08\)"):
        cohort_statistics(np.ones((1, 1), dtype=np.float32), last_digit, None)


def test_statistics_kept_in_float32_are_reckoned_with_in_float64():
    rng = np.random.default_rng(0)
    kept = CohortStatistics(*rng.uniform(0.1, 1, size=(2, 50)).astype(np.float32))
    wide = CohortStatistics(kept.mean.astype(np.float64), kept.std.astype(np.float64))
    scores = rng.normal(size=50).astype(np.float32)
    assert (z_norm(scores, np.arange(50), kept) == z_norm(scores, np.arange(50), wide)).all()


def test_norms_are_their_formulas_in_a_plain_loop():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=200_000).astype(np.float32)
    enroll, test = rng.integers(0, 50, size=(2, 200_000))
    of_enroll, of_test = statistics_of(rng, 50), statistics_of(rng, 50)
    z, t = z_norm(scores, enroll, of_enroll), t_norm(scores, test, of_test)
    s = s_norm(scores, enroll, test, of_enroll, of_test)
    assert z.dtype == t.dtype == s.dtype == np.float32
    for i in [0, 1, 65535, 65536, 131071, 131072, 199_999]:
        by_enroll = (float(scores[i]) - of_enroll.mean[enroll[i]]) / of_enroll.std[enroll[i]]
        by_test = (float(scores[i]) - of_test.mean[test[i]]) / of_test.std[test[i]]
        assert z[i] == np.float32(by_enroll)
        assert t[i] == np.float32(by_test)
        assert s[i] == np.float32(0.5 * (by_enroll + by_test))


def test_normalised_in_pieces_gives_the_same_bytes():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=150_000).astype(np.float32)
    enroll, test = rng.integers(0, 50, size=(2, 150_000), dtype=np.int32)
    statistics = statistics_of(rng, 50)
    whole = s_norm(scores, enroll, test, statistics, statistics)
    for size in (1000, 65_536, 99_999):
        parts = [slice(start, start + size) for start in range(0, 150_000, size)]
        pieces = [s_norm(scores[part], enroll[part], test[part], statistics, statistics) for part in parts]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_sides_may_change_places(seed):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=30)
    enroll, test = rng.integers(0, 8, size=(2, 30))
    a, b = statistics_of(rng, 8), statistics_of(rng, 8)
    assert (s_norm(scores, enroll, test, a, b) == s_norm(scores, test, enroll, b, a)).all()
    assert (z_norm(scores, enroll, a) == t_norm(scores, enroll, a)).all()


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), shift=st.floats(-100, 100), scale=st.floats(0.01, 100))
def test_a_shift_or_scale_of_all_scores_leaves_as_norm_unchanged(seed, shift, scale):
    rng = np.random.default_rng(seed)
    scores, of_cohort = rng.normal(size=30), rng.normal(size=(8, 40))
    enroll, test = rng.integers(0, 8, size=(2, 30))

    def normalised(change):
        top = np.sort(change(of_cohort), axis=1)[:, -20:]
        statistics = CohortStatistics(top.mean(axis=1), top.std(axis=1))
        return s_norm(change(scores), enroll, test, statistics, statistics)

    np.testing.assert_allclose(
        normalised(lambda x: scale * x + shift), normalised(lambda x: x), rtol=1e-6, atol=1e-6 + 1e-11 / scale
    )


def test_as_norm_of_embeddings_is_unchanged_by_their_common_length():
    embeddings, cohort = unit(40, seed=0), unit(60, seed=1)
    enroll, test = np.random.default_rng(2).integers(0, 40, size=(2, 100))

    def normalised(length):
        rows = embeddings * np.float32(length)
        statistics = cohort_statistics(rows, cohort, 20)
        scores = (rows[enroll].astype(float) * embeddings[test]).sum(axis=1)
        return z_norm(scores, enroll, statistics)

    assert (normalised(2.0**20) == normalised(1)).all()


def test_senseless_scores_are_refused():
    statistics = CohortStatistics(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="scores: the score of trial 1 is nan"):
        z_norm([0, np.nan], [0, 1], statistics)
    with pytest.raises(ValueError, match=r"test_index must lie in 0 .. 2, found -1 at trial 1"):
        t_norm([0.0, 1.0], [0, -1], statistics)
    with pytest.raises(ValueError, match=r"enroll_index must lie in 0 .. 2, found 3 at trial 70000"):
        index = np.zeros(70_001, dtype=np.int64)
        index[-1] = 3
        s_norm(np.zeros(70_001), index, index * 0, statistics, statistics)
    with pytest.raises(ValueError, match="there are 2 scores, test_index has 1 trials"):
        s_norm([0, 1], [0, 1], [0], statistics, statistics)
    with pytest.raises(ValueError, match=r"enroll_index must be .* integers, got float64"):
        z_norm([0.0], [0.0], statistics)
    with pytest.raises(ValueError, match=r"scores must be \(n_trials,\) real numbers, got"):
        z_norm([[0.0]], [0], statistics)
    for mean, std, found in (([0, 1], [1, 0], "std 0"), ([0, 1], [1, np.nan], "nan"), ([0, np.inf], [1, 1], "")):
        with pytest.raises(ValueError, match=f"row 1 has .*{found}"):
            CohortStatistics(np.array(mean, dtype=float), np.array(std, dtype=float))
    with pytest.raises(ValueError, match=r"must both be \(N,\), got \(2,\) and \(3,\)"):
        CohortStatistics(np.zeros(2), np.ones(3))


def test_a_speaker_mean_is_the_direction_of_the_mean_of_unit_embeddings():
    rng = np.random.default_rng(0)
    # Long rows must not weigh more than short ones, and more rows than a chunk must all count.
    embeddings = rng.normal(size=(9000, 6)) * rng.uniform(0.1, 10, size=(9000, 1)) + 1
    speakers = [f"speaker{i % 7}" for i in range(9000)]
    means, names = speaker_means(embeddings.astype(np.float32), speakers)
    assert names == sorted(set(speakers))
    assert means.dtype == np.float32
    for name, mean in zip(names, means):
        rows = embeddings[[speaker == name for speaker in speakers]]
        expected = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(mean, expected / np.linalg.norm(expected), atol=1e-6)


def test_speakers_without_a_mean_are_refused():
    rows = unit(4, seed=0)
    cancelling = np.concatenate([rows, -rows[2:3] * 3])
    with pytest.raises(ValueError, match="speaker 'c' cancel out"):
        speaker_means(cancelling, ["a", "b", "c", "d", "c"])
    # What is left over is rounding, however many rows it has gathered from.
    with pytest.raises(ValueError, match="speaker 'a' cancel out"):
        speaker_means(np.array([[1, 0], [-1, 5e-7]] * 1000), ["a"] * 2000)
    with pytest.raises(ValueError, match="there are 4 embeddings and 3 speakers"):
        speaker_means(rows, ["a", "b", "c"])
    with pytest.raises(ValueError, match="there are 0 embeddings and 0 speakers"):
        speaker_means(rows[:0], [])
    with pytest.raises(ValueError, match=r"embeddings must be \(N, D\) numbers"):
        speaker_means(rows[0], ["a"] * 24)
    rows[3] = np.nan
    with pytest.raises(ValueError, match="row 3 has a norm of nan"):
        speaker_means(rows, list("abcd"))


def test_centred_rows_are_unit_rows_less_the_mean():
    rows = np.random.default_rng(0).normal(size=(9000, 6)).astype(np.float32) + 5
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = centre(rows, mean)
    expected = rows - mean
    assert centred.dtype == np.float32
    np.testing.assert_allclose(centred, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert (centre(rows, np.zeros(6)) == unit_rows(rows)).all()


def test_rows_that_cannot_be_centred_are_refused():
    rows = unit(10, seed=0)
    with pytest.raises(ValueError, match=r"row 4 has a norm of 0\.0"):
        centre(rows, rows[4])
    with pytest.raises(ValueError, match=r"mean must be finite, of shape \(24,\); got \(23,\)"):
        centre(rows, np.zeros(23))
    with pytest.raises(ValueError, match="mean must be finite"):
        centre(rows, np.full(24, np.nan))


def test_tiles_are_bounded_for_small_and_large_cohorts(monkeypatch):
    shapes = []
    tile = score_norm._tile
    monkeypatch.setattr(
        score_norm, "_tile", lambda rows, cohort, n_rows: shapes.append(n_rows) or tile(rows, cohort, n_rows)
    )
    for n in (2, 6000, 100_000):
        cohort_statistics(unit(1, seed=0, dimension=2), unit(n, seed=1, dimension=2), None)
    assert shapes == [1024, 174, 16]
