"""Figures from the sort of each class are, to the bit, those of the whole DET curve, and need little memory."""

import doctest
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.scoring.metrics import (
    actual_dcf,
    det_points,
    equal_error_rate,
    min_dcf,
    sorted_scores,
)
from spkver.scoring.metrics import polyline as error_rates
from spkver.scoring.metrics.polyline import bayes_threshold, crossing, detection_cost, interpolated
from spkver.scoring.metrics.sorted_scores import SortedScores

TIED = st.integers(-6, 6).map(float)
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def scored_trials(draw):
    """Scores of both classes in float32 or float64, many tied or of any size, in any order."""
    elements = draw(st.sampled_from([TIED, FLOAT32]))
    targets = draw(st.lists(elements, min_size=1, max_size=12))
    nontargets = draw(st.lists(elements, min_size=1, max_size=12))
    labelled = draw(st.permutations([(s, 1) for s in targets] + [(s, 0) for s in nontargets]))
    scores, labels = zip(*labelled)
    return np.array(scores, dtype=draw(st.sampled_from([np.float32, np.float64]))), np.array(labels)


def curve_eer(scores, labels):
    """EER and threshold from every point of the curve."""
    fpr, fnr, thresholds = det_points(scores, labels)
    index, share = crossing(fpr, fnr)
    return interpolated(fpr, index, share), (1 - share) * thresholds[index] + share * thresholds[index + 1]


def curve_min_dcf(scores, labels, *application):
    fpr, fnr, thresholds = det_points(scores, labels)
    cost = detection_cost(fpr, fnr, *application)
    return cost.min(), thresholds[np.argmin(cost)]


@given(scored_trials())
def test_the_eer_is_that_of_the_whole_curve_to_the_bit(trials):
    assert SortedScores(*trials).equal_error_rate() == curve_eer(*trials)


