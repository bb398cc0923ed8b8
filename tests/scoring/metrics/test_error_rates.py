"""EER, minDCF and DET points against exact and published ways to compute them, and their invariances."""

import doctest
import time
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from spkver.scoring.metrics import DetCurve, det_points, equal_error_rate, min_dcf
from spkver.scoring.metrics import error_rates as metrics

FEW_VALUES = st.integers(-6, 6)


@st.composite
def scored_trials(draw, elements=FEW_VALUES):
    """Scores with many ties, and labels of both classes."""
    targets = draw(st.lists(elements, min_size=1, max_size=12))
    nontargets = draw(st.lists(elements, min_size=1, max_size=12))
    labelled = draw(st.permutations([(s, 1) for s in targets] + [(s, 0) for s in nontargets]))
    scores, labels = zip(*labelled)
    return np.array(scores, dtype=np.float64), np.array(labels)


def exact_points(scores, labels):
    """(FPR, FNR, threshold) by counting at every threshold, in fractions."""
    targets = [s for s, x in zip(scores, labels) if x == 1]
    nontargets = [s for s, x in zip(scores, labels) if x == 0]
    points = [(Fraction(0), Fraction(1), None)]
    for threshold in sorted(set(scores), reverse=True):
        fpr = Fraction(sum(s >= threshold for s in nontargets), len(nontargets))
        fnr = Fraction(sum(s < threshold for s in targets), len(targets))
        points.append((fpr, fnr, threshold))
    return points


def chord_crossing(a, b):
    """Where the segment between two points meets FPR = FNR, as an exact fraction; a is above, b below."""
    before, after = a[1] - a[0], b[0] - b[1]
    share = before / (before + after) if before + after else Fraction(0)
    return a[0] + share * (b[0] - a[0])


def exact_eer(scores, labels):
    points = exact_points(scores, labels)
    for a, b in pairwise(points):
        if b[0] >= b[1]:
            return chord_crossing(a, b)
    raise AssertionError("no crossing")


def gaussian(n_targets=500, n_nontargets=4000, seed=0, separation=2.0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [n_targets, n_nontargets]))
    return rng.normal(size=len(labels)) + separation * labels, labels


def test_eer_is_half_when_all_scores_are_equal():
    for labels in ([1, 0], [0, 1], [1, 0, 0, 0], [0, 1, 1, 1, 0]):
        eer, threshold = equal_error_rate(np.full(len(labels), 0.7), labels)
        assert eer == 0.5
        assert threshold == pytest.approx(0.7)
        assert min_dcf(np.full(len(labels), 0.7), labels)[0] == 1


def test_separated_scores_have_no_errors_and_reversed_ones_only_errors():
    scores = [0.9, 0.8, 0.3, 0.2]
    assert equal_error_rate(scores, [1, 1, 0, 0]) == (0, 0.8)
    assert min_dcf(scores, [1, 1, 0, 0]) == (0, 0.8)
    assert equal_error_rate(scores, [0, 0, 1, 1])[0] == 1
    assert min_dcf(scores, [0, 0, 1, 1])[0] == 1


def test_eer_and_threshold_are_interpolated_on_the_polyline():
    # Points (FPR, FNR): (0, 1) (0, 1/2) at 0.8, (2/3, 0) at 0.4, (1, 0): crosses 3/7 of the way from 0.8 to 0.4.
    eer, threshold = equal_error_rate([0.8, 0.4, 0.4, 0.4, 0.1], [1, 1, 0, 0, 0])
    assert eer == pytest.approx(2 / 7, abs=1e-15)
    assert threshold == pytest.approx(0.8 - 3 / 7 * 0.4, abs=1e-15)


@given(scored_trials())
def test_eer_is_the_exact_fraction(trials):
    assert equal_error_rate(*trials)[0] == pytest.approx(float(exact_eer(*trials)), abs=1e-14)


