"""Figures by condition: each is that of its own trials, and conditions are made from utterances as they say."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.scoring.metrics import conditions, equal_error_rate, min_dcf
from spkver.scoring.metrics.conditions import Column, by_condition, column, lesser, shared


def scored(n=600, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=n)
    return rng.normal(size=n).astype(np.float32) + 1.5 * labels.astype(np.float32), labels


def named(found):
    """The name of each trial's condition."""
    return [found.names[code] for code in found.codes]


@given(st.lists(st.sampled_from(["f", "m", "mixed", "unknown"]), min_size=20, max_size=60), st.integers(0, 9))
def test_each_condition_has_the_figures_of_its_trials_alone(values, seed):
    scores, labels = scored(len(values), seed)
    labels[:2] = 0, 1
    found = by_condition(scores, labels, {"gender": column(values)}, p_targets=(0.01, 0.3))["gender"]
    assert list(found) == sorted(set(values))
    for name, record in found.items():
        own = np.array(values) == name
        n_targets = labels[own].sum()
        assert (record["targets"], record["nontargets"]) == (n_targets, own.sum() - n_targets)
        assert list(record) == ["targets", "nontargets", "eer", "min_dcf_0.01", "min_dcf_0.3"]
        if n_targets in (0, own.sum()):
            assert record["eer"] is record["min_dcf_0.01"] is record["min_dcf_0.3"] is None
        else:
            assert record["eer"] == equal_error_rate(scores[own], labels[own])[0]
            assert record["min_dcf_0.3"] == min_dcf(scores[own], labels[own], 0.3)[0]