@given(scored_trials(), st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_is_that_of_the_whole_curve_to_the_bit(trials, p_target, c_miss, c_fa):
    application = p_target, c_miss, c_fa
    assert SortedScores(*trials).min_dcf(*application) == curve_min_dcf(*trials, *application)


def test_the_largest_number_there_is_has_no_threshold_above_it_but_rates_all_the_same():
    largest = np.array([0, np.finfo(np.float32).max], dtype=np.float32)
    assert SortedScores(largest, [1, 0]).equal_error_rate() == curve_eer(largest, [1, 0])
    assert SortedScores(largest, [1, 0]).equal_error_rate()[0] == 1
    assert SortedScores(largest, [0, 1]).equal_error_rate()[0] == 0
    assert SortedScores(largest[[1, 1]], [0, 1]).equal_error_rate()[0] == 0.5


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("share", [0.002, 0.05, 0.5, 0.95])
def test_many_scores_with_and_without_ties_give_the_figures_of_the_whole_curve(dtype, share):
    rng = np.random.default_rng(0)
    labels = (rng.random(50_000) < share).astype(np.int8)
    scores = (rng.normal(size=50_000) + 1.5 * labels).astype(dtype)
    for given_scores in (scores, scores.round(1)):
        found = SortedScores(given_scores, labels)
        assert found.equal_error_rate() == curve_eer(given_scores, labels)
        for application in ((0.01,), (0.05,), (0.5, 10, 1), (0.99,)):
            assert found.min_dcf(*application) == curve_min_dcf(given_scores, labels, *application)


@given(scored_trials())
def test_the_hull_is_convex_and_below_every_point_of_the_curve(trials):
    found = SortedScores(*trials)
    misses, false_alarms = found.hull
    fall, run = -np.diff(misses), np.diff(false_alarms)
    assert (fall > 0).all() and (run >= 0).all()
    assert (fall[:-1] * run[1:] >= fall[1:] * run[:-1]).all()  # ever flatter
    assert misses[0] == len(found.targets) and false_alarms[0] == 0 and misses[-1] == 0
    fpr, fnr, _ = det_points(*trials)
    on_hull = np.interp(fpr * len(found.nontargets), false_alarms, misses)
    # Where the hull falls straight down, interp gives one of its heights: compare right of there.
    inside = fpr > 0
    assert (on_hull[inside] <= fnr[inside] * len(found.targets) + 1e-9).all()


def test_the_functions_are_the_methods():
    rng = np.random.default_rng(1)
    labels = np.repeat([1, 0], [40, 300])
    scores = rng.normal(size=340) + labels
    found = SortedScores(scores, labels)
    assert equal_error_rate(scores, labels) == found.equal_error_rate()
    assert min_dcf(scores, labels, 0.05, 2, 3) == found.min_dcf(0.05, 2, 3)


def test_memory_beyond_float32_scores_is_a_few_bytes_a_trial():
    n = 2_000_000
    rng = np.random.default_rng(0)
    labels = rng.random(n) < 0.05
    scores = rng.standard_normal(n, dtype=np.float32) + 2 * labels.astype(np.float32)
    before = scores.copy()
    tracemalloc.start()
    found = SortedScores(scores, labels)
    found.equal_error_rate(), found.min_dcf(), found.hull
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 4 bytes for the sorted scores, 2 for truth values, some for the corners: 1e8 trials stay well below 2.5 GiB.
    assert peak < 10 * n
    assert found.targets.dtype == found.nontargets.dtype == np.float32
    assert (scores == before).all()


@given(scored_trials(), st.floats(0.01, 0.99), st.floats(0.1, 10), st.floats(0.1, 10))
def test_actual_dcf_is_the_cost_at_the_bayes_threshold_and_never_below_min_dcf(trials, p_target, c_miss, c_fa):
    llrs, labels = trials
    threshold = np.log(c_fa * (1 - p_target) / (c_miss * p_target))
    accepted = llrs.astype(np.float64) >= threshold
    misses, false_alarms = (~accepted[labels == 1]).mean(), accepted[labels == 0].mean()
    cost = c_miss * p_target * misses + c_fa * (1 - p_target) * false_alarms
    expected = cost / min(c_miss * p_target, c_fa * (1 - p_target))
    found = actual_dcf(llrs, labels, p_target, c_miss, c_fa)
    if np.abs(llrs.astype(np.float64) - threshold).min() > 1e-9:
        assert found == pytest.approx(expected, rel=1e-9)
    assert found >= min_dcf(llrs, labels, p_target, c_miss, c_fa)[0] - 1e-12


def test_actual_dcf_of_calibrated_scores_is_near_min_dcf_and_a_shift_spoils_it():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 100_000)
    llrs = np.where(labels == 1, 4.0, -4.0) + rng.normal(size=200_000) * np.sqrt(8)  # N(+-v/2, v) is its own llr
    for p_target in (0.01, 0.5, 0.9):
        least = min_dcf(llrs, labels, p_target)[0]
        assert least <= actual_dcf(llrs, labels, p_target) <= 1.02 * least
        assert actual_dcf(llrs + 3, labels, p_target) > 1.2 * least
    assert actual_dcf(llrs + 8, labels, 0.01) > 1


def test_a_score_at_the_threshold_is_accepted_and_a_float32_just_below_it_is_not():
    assert actual_dcf([0.0, -1.0], [1, 0], 0.5) == 0
    threshold = bayes_threshold(0.02)
    nearest = np.float32(threshold)
    assert float(nearest) < threshold  # below by rounding: a comparison in float32 would accept it
    assert actual_dcf(np.array([nearest, -10], dtype=np.float32), [1, 0], 0.02) == 1


def test_the_bayes_threshold_is_where_both_decisions_cost_the_same():
    for p_target, c_miss, c_fa in ((0.01, 1, 1), (0.05, 10, 1), (0.7, 2, 5)):
        odds = np.exp(bayes_threshold(p_target, c_miss, c_fa)) * p_target / (1 - p_target)
        assert c_miss * odds == pytest.approx(c_fa)
    assert bayes_threshold(0.5) == 0
    with pytest.raises(ValueError, match="p_target must lie between 0 and 1"):
        bayes_threshold(0)
    with pytest.raises(ValueError, match="c_miss and c_fa must be above 0"):
        actual_dcf([0.1, 0.2], [0, 1], c_fa=0)
    with pytest.raises(ValueError, match="scores hold NaN"):
        actual_dcf([0.1, np.nan], [0, 1])


def test_the_examples_in_the_docstrings_hold():
    for module in (sorted_scores, error_rates):
        found = doctest.testmod(module)
        assert found.failed == 0 and found.attempted