@given(scored_trials(), st.floats(0.001, 0.999), st.floats(0.1, 10), st.floats(0.1, 10))
def test_min_dcf_is_the_least_of_all_thresholds(trials, p_target, c_miss, c_fa):
    value, threshold = min_dcf(*trials, p_target, c_miss, c_fa)
    lesser = min(c_miss * p_target, c_fa * (1 - p_target))
    costs = [
        (c_miss * p_target * float(fnr) + c_fa * (1 - p_target) * float(fpr)) / lesser
        for fpr, fnr, _ in exact_points(*trials)
    ]
    assert value == pytest.approx(min(costs), rel=1e-12)
    scores, labels = trials
    fnr, fpr = (scores[labels == 1] < threshold).mean(), (scores[labels == 0] >= threshold).mean()
    assert (c_miss * p_target * fnr + c_fa * (1 - p_target) * fpr) / lesser == pytest.approx(value, rel=1e-12)


@given(scored_trials())
def test_det_points_are_the_counts_at_each_threshold(trials):
    fpr, fnr, thresholds = det_points(*trials)
    exact = exact_points(*trials)
    assert fpr.tolist() == [float(point[0]) for point in exact]
    assert fnr.tolist() == [float(point[1]) for point in exact]
    assert thresholds[1:].tolist() == [point[2] for point in exact[1:]]
    assert thresholds[1] < thresholds[0] < thresholds[1] + 1e-9


@given(scored_trials(), st.randoms())
def test_order_changes_nothing(trials, random):
    scores, labels = trials
    order = list(range(len(scores)))
    random.shuffle(order)
    assert equal_error_rate(scores[order], labels[order]) == equal_error_rate(scores, labels)
    assert min_dcf(scores[order], labels[order]) == min_dcf(scores, labels)


@given(scored_trials())
def test_a_monotone_transform_changes_no_rate(trials):
    scores, labels = trials
    for transformed in (np.exp(scores), scores**3, 5 * scores - 2, scores.astype(np.float32) / 3):
        assert equal_error_rate(transformed, labels)[0] == equal_error_rate(scores, labels)[0]
        assert min_dcf(transformed, labels, 0.05)[0] == min_dcf(scores, labels, 0.05)[0]


@given(scored_trials())
def test_negated_scores_with_swapped_labels_are_the_same_problem(trials):
    scores, labels = trials
    assert equal_error_rate(-scores, 1 - labels)[0] == pytest.approx(equal_error_rate(scores, labels)[0], abs=1e-15)
    assert min_dcf(-scores, 1 - labels, 0.9)[0] == pytest.approx(min_dcf(scores, labels, 0.1)[0], abs=1e-12)


@given(scored_trials(st.floats(allow_nan=False, allow_infinity=False)))
def test_any_finite_scores_have_finite_thresholds(trials):
    assert np.isfinite(equal_error_rate(*trials)[1])
    assert np.isfinite(min_dcf(*trials)[1])


@pytest.mark.parametrize("decimals", [None, 3, 1])
@pytest.mark.parametrize("seed", range(4))
def test_eer_is_that_of_roc_curve_and_brentq(decimals, seed):
    scores, labels = gaussian(seed=seed, separation=1 + seed)
    scores = scores if decimals is None else scores.round(decimals)
    fpr, tpr, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    eer = brentq(lambda x: 1 - x - interp1d(fpr, tpr)(x), 0, 1)
    ours, threshold = equal_error_rate(scores, labels)
    assert ours == pytest.approx(eer, abs=1e-9)
    # Either side of the threshold the two rates must cross.
    above, below = thresholds[thresholds > threshold].min(), thresholds[thresholds <= threshold].max()
    at = {t: (f, 1 - h) for f, h, t in zip(fpr, tpr, thresholds)}
    assert at[above][0] <= at[above][1] and at[below][0] >= at[below][1]


def test_eer_of_many_gaussian_scores_is_that_of_theory():
    scores, labels = gaussian(200_000, 200_000, separation=2.0)
    assert equal_error_rate(scores, labels)[0] == pytest.approx(0.158655, abs=1e-3)  # Phi(-1)


