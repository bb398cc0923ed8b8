"""Held-out speakers: who they are, the trials among them, and the threshold that the final model gets from them."""

from dataclasses import replace

import numpy as np
import pytest

import spkver
from spkver.data.audio_check import keep_usable
from spkver.data.directory import read_data_directory
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, read_speakers
from spkver.training.held_out import HeldOut, split_speakers


@pytest.fixture(scope="module")
def directory(voices):
    return keep_usable(read_data_directory(voices), 16000)


def test_held_out_speakers_are_apart_from_training_and_share_the_genders(directory):
    train, held_out = split_speakers(directory, 4, seed=1)
    assert set(train) | set(held_out) == set(directory.speakers)
    assert not set(train) & set(held_out)
    assert sorted(directory.genders[speaker] for speaker in held_out) == ["f", "f", "m", "m"]
    assert split_speakers(directory, 4, seed=1) == (train, held_out)
    assert any(split_speakers(directory, 4, seed=seed)[1] != held_out for seed in (2, 3, 4))


@pytest.mark.parametrize("n", [1, 9, 11])
def test_a_number_of_held_out_speakers_that_cannot_be_is_refused(directory, n):
    with pytest.raises(SpkverError, match=rf"data.held_out_speakers is {n} of 10"):
        split_speakers(directory, n, seed=1)


def test_a_speaker_with_one_utterance_is_never_held_out(directory):
    alone = [f"v{number}" for number in range(5)]
    utterances = [u for u in directory.utterances if u.speaker not in alone or u.id.endswith("-0")]
    fewer = replace(directory, utterances=utterances)
    assert {speaker for seed in range(20) for speaker in split_speakers(fewer, 3, seed)[1]} == {
        f"v{number}" for number in range(5, 10)
    }
    with pytest.raises(SpkverError, match="is 6 of 10 speakers, 5 of them with two utterances"):
        split_speakers(fewer, 6, seed=1)


def pairs(held_out):
    """(label, the speakers of both sides) of each trial."""
    speakers = [utterance.speaker for utterance in held_out.utterances]
    sides = zip(held_out.labels.tolist(), held_out.enroll.tolist(), held_out.test.tolist())
    return [(label, speakers[enroll], speakers[test]) for label, enroll, test in sides]


def test_held_out_nontargets_are_of_one_gender_where_genders_are_known(directory):
    four = directory.subset(speakers=["v0", "v1", "v2", "v3"])  # f, m, f, m
    found = pairs(HeldOut.of(four, 10_000, seed=1))
    assert all((a == b) == bool(label) for label, a, b in found)
    assert sum(label for label, _, _ in found) == 4 * 15
    assert {frozenset((a, b)) for label, a, b in found if not label} == {
        frozenset(("v0", "v2")),
        frozenset(("v1", "v3")),
    }
    unknown = pairs(HeldOut.of(replace(four, genders={}), 10_000, seed=1))
    assert len({(a, b) for label, a, b in unknown if not label}) == 6
    assert len(unknown) == 4 * 15 + 6 * 36


def test_no_more_held_out_nontargets_are_drawn_than_asked_for(directory):
    found = HeldOut.of(directory, 50, seed=1)
    assert (found.labels == 0).sum() == 50 and (found.labels == 1).sum() == 10 * 15


def test_the_final_models_threshold_is_the_score_at_which_both_errors_are_equal(trained, directory):
    run = load_model(trained / "model").run
    known = set(read_speakers(trained / "model"))
    held_out = directory.subset(speakers=[speaker for speaker in directory.speakers if speaker not in known])
    voice = spkver.load(trained / "model")
    rows = np.stack([voice.embed(utterance.path) for utterance in held_out.utterances])
    trials = HeldOut.of(held_out, 10_000, seed=1)
    scores = (rows[trials.enroll] * rows[trials.test]).sum(1)
    misses = np.mean(scores[trials.labels == 1] < run["threshold"] - 1e-5)
    false_acceptances = np.mean(scores[trials.labels == 0] >= run["threshold"] + 1e-5)
    # Between two scores neither rate moves: each is off by one trial of 45 targets or 36 nontargets at most.
    assert misses == pytest.approx(run["held_out_eer"], abs=1 / 36)
    assert false_acceptances == pytest.approx(run["held_out_eer"], abs=1 / 36)
    assert voice.threshold == run["threshold"]
