"""Cllr by its formula, min Cllr against other isotonic regressions, and the invariances of both."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from spkver.scoring.metrics import cllr as module
from spkver.scoring.metrics.cllr import cllr, hull_cllr, min_cllr
from spkver.scoring.metrics.sorted_scores import SortedScores


@st.composite
def scored_trials(draw):
    """Scores with many ties, and labels of both classes."""
    targets = draw(st.lists(st.integers(-6, 6), min_size=1, max_size=12))
    nontargets = draw(st.lists(st.integers(-6, 6), min_size=1, max_size=12))
    labelled = draw(st.permutations([(s, 1) for s in targets] + [(s, 0) for s in nontargets]))
    scores, labels = zip(*labelled)
    return np.array(scores, dtype=np.float64), np.array(labels)


def gaussian(n_targets=300, n_nontargets=2000, seed=0, separation=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [n_targets, n_nontargets]))
    return rng.normal(size=len(labels)) + separation * labels, labels


def pooled_llrs(scores, labels):
    """The textbook's pool adjacent violators, on one (targets, nontargets) pair for each distinct score."""
    blocks = []
    for score in sorted(set(scores.tolist())):
        of_score = labels[scores == score]
        blocks.append([int(of_score.sum()), int((1 - of_score).sum()), [score]])
        while len(blocks) > 1 and blocks[-2][0] * sum(blocks[-1][:2]) >= blocks[-1][0] * sum(blocks[-2][:2]):
            targets, nontargets, covered = blocks.pop()
            blocks[-1][0] += targets
            blocks[-1][1] += nontargets
            blocks[-1][2] += covered
    log_odds = np.log(labels.sum() / (1 - labels).sum())
    with np.errstate(divide="ignore"):
        llr_of = {score: np.log(t) - np.log(n) - log_odds for t, n, covered in blocks for score in covered}
    return np.array([llr_of[score] for score in scores.tolist()])


def cllr_with_infinities(llrs, labels):
    with np.errstate(over="ignore"):
        return (np.log2(1 + np.exp(-llrs[labels == 1])).mean() + np.log2(1 + np.exp(llrs[labels == 0])).mean()) / 2


def test_cllr_is_its_formula():
    llrs, labels = np.array([2.0, -1.0, 0.5, -3.0, 1.0]), np.array([1, 1, 0, 0, 0])
    targets = (np.log2(1 + np.exp(-2)) + np.log2(1 + np.exp(1))) / 2
    nontargets = (np.log2(1 + np.exp(0.5)) + np.log2(1 + np.exp(-3)) + np.log2(1 + np.exp(1))) / 3
    assert cllr(llrs, labels) == pytest.approx((targets + nontargets) / 2, rel=1e-15)
    assert cllr(llrs.astype(np.float32), labels) == pytest.approx((targets + nontargets) / 2, rel=1e-15)


def test_cllr_of_scores_that_say_nothing_is_one_bit():
    assert cllr(np.zeros(7), [1, 0, 0, 1, 0, 0, 0]) == 1
    assert min_cllr(np.full(7, 3.3), [1, 0, 0, 1, 0, 0, 0]) == 1


def test_large_ratios_cost_nothing_where_right_and_their_size_where_wrong():
    for dtype in (np.float32, np.float64):
        assert cllr(np.array([1e4, -1e4], dtype=dtype), [1, 0]) == 0
        assert cllr(np.array([-1e4, 1e4], dtype=dtype), [1, 0]) == pytest.approx(1e4 / np.log(2))
    assert np.isfinite(cllr([-1e300, 1e300], [1, 0]))


def test_chunks_change_nothing(monkeypatch):
    llrs, labels = gaussian()
    whole = cllr(llrs, labels)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert cllr(llrs, labels) == pytest.approx(whole, rel=1e-14)