def test_one_condition_for_all_is_the_whole_list_and_columns_do_not_mix():
    scores, labels = scored()
    found = by_condition(scores, labels, {"all": column(np.full(600, "x")), "halves": column(np.arange(600) // 300)})
    assert found["all"]["x"]["eer"] == equal_error_rate(scores, labels)[0]
    assert list(found["halves"]) == ["0", "1"]
    assert sum(record["targets"] for record in found["halves"].values()) == labels.sum()
    assert found["halves"]["1"]["eer"] == equal_error_rate(scores[300:], labels[300:])[0]


def test_names_without_trials_are_left_out_and_those_of_one_class_are_counted():
    codes = np.array([0, 0, 2, 2, 3])
    found = by_condition([3, 1, 2, 4, 5], [1, 0, 1, 1, 0], {"x": Column(codes, ["a", "b", "c", "d", "e"])})["x"]
    assert list(found) == ["a", "c", "d"]
    assert (found["c"]["targets"], found["c"]["nontargets"], found["c"]["eer"]) == (2, 0, None)
    assert (found["d"]["targets"], found["d"]["nontargets"], found["d"]["min_dcf_0.01"]) == (0, 1, None)


def test_many_conditions_of_a_long_list_take_a_fraction_of_a_second():
    scores, labels = scored(300_000)
    speaker = np.random.default_rng(1).integers(3000, size=300_000)
    column_of_speakers = Column(speaker, [f"s{n}" for n in range(3000)])
    found = by_condition(scores, labels, {"speaker": column_of_speakers}, p_targets=())
    assert len(found["speaker"]) == 3000
    own = speaker == 7
    assert found["speaker"]["s7"]["eer"] == equal_error_rate(scores[own], labels[own])[0]


def test_few_numbers_are_conditions_each_and_in_the_order_of_numbers():
    assert column([16000, 8000, 16000]).names == ["8000", "16000"]
    assert named(column([16000, 8000, 16000])) == ["16000", "8000", "16000"]
    assert column(np.array([10, 9, 100])).names == ["9", "10", "100"]
    assert column(np.array([0.1, 2.5], dtype=np.float32)).names == ["0.1", "2.5"]
    assert column([False, True, True]).names == ["False", "True"]
    assert column([1000000, 1000001]).names == ["1000000", "1000001"]


def test_many_numbers_are_cut_into_thirds_that_say_where_they_end():
    durations = np.random.default_rng(0).uniform(1.5, 9.3, 3000).astype(np.float32)
    found = column(durations)
    low, high = found.names[0].removeprefix("< "), found.names[2].removeprefix(">= ")
    assert found.names[1] == f"{low} - {high}" and len(low) == len(high) == 3  # such as 4.1 - 6.7
    expected = (durations >= np.float32(low)).astype(int) + (durations >= np.float32(high))
    assert (found.codes == expected).all()
    assert np.bincount(found.codes) == pytest.approx([1000] * 3, rel=0.05)


@pytest.mark.parametrize(
    ("numbers", "names"),
    [
        (np.arange(0, 9001, 10), ["< 3000", "3000 - 6000", ">= 6000"]),
        (np.arange(0, 901), ["< 300", "300 - 600", ">= 600"]),
        (np.linspace(0, 0.09, 901), ["< 0.030", "0.030 - 0.060", ">= 0.060"]),
        (1e6 + np.linspace(0, 9, 901), ["< 1000003.0", "1000003.0 - 1000006.0", ">= 1000006.0"]),
        (-np.linspace(0, 9, 901), ["< -6.0", "-6.0 - -3.0", ">= -3.0"]),
        (np.linspace(-3.03, 6, 904), ["< 0.0", "0.0 - 3.0", ">= 3.0"]),
        (np.append(np.full(100, 3.0), np.arange(8)), ["< 3.0", ">= 3.0"]),
    ],
)
def test_cuts_have_the_digits_that_the_range_needs(numbers, names):
    assert column(numbers).names == names


@given(st.lists(st.integers(-500, 500).map(lambda n: n / 8), min_size=6, max_size=50, unique=True))
def test_every_number_lies_in_the_bin_that_it_is_said_to_lie_in(numbers):
    found = column(numbers)
    for number, name in zip(numbers, named(found)):
        if name.startswith("< "):
            assert number < float(name[2:])
        elif name.startswith(">= "):
            assert number >= float(name[3:])
        else:
            low, high = name.split(" - ")
            assert float(low) <= number < float(high)


def test_a_float32_number_lies_at_the_cut_of_the_same_digits_not_below_it():
    found = column(np.array([0, 1, 2.1, 2.1, 2.1, 2.1, 5, 6, 7, 4.9, 4.8, 4.7], dtype=np.float32))
    assert found.names[0] == "< 2.1" and named(found)[2] != "< 2.1"


def test_trial_columns_from_utterances():
    seconds = np.array([2.0, 8.0, 4.0, 1.0], dtype=np.float32)
    gender, enroll, test = ["f", "m", "f", "m"], np.array([0, 0, 1, 3]), np.array([2, 1, 3, 2])
    assert named(shared(gender, enroll, test)) == ["f", "mixed", "m", "mixed"]
    assert lesser(seconds, enroll, test).tolist() == [2, 2, 1, 1]
    assert lesser(seconds, enroll, test).dtype == np.float32
    columns = {"gender": shared(gender, enroll, test), "seconds": column(lesser(seconds, enroll, test))}
    found = by_condition([4, 3, 2, 1], [1, 0, 1, 0], columns)
    assert list(found["gender"]) == ["f", "m", "mixed"] and list(found["seconds"]) == ["1.0", "2.0"]
    assert found["seconds"]["2.0"]["eer"] == 0


def test_what_is_wrong_is_said():
    scores, labels = [0.1, 0.2, 0.3], [1, 0, 1]
    for values, message in (
        ([1.0, np.nan, 2.0], "values must be finite, found nan at index 1"),
        ([["f"], ["m"], ["f"]], "values must have one dimension"),
        ([None, "f", "m"], "values must be strings or numbers, not object"),
        ([], "values must have one dimension and not be empty"),
    ):
        with pytest.raises(ValueError, match=message):
            column(values)
    with pytest.raises(ValueError, match=r"column 'x': shape \(2,\), expected a value for each of 3 trials"):
        by_condition(scores, labels, {"x": column(["f", "m"])})
    with pytest.raises(ValueError, match="labels hold only targets"):
        by_condition(scores, [1, 1, 1], {})


@pytest.mark.parametrize("make", [shared, lesser])
def test_indices_outside_of_the_utterances_are_refused(make):
    values = np.array([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"enroll_index must lie in 0 \.\. 2, found -1 at trial 0"):
        make(values, np.array([-1, 1]), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"test_index must lie in 0 \.\. 2, found 3 at trial 1"):
        make(values, np.array([0, 1]), np.array([0, 3]))
    with pytest.raises(ValueError, match="enroll_index has 2 trials, test_index has 1"):
        make(values, np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="values must be finite"):
        make([1.0, np.nan], np.array([0]), np.array([1]))


def test_values_that_do_not_suit_are_refused():
    index = np.array([0, 1])
    with pytest.raises(ValueError, match="'mixed' is one of the values"):
        shared(["f", "mixed"], index, index)
    with pytest.raises(ValueError, match="values must be numbers"):
        lesser(["f", "m"], index, index)


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(conditions)
    assert found.failed == 0 and found.attempted >= 2
