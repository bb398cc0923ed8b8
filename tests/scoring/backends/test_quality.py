"""Quality measures of trials: the two sides of a trial without order, and nothing that is not a number."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.scoring.backends import quality
from spkver.scoring.backends.quality import quality_columns

MEASURES = {"duration": [1.0, 2.5, 10.0], "magnitude": [7, 9, 8], "cohort_mean": [0.3, -0.1, 0.2]}


def test_the_doctests_hold():
    result = doctest.testmod(quality)
    assert result.attempted > 1
    assert result.failed == 0


def test_each_trial_has_the_lesser_and_the_greater_value_of_its_sides():
    columns = quality_columns(MEASURES, [0, 2, 1], [1, 1, 1])
    expected = {
        "log_duration_min": np.log([1, 2.5, 2.5]),
        "log_duration_max": np.log([2.5, 10, 2.5]),
        "magnitude_min": [7, 8, 9],
        "magnitude_max": [9, 9, 9],
        "cohort_mean_min": [-0.1, -0.1, -0.1],
        "cohort_mean_max": [0.3, 0.2, -0.1],
    }
    assert list(columns) == list(expected)
    for name, column in columns.items():
        assert column.dtype == np.float32
        assert column == pytest.approx(np.asarray(expected[name]), rel=1e-6)


def test_only_the_measures_given_make_columns():
    assert list(quality_columns({"magnitude": [1.0, 2.0]}, [0], [1])) == ["magnitude_min", "magnitude_max"]
    assert quality_columns({}, [0], [1]) == {}
    assert quality_columns(MEASURES, np.empty(0, int), np.empty(0, int))["magnitude_min"].shape == (0,)


@given(
    st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=20),
)
def test_the_sides_may_change_places(durations, pairs):
    enroll, test = np.array(pairs, dtype=np.int64).reshape(-1, 2).T % len(durations)
    measures = {"duration": durations, "cohort_mean": np.negative(durations)}
    there, back = quality_columns(measures, enroll, test), quality_columns(measures, test, enroll)
    for name, column in there.items():
        assert np.array_equal(column, back[name])
    assert (there["log_duration_min"] <= there["log_duration_max"]).all()
    for trial, (a, b) in enumerate(zip(enroll, test)):
        shorter = np.log(min(durations[a], durations[b]))
        assert there["log_duration_min"][trial] == pytest.approx(shorter, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        ({"duration": [1, 0.0, 3]}, "'duration' of the utterance at index 1 is 0.0; .* a finite number above 0"),
        ({"duration": [1, 2, -3]}, "'duration' of the utterance at index 2 is -3"),
        ({"duration": [np.nan, 2, 3]}, "'duration' of the utterance at index 0 is nan"),
        ({"duration": [1, 2, np.inf]}, "'duration' of the utterance at index 2 is inf"),
        ({"magnitude": [1, np.nan, 3]}, "'magnitude' of the utterance at index 1 is nan; .* finite float32"),
        ({"cohort_mean": [1, 2, -np.inf]}, "'cohort_mean' of the utterance at index 2 is -inf"),
        ({"cohort_mean": [1, 2, 1e39]}, r"'cohort_mean' of the utterance at index 2 is 1e\+39"),
        ({"durations": [1, 2, 3]}, "unknown measure 'durations'; expected duration, magnitude, cohort_mean"),
        ({"magnitude": [[1, 2, 3]]}, r"'magnitude' must be \(n_utterances,\) real numbers, got int64 \(1, 3\)"),
        ({"magnitude": ["1", "2", "3"]}, "'magnitude' must be .* real numbers, got <U1"),
        ({"magnitude": [1, 2, 3], "duration": [1, 2]}, "test_index must lie in 0 .. 1, found 2 at trial 1"),
    ],
)
def test_measures_that_are_no_measures_are_refused(measures, message):
    with pytest.raises(ValueError, match=message):
        quality_columns(measures, [0, 1], [1, 2])


@pytest.mark.parametrize(
    ("enroll", "test", "message"),
    [
        ([0, 3], [1, 2], "enroll_index must lie in 0 .. 2, found 3 at trial 1"),
        ([0, 1], [-1, 2], "test_index must lie in 0 .. 2, found -1 at trial 0"),
        ([0, 1], [1], "enroll_index has 2 trials, test_index has 1"),
        ([[0, 1]], [[1, 2]], r"enroll_index must be \(n_trials,\) integers, got int64 \(1, 2\)"),
        ([0.0, 1.0], [1, 2], r"enroll_index must be \(n_trials,\) integers, got float64"),
        ([True, False], [1, 2], r"enroll_index must be \(n_trials,\) integers, got bool"),
    ],
)
def test_indices_that_lead_nowhere_are_refused(enroll, test, message):
    with pytest.raises(ValueError, match=message):
        quality_columns(MEASURES, enroll, test)