def test_cllr_of_calibrated_gaussians_is_that_of_theory():
    # Scores N(+-v/2, v) are their own llr; both classes cost the same, integrated here on a grid.
    v, x = 6.0, np.linspace(-40, 40, 200_001)
    density = np.exp(-((x - v / 2) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    expected = (density * np.log2(1 + np.exp(-x))).sum() * (x[1] - x[0])
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 200_000)
    llrs = (labels - 0.5) * v + rng.normal(size=400_000) * np.sqrt(v)
    assert cllr(llrs, labels) == pytest.approx(expected, abs=3e-3)
    assert cllr(llrs, labels) - 1e-3 < min_cllr(llrs, labels) < cllr(llrs, labels)


@given(scored_trials())
def test_min_cllr_is_the_cllr_of_the_pav_llrs(trials):
    scores, labels = trials
    expected = cllr_with_infinities(pooled_llrs(scores, labels), labels)
    assert min_cllr(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert hull_cllr(SortedScores(scores, labels)) == min_cllr(scores, labels)


def test_no_other_rising_llrs_cost_less_by_a_general_optimiser():
    scores, labels = gaussian(15, 25, seed=3, separation=1.0)
    scores, labels = scores[np.argsort(scores)], labels[np.argsort(scores)]
    limit = [(-15, 15)] + [(0, 30)] * 39  # the first llr, then how far each rises above the one before
    found = minimize(lambda steps: cllr(np.cumsum(steps), labels), np.full(40, 0.1), bounds=limit, tol=1e-12)
    least = min_cllr(scores, labels)
    assert least - 1e-12 <= found.fun <= least + 1e-3


@given(scored_trials(), st.floats(0.01, 5), st.floats(-5, 5))
def test_min_cllr_is_at_most_cllr_of_any_rising_transform_and_at_most_one(trials, scale, shift):
    scores, labels = trials
    least = min_cllr(scores, labels)
    assert least <= 1 + 1e-12
    for llrs in (scores, scale * scores + shift, np.arctan(scores), np.clip(scores, -1, 2)):
        assert least <= cllr(llrs, labels) + 1e-12


@given(scored_trials(), st.randoms())
def test_neither_a_rising_transform_nor_the_order_changes_min_cllr(trials, random):
    scores, labels = trials
    narrow, whole = scores.astype(np.float32) / 3, scores.astype(int)
    for transformed in (np.exp(scores), scores**3, 5 * scores - 2, narrow, whole):
        assert min_cllr(transformed, labels) == min_cllr(scores, labels)
    order = list(range(len(scores)))
    random.shuffle(order)
    assert min_cllr(scores[order], labels[order]) == min_cllr(scores, labels)


@given(scored_trials())
def test_negated_scores_with_swapped_labels_cost_the_same(trials):
    scores, labels = trials
    assert min_cllr(-scores, 1 - labels) == pytest.approx(min_cllr(scores, labels), abs=1e-12)
    assert cllr(-scores, 1 - labels) == pytest.approx(cllr(scores, labels), abs=1e-12)


def test_what_is_separated_costs_nothing_and_what_is_reversed_as_much_as_nothing_known():
    scores = [0.9, 0.8, 0.3, 0.2]
    assert min_cllr(scores, [1, 1, 0, 0]) == 0
    assert min_cllr(scores, [0, 0, 1, 1]) == 1


@pytest.mark.parametrize("figure", [cllr, min_cllr])
def test_what_is_wrong_is_said(figure):
    for scores, labels, message in (
        ([0.1, np.nan], [1, 0], "scores hold NaN, first at index 1"),
        ([np.inf, 0.1], [1, 0], "scores hold an infinity, first at index 0"),
        ([0.1, 0.2], [1, 1], "labels hold only targets"),
        ([0.1, 0.2], [1, 2], "labels must be 0 or 1; found '2' at index 1"),
        ([0.1, 0.2], [1], "lengths differ: 2 scores, 1 labels"),
        ([], [], "scores are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            figure(scores, labels)


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(module)
    assert found.failed == 0 and found.attempted >= 4
