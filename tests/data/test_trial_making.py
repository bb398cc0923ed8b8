"""New trial lists: all target pairs, a fair draw of nontarget pairs, no pair twice, at any size."""

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data.trial_making import make_trials
from spkver.errors import SpkverError


def pairs_of(trials, label):
    picked = [frozenset(p) for p, x in zip(zip(trials.enroll, trials.test), trials.labels) if x == label]
    assert len(set(picked)) == len(picked)
    assert all(len(pair) == 2 for pair in picked)
    return set(picked)


@settings(deadline=None, max_examples=60)
@given(
    speakers=st.lists(st.sampled_from("abcdef"), min_size=2, max_size=25),
    genders=st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("mf")),
)
def test_without_limits_the_list_is_every_pair_that_the_rules_allow(speakers, genders):
    utts = [f"{speaker}{n}" for n, speaker in enumerate(speakers)]
    targets, nontargets = set(), set()
    for (a, speaker_a), (b, speaker_b) in combinations(zip(utts, speakers), 2):
        if speaker_a == speaker_b:
            targets.add(frozenset((a, b)))
        elif genders.get(speaker_a, "?") == genders.get(speaker_b, "?") or not (
            speaker_a in genders and speaker_b in genders
        ):
            nontargets.add(frozenset((a, b)))
    if not targets or not nontargets:
        with pytest.raises(SpkverError, match="trial can be made"):
            make_trials(utts, speakers, seed=0, genders=genders)
        return
    trials = make_trials(utts, speakers, seed=0, genders=genders)
    assert pairs_of(trials, 1) == targets
    assert pairs_of(trials, 0) == nontargets


def test_five_hundred_utterances_give_all_targets_and_the_nontargets_asked_for_at_once():
    speakers = [f"s{n // 10}" for n in range(500)]
    utts = [f"{speaker}-{n}" for n, speaker in enumerate(speakers)]
    start = time.process_time()
    trials = make_trials(utts, speakers, seed=1, max_nontargets=5000)
    assert time.process_time() - start < 0.5
    assert len(pairs_of(trials, 1)) == 50 * 45
    assert len(pairs_of(trials, 0)) == 5000


def test_the_seed_decides_the_draw():
    speakers = [f"s{n // 4}" for n in range(100)]
    utts = [f"u{n}" for n in range(100)]
    draws = [make_trials(utts, speakers, seed, max_targets=20, max_nontargets=50) for seed in (3, 3, 4)]
    assert (draws[0].enroll, draws[0].test) == (draws[1].enroll, draws[1].test)
    assert pairs_of(draws[0], 0) != pairs_of(draws[2], 0)
    assert pairs_of(draws[0], 1) != pairs_of(draws[2], 1)


def test_each_nontarget_pair_is_equally_likely():
    speakers = list("aaabbc")
    utts = [f"u{n}" for n in range(6)]
    times = {}
    for seed in range(2200):
        for pair in pairs_of(make_trials(utts, speakers, seed, max_nontargets=3), 0):
            times[pair] = times.get(pair, 0) + 1
    # 11 pairs, 3 of 11 drawn each time: 600 expected each, standard deviation 21.
    assert len(times) == 11
    assert max(abs(count - 600) for count in times.values()) < 5 * 21


def test_a_hundred_thousand_utterances_need_no_enumeration():
    speakers = [f"s{n % 1000}" for n in range(100_000)]
    utts = [f"u{n}" for n in range(100_000)]
    start = time.process_time()
    trials = make_trials(utts, speakers, seed=0, max_targets=20_000, max_nontargets=50_000)
    assert time.process_time() - start < 3
    speaker_of = dict(zip(utts, speakers))
    same = [speaker_of[a] == speaker_of[b] for a, b in zip(trials.enroll, trials.test)]
    assert same == trials.labels.astype(bool).tolist()
    assert (len(pairs_of(trials, 1)), len(pairs_of(trials, 0))) == (20_000, 50_000)
    with pytest.raises(ValueError, match="max_nontargets is None, which asks for 4,995,000,000 pairs"):
        make_trials(utts, speakers, seed=0, max_targets=10)


def test_arguments_that_make_no_list_are_refused():
    with pytest.raises(ValueError, match="3 utts \\(2 of them distinct\\)"):
        make_trials(["a", "a", "b"], ["x", "x", "y"], seed=0)
    with pytest.raises(ValueError, match="1 speakers"):
        make_trials(["a", "b"], ["x"], seed=0)
    with pytest.raises(ValueError, match="max_targets is 0"):
        make_trials(["a", "b"], ["x", "x"], seed=0, max_targets=0)
    with pytest.raises(SpkverError, match="no speaker has two utterances"):
        make_trials(["a", "b"], ["x", "y"], seed=0)
    with pytest.raises(SpkverError, match="no two speakers can be paired"):
        make_trials(["a", "b", "c"], ["x", "x", "y"], seed=0, genders={"x": "f", "y": "m"})


def test_the_labels_are_int8_and_the_targets_come_first():
    trials = make_trials(["a", "b", "c"], ["x", "x", "y"], seed=0)
    assert trials.labels.dtype == np.int8
    assert trials.labels.tolist() == [1, 0, 0]
