"""Calibration and fusion: the solution of the formula, the truth where it is known, and the file that keeps them."""

import doctest
import json
import time

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import entr, expit, logit
from sklearn.isotonic import IsotonicRegression

from spkver.errors import SpkverError
from spkver.scoring.backends import calibration as module
from spkver.scoring.backends import logistic_regression
from spkver.scoring.backends.calibration import Calibration, fit_calibration, read_calibration

REGULARISATION = 1e-6


def fit(features, labels, p_target=0.05, regularisation=REGULARISATION):
    return fit_calibration(features, labels, p_target, regularisation)


def gaussian(n_targets, n_nontargets, seed=0, mean=(-0.2, 0.5), deviation=0.2):
    """Scores whose true llr is (m1 - m0) / d^2 * (s - (m0 + m1) / 2), in random order, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [n_targets, n_nontargets]))
    return rng.normal(np.take(mean, labels), deviation), labels


def two_systems(seed, n_targets=2000, n_nontargets=20000):
    """Two systems whose errors are independent, on different scales, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat([1, 0], [n_targets, n_nontargets]))
    first = rng.normal(2 * labels, 1)
    second = 30 + 10 * rng.normal(1.5 * labels, 1)
    return {"first": first, "second": second}, labels


def cllr(llrs, labels):
    """Cllr in bits, by its formula."""
    llrs = np.asarray(llrs, dtype=np.float64)
    misses = np.logaddexp(0, -llrs[labels == 1]).mean()
    return (misses + np.logaddexp(0, llrs[labels == 0]).mean()) / 2 / np.log(2)


def min_cllr(scores, labels):
    """Cllr after the best monotone map (PAV); posteriors at equal class weights."""
    weights = np.where(labels == 1, 0.5 / (labels == 1).sum(), 0.5 / (labels == 0).sum())
    posteriors = IsotonicRegression(y_min=0, y_max=1).fit(scores, labels, weights).predict(scores)
    with np.errstate(divide="ignore"):
        return cllr(np.log(posteriors) - np.log1p(-posteriors), labels)