def test_float32_thresholds_decide_float32_scores():
    scores, labels = np.array([0.1, 0.2, 0.3], dtype=np.float32), [1, 0, 0]
    value, threshold = min_dcf(scores, labels)
    assert value == 1 and not (scores >= threshold).any()
    scores, labels = gaussian()
    scores = scores.astype(np.float32)
    value, threshold = min_dcf(scores, labels)
    fnr, fpr = (scores[labels == 1] < threshold).mean(), (scores[labels == 0] >= threshold).mean()
    assert fnr + 99 * fpr == pytest.approx(value, rel=1e-12)


def test_labels_may_be_bool_int_or_float_and_scores_integers():
    scores, labels = [3, 2, 2, 1], np.array([1, 1, 0, 0])
    expected = equal_error_rate(np.array(scores, dtype=float), labels)
    for kind in (bool, np.int8, np.uint8, np.float32):
        assert equal_error_rate(scores, labels.astype(kind))[0] == expected[0]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan, 0.3], [1, 0, 1], "scores hold NaN, first at index 1"),
        ([0.1, 0.2, -np.inf], [1, 0, 1], "scores hold an infinity, first at index 2"),
        ([np.inf, 0.2, np.nan], [1, 0, 1], "scores hold an infinity, first at index 0"),
        ([0.1, np.inf, 0.3], [1, 0, 1], "scores hold an infinity, first at index 1"),
        ([0.1, 0.2], [1, 1], "labels hold only targets"),
        ([0.1, 0.2], [0, 0], "labels hold only nontargets"),
        ([0.1, 0.2], [1], "lengths differ: 2 scores, 1 labels"),
        ([0.1, 0.2], [1, -1], "labels must be 0 or 1; found '-1' at index 1"),
        ([0.1, 0.2], [1, np.nan], "labels must be 0 or 1; found 'nan' at index 1"),
        ([0.1, 0.2], ["target", "nontarget"], "labels must be 0 or 1; found 'target' at index 0"),
        ([], [], "scores are empty"),
        (["a", "b"], [1, 0], "scores must be real numbers"),
        ([[0.1], [0.2]], [1, 0], "must have one dimension"),
    ],
)
def test_what_is_wrong_is_said(scores, labels, message):
    for metric in (equal_error_rate, min_dcf, det_points):
        with pytest.raises(ValueError, match=message):
            metric(scores, labels)


def test_priors_and_costs_out_of_range_are_refused():
    for p_target in (0, 1, -0.1, np.nan):
        with pytest.raises(ValueError, match="p_target must lie between 0 and 1"):
            min_dcf([0.1, 0.2], [0, 1], p_target)
    for costs in ({"c_miss": 0}, {"c_fa": -1}, {"c_fa": np.inf}, {"c_miss": np.nan}):
        with pytest.raises(ValueError, match="c_miss and c_fa must be above 0"):
            min_dcf([0.1, 0.2], [0, 1], 0.01, **costs)


@given(scored_trials(), st.data())
def test_integer_weights_are_repeated_trials(trials, data):
    scores, labels = trials
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(scores), max_size=len(scores))))
    if not weights[labels == 1].any() or not weights[labels == 0].any():
        weights += 1
    curve = DetCurve(scores, labels)
    fpr, fnr = curve.rates(weights[curve.target_order], weights[curve.nontarget_order])
    repeated = np.repeat(scores, weights), np.repeat(labels, weights)
    expected = det_points(*repeated)
    kept = np.isin(curve.thresholds[1:], repeated[0])
    assert fpr[1:][kept].tolist() == expected[0][1:].tolist()
    assert fnr[1:][kept].tolist() == expected[1][1:].tolist()


def test_weights_of_one_change_nothing():
    scores, labels = gaussian()
    curve = DetCurve(scores.round(1), labels)
    for one in (1, 1.0):
        weighted = curve.rates(np.full(500, one), np.full(4000, one))
        assert all((a == b).all() for a, b in zip(weighted, curve.rates()))


def test_a_million_scores_take_well_under_a_second():
    scores, labels = gaussian(100_000, 900_000)
    for metric in (equal_error_rate, min_dcf):
        start = time.process_time()
        metric(scores, labels)
        assert time.process_time() - start < 1


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics).failed == 0
    assert doctest.testmod(metrics).attempted >= 3
