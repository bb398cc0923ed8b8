"""The threshold at a false acceptance rate, against counting at every candidate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.cli import main
from spkver.data.trials import Trials, write_trials
from spkver.experiment.provenance import data_record, file_record, write_record
from spkver.scoring.metrics import equal_error_rate
from spkver.scoring.metrics.sorted_scores import SortedScores
from spkver.scoring.score_files import write_scores
from spkver.scoring.system_files import System

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=15)


@given(SCORES, SCORES, st.sampled_from([0.0, 0.07, 0.1, 0.25, 1 / 3, 0.5, 0.99]), st.sampled_from(["f4", "f8"]))
def test_no_lower_threshold_keeps_the_rate(targets, nontargets, rate, dtype):
    scores = np.array(targets + nontargets, dtype)
    labels = np.repeat([1, 0], [len(targets), len(nontargets)])
    threshold, fpr, fnr = SortedScores(scores, labels).threshold_at_false_acceptance(rate)
    assert fpr == np.mean(np.array(nontargets) >= threshold)
    assert fnr == np.mean(np.array(targets) < threshold)
    assert fpr <= rate + 1e-12
    # Accepting the next lower score too, which is the highest one below the threshold, would break the promise.
    below = max(score for score in scores if score < threshold)
    assert np.mean(np.array(nontargets) >= below) > rate + 1e-12


def test_a_rate_that_floats_miss_is_counted_as_meant():
    scores, labels = np.arange(101.0), np.r_[1, np.zeros(100, int)]
    for percent in range(100):
        assert SortedScores(scores, labels).threshold_at_false_acceptance(percent / 100)[1] == percent / 100


def test_at_the_equal_error_rate_it_agrees_with_the_eer():
    rng = np.random.default_rng(0)
    scores, labels = np.r_[rng.normal(2, 1, 4000), rng.normal(0, 1, 4000)], np.repeat([1, 0], 4000)
    eer, at = equal_error_rate(scores, labels)
    threshold, fpr, fnr = SortedScores(scores, labels).threshold_at_false_acceptance(eer)
    assert (threshold, fpr, fnr) == pytest.approx((at, eer, eer), abs=2e-3)


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate must lie in"):
        SortedScores([1.0, 0.0], [1, 0]).threshold_at_false_acceptance(rate)


@pytest.fixture
def scored(tmp_path):
    """An experiment with 100 nontargets scored 0 .. 0.99 and targets 0.5, 0.985, 2, 3."""
    n = 100
    utts = [f"u{i}" for i in range(n + 5)]
    trials = Trials(utts, np.zeros(n + 4, np.int64), np.arange(1, n + 5), np.repeat([0, 1], [n, 4]).astype(np.int8))
    scores = np.r_[np.arange(n) / n, 0.5, 0.985, 2, 3].astype(np.float32)
    data, system = tmp_path / "data", System(tmp_path / "exp")
    data.mkdir()
    (data / "wav.scp").write_text("".join(f"{utt} {utt}.wav\n" for utt in utts))
    write_trials(data / "trials", trials)
    write_scores(system.scores(data, data / "trials"), trials, scores)
    made_of = {"data": data_record(data), "trials": file_record(data / "trials"), "model": None}
    write_record(system.scores_record(data, data / "trials"), made_of)
    return tmp_path


def test_the_verb_tells_the_threshold_and_both_errors(scored, capsys):
    assert main(["threshold", str(scored / "data"), str(scored / "exp"), "--far", "0.02", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "exp, cosine: accept from this score on (4 + 100 trials)" in lines[0]
    # 2 % of the nontargets lie from 0.98 on, 0.97 is the first to reject; two of four targets are below.
    for line, rate, rejected, shares in ((lines[3], "0.02", 0.97, "2.00%"), (lines[4], "0.1", 0.89, "10.00%")):
        far, given, text, *errors = line.split()
        system, _, digits = text.partition(":")
        assert (far, given, system, errors) == ("--far", rate, "cosine", [shares, "25.00%"])
        # As many digits as it takes to reject what it must reject.
        assert np.float32(rejected) < float(digits) < rejected + 1e-6
    assert "100 nontarget trials are few for such a rate, 1500 would tell it" in lines[5]


@pytest.mark.parametrize(
    "words, message", [(["--far", "1"], "--far 1: a false acceptance rate"), (["--system", "plda"], "trials-plda")]
)
def test_a_mistake_is_one_line(scored, capsys, words, message):
    assert main(["threshold", str(scored / "data"), str(scored / "exp"), *words]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