def least_cllr_of_gaussians(separation):
    """Cllr of the true llrs of two Gaussians: an llr of a target is normal around d^2 / 2 with deviation d."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    llrs = separation**2 / 2 + separation * nodes
    return weights @ np.logaddexp(0, -llrs) / weights.sum() / np.log(2)


def formula_solution(features, labels, p_target, regularisation):
    """Weights and offset that minimise the objective as it is written in the module, by a general optimiser."""
    inputs = np.column_stack(list(features.values()))
    shares = np.where(labels == 1, p_target / (labels == 1).sum(), (1 - p_target) / (labels == 0).sum())
    mean = shares @ inputs
    deviation = np.sqrt(shares @ (inputs - mean) ** 2)
    rows = np.column_stack([(inputs - mean) / deviation, np.ones(len(labels))])
    t, signs = logit(p_target), np.where(labels == 1, 1, -1)
    entropy = entr(p_target) + entr(1 - p_target)

    def objective(point):
        margin = signs * (rows @ point + t)
        value = shares @ np.logaddexp(0, -margin) / entropy + regularisation / 2 * point[:-1] @ point[:-1]
        slope = rows.T @ (-signs * shares * expit(-margin)) / entropy + regularisation * np.append(point[:-1], 0)
        return value, slope

    point = minimize(objective, np.zeros(rows.shape[1]), jac=True, method="BFGS", options={"gtol": 1e-9}).x
    weights = point[:-1] / deviation
    return weights, point[-1] - weights @ mean


def test_the_doctests_hold():
    result = doctest.testmod(module)
    assert result.attempted > 4
    assert result.failed == 0


@pytest.mark.parametrize("p_target", [0.5, 0.05, 0.01])
@pytest.mark.parametrize("regularisation", [1e-6, 1e-2, 1.0])
def test_the_solution_is_the_least_of_the_formula(p_target, regularisation):
    features, labels = two_systems(0, 300, 3000)
    features["log_duration_min"] = np.random.default_rng(5).normal(1, 0.3, len(labels)).astype(np.float32)
    weights, offset = formula_solution(features, labels, p_target, regularisation)
    found = fit(features, labels, p_target, regularisation)
    assert list(found.weights) == ["first", "second", "log_duration_min"]
    assert list(found.weights.values()) == pytest.approx(weights.tolist(), rel=1e-5, abs=1e-5)
    assert found.offset == pytest.approx(offset, rel=1e-5, abs=1e-5)
    expected = offset + sum(w * column.astype(np.float64) for w, column in zip(weights, features.values()))
    assert np.abs(found.llrs(features) - expected).max() < 1e-4


@pytest.mark.parametrize("p_target", [0.5, 0.05, 0.01])
def test_the_true_llr_of_gaussian_scores_is_recovered(p_target):
    scores, labels = gaussian(10_000, 90_000, mean=(0.1, 0.5), deviation=0.15)
    found = fit({"cosine": scores}, labels, p_target)
    # (m1 - m0) / d^2 and its product with the middle of the means
    assert found.weights["cosine"] == pytest.approx(17.78, rel=0.03)
    assert found.offset == pytest.approx(-5.333, rel=0.03)


def test_cllr_falls_to_that_of_the_best_monotone_map():
    scores, labels = gaussian(5_000, 45_000, mean=(0.1, 0.5), deviation=0.15)
    found = fit({"cosine": scores}, labels)
    unseen, its_labels = gaussian(5_000, 45_000, seed=1, mean=(0.1, 0.5), deviation=0.15)
    least = min_cllr(unseen, its_labels)
    assert cllr(unseen, its_labels) > 0.7
    assert least <= cllr(found.llrs({"cosine": unseen}), its_labels) < least + 0.01
    assert least == pytest.approx(least_cllr_of_gaussians(0.4 / 0.15), abs=0.02)


def test_at_prior_one_half_cllr_is_minimal_on_the_training_trials():
    scores, labels = gaussian(300, 3000)
    found = fit({"s": scores}, labels, p_target=0.5, regularisation=1e-12)
    w, b = found.weights["s"], found.offset
    best = cllr(w * scores + b, labels)
    for dw, db in [(0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.02), (-0.1, 0.02)]:
        assert cllr((w + dw) * scores + b + db, labels) > best


def test_the_proportion_of_nontargets_changes_nothing():
    features, labels = two_systems(3, 200, 1000)
    often = np.concatenate([np.arange(len(labels)), *[np.flatnonzero(labels == 0)] * 6])
    once = fit(features, labels, regularisation=0.01)
    more = fit({name: column[often] for name, column in features.items()}, labels[often], regularisation=0.01)
    assert more.weights == pytest.approx(once.weights, rel=1e-9)
    assert more.offset == pytest.approx(once.offset, rel=1e-9)


def test_the_prior_hardly_matters_where_the_llr_is_linear_in_the_score():
    scores, labels = gaussian(20_000, 80_000)
    points = {"s": [-0.3, 0.15, 0.6]}
    at_half, at_hundredth = (fit({"s": scores}, labels, p_target).llrs(points) for p_target in (0.5, 0.01))
    assert np.abs(at_half - at_hundredth).max() < 0.4  # of llrs that span from -8 to 8
    assert at_half == pytest.approx([-7.875, 0, 7.875], abs=0.3)


def test_the_prior_takes_the_side_of_its_trials_where_the_llr_is_not_linear():
    # Nontargets with a long upper tail: an application with rare targets must not be fooled by it.
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [5000, 50_000])
    scores = np.where(labels == 1, rng.normal(4, 1, len(labels)), rng.exponential(1, len(labels)))

    def loss(p_target, trained_for):
        llrs = fit({"s": scores}, labels, trained_for).llrs({"s": scores}).astype(np.float64)
        t = np.log(p_target / (1 - p_target))
        misses = np.logaddexp(0, -llrs[labels == 1] - t).mean()
        return p_target * misses + (1 - p_target) * np.logaddexp(0, llrs[labels == 0] + t).mean()

    assert loss(0.01, trained_for=0.01) < 0.99 * loss(0.01, trained_for=0.5)
    assert loss(0.5, trained_for=0.5) < 0.99 * loss(0.5, trained_for=0.01)


@given(st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=30), st.randoms())
def test_a_single_scores_llrs_rise_with_it(more, random):
    labels = np.array([1, 0, *(random.randint(0, 1) for _ in more)])
    scores = np.array([3.0, -3.0, *more], dtype=np.float32)
    try:
        found = fit({"s": scores}, labels, p_target=0.3)
    except ValueError as error:
        assert "is higher for nontargets" in str(error)
        event("refused")
        return
    assert (np.diff(found.llrs({"s": np.sort(scores)})) >= 0).all()


def test_a_single_score_that_is_the_wrong_way_round_is_refused_but_not_in_a_fusion():
    features, labels = two_systems(0, 200, 1000)
    with pytest.raises(ValueError, match=r"'distance' is higher for nontargets .* \(weight -.*negate"):
        fit({"distance": -features["first"]}, labels)
    turned = fit({"first": features["first"], "distance": -features["second"]}, labels)
    straight = fit(features, labels)
    assert turned.weights["distance"] == pytest.approx(-straight.weights["second"], rel=1e-9)
    assert turned.offset == pytest.approx(straight.offset, rel=1e-9)


def test_a_fusion_of_two_complementary_systems_beats_both():
    features, labels = two_systems(0)
    unseen, its_labels = two_systems(1)
    alone = [cllr(fit({name: features[name]}, labels).llrs({name: unseen[name]}), its_labels) for name in features]
    together = cllr(fit(features, labels).llrs(unseen), its_labels)
    assert alone == pytest.approx([least_cllr_of_gaussians(2), least_cllr_of_gaussians(1.5)], abs=0.02)
    assert together == pytest.approx(least_cllr_of_gaussians(2.5), abs=0.02)  # 2 and 1.5 at a right angle
    assert together < min(alone) - 0.1


@pytest.mark.parametrize("noise", [0, 1e-9, 1e-5])
def test_a_system_fused_with_its_copy_gives_the_same_llrs(noise):
    features, labels = two_systems(0)
    score = features["first"]
    near = score + noise * np.random.default_rng(0).normal(size=len(score))
    alone = fit({"first": score}, labels).llrs({"first": score})
    copied = fit({"first": score, "copy": near}, labels)
    assert np.abs(copied.llrs({"first": score, "copy": near}) - alone).max() < 1e-3
    if not noise:
        assert copied.weights["first"] == pytest.approx(copied.weights["copy"], rel=1e-6)


def test_quality_measures_of_pure_noise_get_hardly_a_weight():
    scores, labels = gaussian(10_000, 90_000, mean=(0.1, 0.5))
    noise = {f"noise{n}": np.random.default_rng(n).normal(5, 2, len(labels)) for n in range(3)}
    alone, beside = fit({"s": scores}, labels), fit({"s": scores} | noise, labels)
    for name, column in noise.items():
        assert abs(beside.weights[name]) * column.std() < 0.06  # the score's is about 2 * 0.2 / 0.1
    assert np.abs(beside.llrs({"s": scores} | noise) - alone.llrs({"s": scores})).mean() < 0.1


def test_a_quality_measure_that_tells_something_lowers_the_cost():
    # Scores of short utterances are higher: without the duration, the threshold is wrong for all.
    def trials(seed):
        rng = np.random.default_rng(seed)
        labels = rng.permutation(np.repeat([1, 0], [2000, 18_000]))
        log_duration = rng.normal(1, 0.7, len(labels))
        return {"s": rng.normal(2.5 * labels - 1.5 * log_duration, 1), "log_duration_min": log_duration}, labels

    features, labels = trials(0)
    unseen, its_labels = trials(1)
    alone = cllr(fit({"s": features["s"]}, labels).llrs({"s": unseen["s"]}), its_labels)
    found = fit(features, labels)
    assert cllr(found.llrs(unseen), its_labels) < alone - 0.1
    assert found.weights["log_duration_min"] / found.weights["s"] == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize("p_target", [0.5, 0.05, 0.0001, 0.999])
def test_outliers_do_not_make_the_fit_diverge(p_target):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = np.array([1, 0, *rng.integers(0, 2, 38)])
        features = {name: rng.standard_t(0.5, 40) + 3 * labels for name in "ab"}
        llrs = fit(features, labels, p_target).llrs(features)
        # Where the slope along the offset is 0, the mean posterior is the prior.
        posteriors = expit(llrs + logit(p_target))
        mean = p_target * posteriors[labels == 1].mean() + (1 - p_target) * posteriors[labels == 0].mean()
        assert mean == pytest.approx(p_target, rel=1e-4)


def test_a_constant_column_has_the_weight_zero_and_changes_nothing():
    scores, labels = gaussian(500, 5000)
    alone = fit({"s": scores}, labels)
    for constant in (0.0, 0.1, -1e30, np.float32(0.1)):
        beside = fit({"c": np.full(len(scores), constant), "s": scores}, labels)
        assert beside.weights == {"c": 0, "s": pytest.approx(alone.weights["s"], rel=1e-9)}
        assert beside.offset == pytest.approx(alone.offset, rel=1e-9)
    only = fit({"c": np.full(len(scores), 0.1)}, labels)
    assert only.weights == {"c": 0}
    assert np.abs(only.llrs({"c": [0.1, 7]})).max() < 1e-9


@pytest.mark.parametrize("p_target", [0.5, 0.01])
def test_separable_trials_stay_finite(p_target):
    labels = np.repeat([1, 0], [20, 500])
    scores = labels + np.random.default_rng(0).uniform(0, 0.1, len(labels))
    for regularisation, most in ((1e-3, 13), (1e-6, 20), (1e-12, 40)):
        llrs = fit({"s": scores}, labels, p_target, regularisation).llrs({"s": scores})
        assert 4 < llrs[labels == 1].min() < llrs.max() < most
        assert -most < llrs.min() < llrs[labels == 0].max() < -4


def test_one_target_and_one_nontarget_are_enough():
    high, middle, low = fit({"s": [1.0, 0.0]}, [1, 0], 0.5).llrs({"s": [1.0, 0.5, 0.0]})
    assert middle == pytest.approx(0, abs=1e-5)
    assert high == pytest.approx(-low, abs=1e-5)
    assert 5 < high < 20


def test_scale_and_place_of_the_columns_do_not_matter():
    features, labels = two_systems(0, 300, 3000)
    expected = fit(features, labels, regularisation=0.1).llrs(features)
    for scale, shift in ((1e-6, 0), (1e6, 0), (1, 1e6), (1e-3, -10)):
        moved = {name: scale * column + shift for name, column in features.items()}
        assert np.abs(fit(moved, labels, regularisation=0.1).llrs(moved) - expected).max() < 1e-4


def test_the_same_trials_give_the_same_calibration_to_the_bit():
    features, labels = two_systems(0)
    assert fit(features, labels) == fit(features, labels)


def test_float32_columns_and_integers_are_summed_in_float64():
    # A product of a float32 column and a Python float would be float32, and wrong by 1e-3 here.
    found = Calibration({"a": 1000.1, "b": -1000.0}, 0.5, 0.05)
    column = np.array([12.345678], dtype=np.float32)
    assert found.llrs({"a": column, "b": column})[0] == pytest.approx(0.1 * float(column[0]) + 0.5, abs=1e-6)
    assert found.llrs({"a": [2], "b": [2]}) == pytest.approx([0.7], abs=1e-6)
    assert found.llrs({"a": column, "b": column}).dtype == np.float32


def test_a_list_in_parts_gives_the_same_bytes_and_the_order_of_columns_does_not_matter():
    features, labels = two_systems(0)
    found = fit(features, labels)
    whole = found.llrs(features)
    for size in (1, 7, 5000):
        ends = range(0, len(labels) if size > 1 else 50, size)
        parts = [found.llrs({name: column[end : end + size] for name, column in features.items()}) for end in ends]
        assert np.array_equal(np.concatenate(parts), whole[: sum(map(len, parts))])
    assert np.array_equal(found.llrs(dict(reversed(features.items()))), whole)
    assert found.llrs({"first": np.empty(0), "second": np.empty(0)}).shape == (0,)


def test_a_million_trials_with_six_features_take_seconds():
    rng = np.random.default_rng(0)
    labels = (rng.random(1_000_000) < 0.05).astype(np.int8)
    features = {f"f{n}": (rng.standard_normal(len(labels), dtype=np.float32) + n * labels) for n in range(6)}
    start = time.process_time()
    found = fit(features, labels)
    assert time.process_time() - start < 5
    assert found.weights["f5"] == pytest.approx(5, rel=0.2)


def test_scores_that_are_only_just_apart_are_calibrated():
    # Half of the trials have a probability of nearly 0 or 1, and Newton's method gives up.
    scores, labels = np.array([3, -3, 0.015625, 0, 1, 0]), np.array([1, 0, 1, 0, 1, 0])
    weights, offset = formula_solution({"s": scores}, labels, 0.3, REGULARISATION)
    found = fit({"s": scores}, labels, p_target=0.3)
    assert (found.weights["s"], found.offset) == pytest.approx((weights[0], offset), rel=1e-3)
    assert found.weights["s"] > 200


def test_a_fit_that_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(logistic_regression, "_MOST_STEPS", 2)
    scores, labels = gaussian(50, 500)
    with pytest.raises(ValueError, match="has not converged in 2 steps; raise regularisation, 1e-06"):
        fit({"s": scores}, labels)


def test_trials_that_cannot_be_trained_on_are_refused():
    labels = [1, 0, 1, 0]
    good = [0.9, 0.1, 0.8, 0.2]
    cases = [
        ({"a": good, "b": [0, 1, np.nan, 2]}, labels, "'b' is nan at index 2; it must be a finite float32 number"),
        ({"a": [0, 1, 2, -np.inf]}, labels, "'a' is -inf at index 3"),
        ({"a": [0, 1e39, 2, 3]}, labels, r"'a' is 1e\+39 at index 1"),
        ({"a": good, "b": good[:3]}, labels, "lengths differ: 'a' 4, 'b' 3"),
        ({"a": good}, labels[:3], "lengths differ: 4 scores, 3 labels"),
        ({"a": good}, [1, 1, 1, 1], "only targets"),
        ({"a": good}, [0, 0, 0, 0], "only nontargets"),
        ({"a": good}, [1, 0, 2, 0], "found '2' at index 2"),
        ({"a": [good]}, labels, r"'a' must be \(n_trials,\) real numbers, got float64 \(1, 4\)"),
        ({"a": list("abcd")}, labels, "'a' must be .* real numbers, got <U1"),
        ({"a": []}, [], "empty"),
        ({}, labels, "at least one; got dict"),
        (np.ones((4, 2)), labels, "features must map names to columns, at least one; got ndarray"),
    ]
    for features, some_labels, message in cases:
        with pytest.raises(ValueError, match=message):
            fit(features, some_labels)
    for p_target in (0, 1, -0.1, np.nan):
        with pytest.raises(ValueError, match="p_target must lie between 0 and 1"):
            fit({"a": good}, labels, p_target)
    for regularisation in (0, -1, 1e-13, np.inf, np.nan):
        with pytest.raises(ValueError, match="regularisation must be at least 1e-12"):
            fit({"a": good}, labels, regularisation=regularisation)


def test_columns_that_are_not_those_of_the_fit_are_refused_by_name():
    found = Calibration({"cosine": 2.0, "magnitude_min": 0.1}, 0.0, 0.05)
    with pytest.raises(ValueError, match="missing: 'magnitude_min'; unknown: 'duration', 'plda'"):
        found.llrs({"cosine": [1.0], "duration": [1.0], "plda": [1.0]})
    with pytest.raises(ValueError, match="missing: none; unknown: 'plda'"):
        found.llrs({"cosine": [1.0], "magnitude_min": [1.0], "plda": [1.0]})
    with pytest.raises(ValueError, match="missing: 'magnitude_min'; unknown: none"):
        found.llrs({"cosine": [1.0]})
    with pytest.raises(ValueError, match="'cosine' is nan at index 1"):
        found.llrs({"cosine": [1.0, np.nan], "magnitude_min": [1.0, 1.0]})
    with pytest.raises(ValueError, match="lengths differ: 'cosine' 2, 'magnitude_min' 1"):
        found.llrs({"cosine": [1.0, 2.0], "magnitude_min": [1.0]})


def test_a_calibration_is_read_back_to_the_bit(tmp_path):
    features, labels = two_systems(0, 100, 1000)
    belongs_to = {"systems": ["first", "zweite Größe"], "targets": 100, "share": 0.1, "model": None}
    written = fit_calibration(features, labels, 0.05, 1e-6, belongs_to)
    path = tmp_path / "new" / "fusion.json"
    written.write(path)
    read = read_calibration(path)
    assert read == written
    assert list(read.weights) == ["first", "second"]
    assert np.array_equal(read.llrs(features), written.llrs(features))
    text = path.read_text(encoding="utf-8")
    assert "zweite Größe" in text
    assert list(json.loads(text)) == ["weights", "offset", "p_target", "belongs_to", "ranges"]


NAMES = st.text(st.characters(codec="utf-8"))


@settings(max_examples=30)
@given(st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_any_finite_weights_are_read_back(tmp_path_factory, weights):
    path = tmp_path_factory.getbasetemp() / "weights.json"
    written = Calibration(weights, -0.1, 0.01)
    written.write(path)
    assert read_calibration(path) == written


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "calibration.json"
    Calibration({"a": 1.0}, 0.0, 0.05).write(path)
    before = path.read_bytes()
    broken = Calibration({"a": 1.0}, 0.0, 0.05)
    broken.belongs_to["late"] = {1, 2}
    with pytest.raises(TypeError):
        broken.write(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["calibration.json"]


GOOD = {"weights": {"cosine": 2}, "offset": -1.5, "p_target": 0.05, "belongs_to": {}, "ranges": {}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps(GOOD)[:-3], r":1: not JSON \(.*\); make the calibration again"),
        ("[1]", "expected a JSON object with the keys 'weights', 'offset', 'p_target', 'belongs_to'"),
        ({"weights": ...}, "missing keys: 'weights'; unknown keys: none"),
        ({"bias": 1}, "missing keys: none; unknown keys: 'bias'"),
        ({"bias": 1, "offset": ...}, "missing keys: 'offset'; unknown keys: 'bias'"),
        ({"weights": {}}, "weights must map feature names to numbers, got {}"),
        ({"weights": [1]}, r"weights must map feature names to numbers, got \[1\]"),
        ({"weights": {"cosine": "2"}}, "weights must map feature names to finite numbers, got 'cosine': '2'"),
        ({"weights": {"cosine": True}}, "'cosine': True"),
        ({"weights": {"cosine": float("nan")}}, "'cosine': nan"),
        ({"weights": {"cosine": 10**400}}, "'cosine': 1000"),
        ({"offset": None}, "offset must be a finite number, got None"),
        ({"offset": float("inf")}, "offset must be a finite number, got inf"),
        ({"p_target": "0.05"}, "p_target must be a number, got '0.05'"),
        ({"p_target": 1}, "p_target must lie between 0 and 1, got 1"),
        ({"belongs_to": []}, r"belongs_to must be a dictionary that JSON can hold, got \[\]"),
        ({"belongs_to": {"trials": float("nan")}}, "belongs_to must be a dictionary that JSON can hold"),
        ({"ranges": []}, r"ranges must map names of weights to \[lowest, highest\], got \[\]"),
        ({"ranges": {"magnitude_min": [1, 2]}}, "ranges must map names of weights"),
        ({"ranges": {"cosine": [2, 1]}}, r"'cosine': \[2, 1\]"),
        ({"ranges": {"cosine": [1, float("nan")]}}, r"'cosine': \[1, nan\]"),
        ({"ranges": {"cosine": 1}}, "'cosine': 1"),
        ({"ranges": ..., "weights": {"score": 1, "log_duration_min": 1}}, "missing keys: 'ranges'"),
        (b"\xff\xfe", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        (None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_in_one_line(tmp_path, content, message):
    path = tmp_path / "calibration.json"
    if isinstance(content, dict):
        content = json.dumps({key: value for key, value in (GOOD | content).items() if value is not ...})
    if isinstance(content, str):
        content = content.encode()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpkverError, match=message) as caught:
        read_calibration(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_of_scores_alone_from_before_there_were_ranges_is_read(tmp_path):
    old = {key: value for key, value in GOOD.items() if key != "ranges"}
    (tmp_path / "calibration.json").write_text(json.dumps(old))
    assert read_calibration(tmp_path / "calibration.json").llrs({"cosine": [3.0]}).tolist() == [4.5]


def test_beyond_the_range_of_the_fit_a_held_measure_counts_as_its_end():
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], 500)
    length = rng.uniform(1, 2, 1000)
    features = {"cosine": labels + rng.normal(size=1000), "log_duration_min": length + 0.3 * labels}
    held = fit_calibration(features, labels, 0.05, 1e-6, held=["log_duration_min"])
    free = fit_calibration(features, labels, 0.05, 1e-6)
    assert held.weights == free.weights and held.weights["log_duration_min"] > 1
    low, high = held.ranges["log_duration_min"]
    assert (low, high) == (features["log_duration_min"].min(), features["log_duration_min"].max())
    assert held.quality == ["duration"] and "cosine" not in held.ranges
    assert np.array_equal(held.llrs(features), free.llrs(features))
    beyond = {"cosine": [0.0] * 4, "log_duration_min": [low, low - 5, high, high + 5]}
    llrs = held.llrs(beyond)
    assert llrs[0] == llrs[1] < llrs[2] == llrs[3]
    assert free.llrs(beyond)[3] > llrs[3] + 5
    with pytest.raises(ValueError, match="held must name columns, 'cosine', 'log_duration_min'; got 'magnitude_min'"):
        fit_calibration(features, labels, 0.05, 1e-6, held=["magnitude_min"])


def test_a_weight_of_two_is_the_trial_twice():
    features, labels = two_systems(0, 50, 200)
    twice = np.arange(250) % 3 == 0
    weighted = fit_calibration(features, labels, 0.05, 1e-6, trial_weights=1 + twice)
    repeated = {name: np.concatenate([column, column[twice]]) for name, column in features.items()}
    plain = fit_calibration(repeated, np.concatenate([labels, labels[twice]]), 0.05, 1e-6)
    assert list(weighted.weights.values()) == pytest.approx(list(plain.weights.values()))
    assert weighted.offset == pytest.approx(plain.offset)
    assert weighted.offset != pytest.approx(fit_calibration(features, labels, 0.05, 1e-6).offset, rel=1e-3)
    for wrong in (twice, np.ones(3), np.full(250, np.nan)):
        with pytest.raises(ValueError, match="trial_weights must be 250 finite numbers above 0"):
            fit_calibration(features, labels, 0.05, 1e-6, trial_weights=wrong)


def test_a_file_edited_by_hand_is_read(tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8-sig")
    assert read_calibration(path).llrs({"cosine": [1.0, 0.0]}).tolist() == [0.5, -1.5]


@pytest.mark.parametrize("belongs_to", [{"n": np.int64(3)}, {"ids": (1, 2)}, {1: "a"}, {"a": "\udcff"}, "cosine"])
def test_what_json_would_change_or_refuse_cannot_be_kept(belongs_to):
    with pytest.raises(ValueError, match="belongs_to must be a dictionary that JSON can hold"):
        Calibration({"a": 1.0}, 0.0, 0.05, belongs_to)
