"""The numbers behind the pictures, against independent computations and known cases."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import qr
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix

from spkver.pictures import analysis
from spkver.pictures.analysis import (
    confusion,
    curvature,
    drift,
    dunn_index,
    effective_rank,
    eigenvalues,
    linear_cka,
    most_confused,
    whole_classes,
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def hsic_by_definition(k, m):
    """Song et al. 2012, equation 3's U-statistic: the mean over all quadruples of different items."""
    n, total, count = len(k), 0.0, 0
    for i, j, q, r in itertools.permutations(range(n), 4):
        total += k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        count += 1
    return total / count


def test_cka_equals_the_u_statistic_over_all_quadruples(rng):
    x = rng.normal(size=(7, 3))
    y = np.tanh(x @ rng.normal(size=(3, 4))) + 0.1 * rng.normal(size=(7, 4))
    k, m = x @ x.T, y @ y.T
    expected = hsic_by_definition(k, m) / np.sqrt(hsic_by_definition(k, k) * hsic_by_definition(m, m))
    assert linear_cka(x, y) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_cka_is_one_under_rotation_scale_and_shift(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 5))
    rotation = qr(rng.normal(size=(5, 5)))[0]
    assert linear_cka(x, scale * x @ rotation + 3.0) == pytest.approx(1, abs=1e-9)


def test_cka_of_unrelated_embeddings_is_near_zero_without_bias(rng):
    # The biased estimator gives 0.5 and more here: few items, many dimensions.
    values = [linear_cka(rng.normal(size=(20, 50)), rng.normal(size=(20, 50))) for _ in range(50)]
    assert abs(np.mean(values)) < 0.03
    with pytest.raises(ValueError, match="3 and 3"):
        linear_cka(np.eye(3), np.eye(3))


def test_eigenvalues_equal_sklearns_pca(rng):
    x = rng.normal(size=(40, 6)) * [5, 3, 2, 1, 0.5, 0.1] + 7
    np.testing.assert_allclose(eigenvalues(x), PCA().fit(x).explained_variance_, rtol=1e-9)


def test_effective_rank_of_known_spectra():
    assert effective_rank([1, 1, 1, 1, 0]) == pytest.approx(4)
    assert effective_rank([3, 0, 0]) == pytest.approx(1)
    assert 1 < effective_rank([1, 0.1]) < 2
    assert effective_rank([0, 0]) == 0


def test_drift_is_the_distance_over_the_skip():
    moving = np.zeros((5, 2, 2))
    moving[:, 0, 0] = [0, 1, 3, 6, 10]
    moving[:, :, 1] = 1
    np.testing.assert_allclose(drift(moving, 1)[:, 0], [1, 2, 3, 4])
    np.testing.assert_allclose(drift(moving, 2)[:, 0], [3, 5, 7])
    np.testing.assert_allclose(drift(moving, 2)[:, 1], 0)
    np.testing.assert_allclose(drift(moving, 1, "cosine")[0], [1 - np.sqrt(0.5), 0])
    assert drift(moving, 5).shape == (0, 2)
    assert drift(moving, 16).shape == (0, 2)


def test_curvature_of_a_line_a_corner_and_a_turn_back():
    line, corner, back, still = (
        [[0, 0], [1, 0], [2, 0]],
        [[0, 0], [1, 0], [1, 1]],
        [[0, 0], [1, 0], [0, 0]],
        [[1, 1]] * 3,
    )
    angles = curvature(np.stack([line, corner, back, still], 1))
    np.testing.assert_allclose(angles[0, :3], [0, np.pi / 2, np.pi], atol=1e-7)
    assert np.isnan(angles[0, 3])


def slow_dunn(x, labels):
    between, within = np.inf, 0.0
    for i, j in itertools.combinations(range(len(x)), 2):
        distance = np.sqrt(((x[i] - x[j]) ** 2).sum())
        if labels[i] == labels[j]:
            within = max(within, distance)
        else:
            between = min(between, distance)
    return between / within


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_dunn_equals_a_slow_reference_and_has_no_scale(seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], 6)
    x = rng.normal(size=(18, 3)) + 4 * rng.normal(size=(3, 3))[labels]
    assert dunn_index(x, labels) == pytest.approx(slow_dunn(x, labels))
    assert dunn_index(7 * x - 3, labels) == pytest.approx(dunn_index(x, labels))


def test_one_outlier_decides_the_plain_dunn_index_but_not_the_robust_one(rng):
    labels = np.repeat([0, 1], 50)
    x = 0.1 * rng.normal(size=(100, 2)) + np.array([[0, 0], [10, 0]])[labels]
    clean = dunn_index(x, labels, keep=0.95)
    x[0] = [5, 5]
    assert dunn_index(x, labels) < 1.2
    assert dunn_index(x, labels, keep=0.95) == pytest.approx(clean, rel=0.25)
    with pytest.raises(ValueError, match="two classes"):
        dunn_index(x, np.zeros(100))


def test_dunn_in_blocks_is_that_of_all_pairs(rng, monkeypatch):
    monkeypatch.setattr(analysis, "_BLOCK", 7)
    labels = rng.permutation(np.repeat(list("abcd"), [13, 5, 9, 1]))
    x = rng.normal(size=(28, 3)) + 2 * rng.normal(size=(26, 3))[[ord(label) - 97 for label in labels]]
    assert dunn_index(x, labels) == pytest.approx(slow_dunn(x, labels), rel=1e-12)
    x[np.flatnonzero(labels == "a")[0]] = x[np.flatnonzero(labels == "c")[0]]
    assert dunn_index(x, labels) == 0


def test_a_part_of_many_classes_is_of_whole_ones_from_all_over():
    labels = np.repeat(np.arange(100), 20)
    assert whole_classes(labels, 2000).all()
    kept = whole_classes(labels, 200)
    assert kept.sum() == 200
    assert np.unique(labels[kept]).tolist() == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99]
    assert np.unique(labels[whole_classes(labels, 5)]).tolist() == [0, 99]


def test_confusion_equals_sklearns(rng):
    truth, predicted = rng.integers(0, 5, (2, 200))
    np.testing.assert_array_equal(confusion(truth, predicted, 5), confusion_matrix(truth, predicted, labels=range(5)))


def test_the_most_confused_classes_are_those_in_most_errors():
    first = np.diag([9, 9, 9, 9])
    second = first.copy()
    second[1, 3] = second[3, 1] = 2
    second[0, 3] = 1
    assert most_confused([first, second], 2).tolist() == [1, 3]
    assert most_confused([first, second], 3).tolist() == [0, 1, 3]
    assert most_confused([first, second], 9).tolist() == [0, 1, 2, 3]
