"""Two systems on the same trials: the same draws for both, intervals that are narrower for it, honest p-values."""

import numpy as np
import pytest

from spkver.scoring.metrics import comparison, equal_error_rate, min_dcf
from spkver.scoring.metrics.bootstrap import intervals
from spkver.scoring.metrics.comparison import Difference, compare


def two_systems(n_speakers, per_speaker, seed, gain=0.0, own=0.3):
    """Two systems that find much the same speakers hard, ``own`` being what differs; b is better by ``gain``."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(n_speakers), per_speaker)
    first, second = np.triu_indices(len(speaker), k=1)
    enroll, test = speaker[first], speaker[second]
    labels = (enroll == test).astype(int)
    trait = 0.8 * rng.normal(size=n_speakers)
    common = (trait[enroll] + trait[test]) / 2 + rng.normal(size=len(labels))
    systems = []
    for more in (0, gain):
        spread = own * rng.normal(size=n_speakers)
        noise = 0.1 * rng.normal(size=len(labels))
        systems.append(common + (spread[enroll] + spread[test]) / 2 + noise + (2.5 + more) * labels)
    return *systems, labels, enroll, test


def literal_figures(scores, labels, enroll, test, n, seed):
    """EER and minDCF(0.05) of each resample, with the trials of the drawn speakers written out."""
    n_speakers = len({*enroll, *test})
    rng = np.random.default_rng(seed)
    found = []
    while len(found) < n:
        count = rng.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers))
        times = np.where(labels == 1, count[enroll], count[enroll] * count[test])
        if times[labels == 1].any() and times[labels == 0].any():
            trials = np.repeat(scores, times), np.repeat(labels, times)
            found.append((equal_error_rate(*trials)[0], min_dcf(*trials, 0.05)[0]))
    return np.array(found)


@pytest.mark.parametrize("n_speakers", [3, 8])
def test_both_systems_are_scored_on_the_same_draws(n_speakers):
    a, b, labels, enroll, test = two_systems(n_speakers, 3, seed=n_speakers, gain=0.2)
    a, b = a.round(1), b.round(1)
    found = compare(a, b, labels, enroll, test, p_targets=(0.05,), n=60, level=0.8, seed=4)
    expected = [literal_figures(scores, labels, enroll, test, 60, 4) for scores in (a, b)]
    differences = expected[1] - expected[0]
    observed = [(equal_error_rate(scores, labels)[0], min_dcf(scores, labels, 0.05)[0]) for scores in (a, b)]
    assert list(found) == ["eer", "min_dcf_0.05"]
    for column, figure in enumerate(found.values()):
        values = differences[:, column].round(12)
        assert (figure.a, figure.b) == pytest.approx((observed[0][column], observed[1][column]), abs=1e-12)
        assert figure.difference == figure.b - figure.a
        assert (figure.low, figure.high) == pytest.approx(np.quantile(values, [0.1, 0.9]), abs=1e-12)
        assert figure.b_better == (values < 0).mean()
        beyond = min((values <= 0).sum(), (values >= 0).sum())
        assert figure.p_value == pytest.approx(min(1, 2 * (1 + beyond) / 61))


def test_a_system_does_not_differ_from_itself_nor_from_a_rescaled_self():
    a, _, labels, enroll, test = two_systems(10, 3, seed=0)
    for same in (a, 3 * a - 7, np.exp(a)):
        for figure in compare(a, same, labels, enroll, test, n=50).values():
            assert (figure.difference, figure.low, figure.high) == (0, 0, 0)
            assert (figure.b_better, figure.p_value) == (0, 1)


def test_no_system_is_better_for_the_last_bit_of_a_figure(monkeypatch):
    a, _, labels, enroll, test = two_systems(4, 2, seed=0)
    almost = np.full((50, 2, 1), 0.3)
    almost[:, 1] = np.nextafter(0.3, 0)
    monkeypatch.setattr(comparison, "resampled_figures", lambda *_: almost)
    eer = compare(a, a, labels, enroll, test, p_targets=(), n=50)["eer"]
    assert (eer.b_better, eer.p_value) == (0, 1)


def test_swapped_systems_have_the_opposite_differences_and_the_same_p_value():
    a, b, labels, enroll, test = two_systems(12, 3, seed=1, gain=0.1)
    forth, back = compare(a, b, labels, enroll, test, n=200), compare(b, a, labels, enroll, test, n=200)
    for one, other in zip(forth.values(), back.values()):
        assert (one.a, one.b, one.difference) == (other.b, other.a, -other.difference)
        assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-15)
        assert one.p_value == other.p_value
        assert one.b_better + other.b_better <= 1


def test_a_better_system_is_told_although_the_intervals_of_both_overlap():
    a, b, labels, enroll, test = two_systems(40, 4, seed=2, gain=0.3, own=0.1)
    of_a, of_b = (intervals(scores, labels, enroll, test, n=300)["eer"] for scores in (a, b))
    assert of_b[1] > of_a[0]  # overlap
    eer = compare(a, b, labels, enroll, test, n=300)["eer"]
    assert isinstance(eer, Difference)
    assert eer.high < 0 and eer.b_better > 0.99 and eer.p_value < 0.02
    assert eer.high - eer.low < 0.8 * (of_a[1] - of_a[0])
    assert eer.p_value >= 2 / 301  # never 0


def test_equal_systems_are_called_different_about_as_rarely_as_the_level_says():
    trials = (two_systems(30, 4, seed, own=1.0) for seed in range(80))
    p_values = [compare(*each, n=99, p_targets=())["eer"].p_value for each in trials]
    # At 5 %, 4 of 80 are expected; more than 10 would come by chance once in 1,000. Half lie below 50 %.
    assert sum(p <= 0.05 for p in p_values) <= 10
    assert 25 <= sum(p <= 0.5 for p in p_values) <= 55


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_agrees_with_the_interval_of_its_level(seed):
    trials = two_systems(20, 3, seed, gain=0.3, own=0.8)
    p_value = compare(*trials, n=999)["eer"].p_value
    assert 0.004 < p_value < 0.9
    for level, holds_zero in ((1 - p_value / 1.1 + 0.004, True), (1 - p_value * 1.1 - 0.004, False)):
        found = compare(*trials, n=999, level=level)["eer"]
        assert (found.low <= 0 <= found.high) == holds_zero


def test_what_does_not_fit_is_refused_and_the_system_is_named():
    a, b, labels, enroll, test = two_systems(4, 2, seed=0)
    with pytest.raises(ValueError, match="scores_b: lengths differ: 27 scores, 28 labels"):
        compare(a, b[1:], labels, enroll, test)
    with pytest.raises(ValueError, match="scores_a: scores hold NaN"):
        compare(a * np.nan, b, labels, enroll, test)
    with pytest.raises(ValueError, match="n must be at least 1"):
        compare(a, b, labels, enroll, test, n=0)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        compare(a, b, labels, enroll, test, level=1)
    with pytest.raises(ValueError, match="trial at index 0 has label 0"):
        compare(a, b, 1 - labels, enroll, test)
    with pytest.raises(ValueError, match="p_target must lie between 0 and 1"):
        compare(a, b, labels, enroll, test, p_targets=(0,))
