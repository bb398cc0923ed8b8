"""Recordings joined of held-out speakers' utterances: no audio on both sides, alike lengths, and what they teach.

The encoder is a stand-in whose embedding of a second of audio is written into its samples: what is the speaker's, what
all share, and noise. With more speech the noise averages out, so the cosines of targets and of nontargets rise.
"""

import numpy as np
import pytest
import soundfile

from spkver.config.schema import Calibration
from spkver.data.audio import read_audio
from spkver.data.directory import Utterance
from spkver.data.vad import Chosen
from spkver.embedding.extractor import Extracted
from spkver.embedding.joined_speech import JoinedSpeech, embed_joined, joined_trials
from spkver.errors import SpkverError
from spkver.scoring.backends.calibration import fit_calibration
from spkver.scoring.backends.quality import quality_columns
from spkver.scoring.metrics.polyline import bayes_threshold

RATE, DIMENSIONS = 8000, 20
CHOSEN = Calibration(
    p_target=0.05,
    quality=["duration"],
    regularisation=1e-6,
    max_nontargets=2000,
    joined_pairs=40,
    joined_seconds=[2.0, 60.0],
)


class StandIn:
    """An extractor of the samples that `recordings` makes."""

    sample_rate = RATE

    def read(self, path):
        return Chosen(read_audio(path, RATE), 0.0)

    def extract(self, waveforms):
        seconds = np.array([len(waveform) / RATE for waveform in waveforms])
        raw = np.stack(
            [waveform[: len(waveform) // RATE * RATE].reshape(-1, DIMENSIONS).mean(0) for waveform in waveforms]
        )
        lengths = np.linalg.norm(raw, axis=1)
        return Extracted((raw / lengths[:, None]).astype(np.float32), lengths.astype(np.float32), seconds)

    def batches(self, waveforms):
        for index, waveform in waveforms:
            yield [index], [waveform]


def speech(rng, direction, seconds):
    """(seconds * RATE,) samples; each second has a vector of its own, once in every `DIMENSIONS` samples."""
    vectors = direction + rng.normal(size=(seconds, DIMENSIONS)) * 0.9
    return (np.repeat(vectors, RATE // DIMENSIONS, axis=0).reshape(-1) * 0.02).astype(np.float32)


def directions(rng, n):
    own, shared = rng.normal(size=(n, DIMENSIONS)) * 0.35, np.zeros(DIMENSIONS)
    shared[0] = 1.0
    return own + shared


@pytest.fixture(scope="module")
def held_out(tmp_path_factory):
    """Ten speakers with twelve utterances of 3 to 5 s each."""
    folder, rng = tmp_path_factory.mktemp("held_out"), np.random.default_rng(0)
    utterances = []
    for speaker, direction in enumerate(directions(rng, 10)):
        for take in range(12):
            path = folder / f"{speaker}-{take}.wav"
            soundfile.write(path, speech(rng, direction, int(rng.integers(3, 6))), RATE, subtype="FLOAT")
            utterances.append(Utterance(f"s{speaker}-{take}", path, f"s{speaker}"))
    return utterances


@pytest.fixture(scope="module")
def joined(held_out):
    return embed_joined(StandIn(), held_out, CHOSEN, seed=1)


def test_lengths_double_from_the_shortest_to_all_there_is(joined):
    seconds = joined.extracted.seconds
    for speaker, number, part in set(zip(joined.speakers, joined.rounds, joined.parts)):
        own = (joined.speakers == speaker) & (joined.rounds == number) & (joined.parts == part)
        cuts = seconds[own]
        assert cuts[:-1].tolist() == [2.0 * 2**n for n in range(len(cuts) - 1)]
        assert len(cuts) == 1 or 1.25 * cuts[-2] < cuts[-1] <= 60
    assert seconds.min() == 2 and seconds.max() > 40
    assert len(set(joined.rounds)) == 4  # 40 pairs of ten speakers


def test_the_same_seed_makes_the_same_recordings_and_another_others(held_out, joined):
    again, other = (embed_joined(StandIn(), held_out, CHOSEN, seed) for seed in (1, 2))
    assert np.array_equal(again.extracted.embeddings, joined.extracted.embeddings)
    assert np.array_equal(again.speakers, joined.speakers)
    assert not np.array_equal(other.extracted.seconds, joined.extracted.seconds)


def test_no_utterance_is_on_both_sides_of_a_target_trial(tmp_path):
    # Each utterance holds its own number, so that an embedding tells what a recording was joined of.
    utterances = []
    for speaker in range(2):
        for take in range(6):
            vectors = np.tile(np.eye(DIMENSIONS)[take + 6 * speaker], (2, 1))
            samples = np.repeat(vectors, RATE // DIMENSIONS, axis=0).reshape(-1)
            path = tmp_path / f"{speaker}-{take}.wav"
            soundfile.write(path, samples, RATE, subtype="FLOAT")
            utterances.append(Utterance(f"{speaker}-{take}", path, str(speaker)))
    joined = embed_joined(StandIn(), utterances, CHOSEN, seed=3)
    first, second, labels = joined_trials(joined, {}, 10_000, seed=3)
    embeddings = joined.extracted.embeddings
    assert labels.sum() > 100
    assert np.abs((embeddings[first] * embeddings[second]).sum(1)).max() == 0
    assert (joined.speakers[first] == joined.speakers[second]).astype(int).tolist() == labels.tolist()


def test_length_itself_is_no_evidence(joined):
    first, second, labels = joined_trials(joined, {}, 10_000, seed=1)
    columns = quality_columns({"duration": joined.extracted.seconds}, first, second)
    for column in columns.values():
        of_targets, of_nontargets = column[labels == 1], column[labels == 0]
        assert abs(of_targets.mean() - of_nontargets.mean()) < 0.05 * column.std()


def test_nontargets_are_of_one_gender_and_no_more_than_asked(joined):
    genders = {f"s{n}": "fm"[n % 2] for n in range(9)}
    first, second, labels = joined_trials(joined, genders, 300, seed=1)
    assert np.count_nonzero(labels == 0) == 300
    for a, b in zip(joined.speakers[first], joined.speakers[second]):
        assert "s9" in (a, b) or genders[a] == genders[b]
    alone = {"s0": "f", "s1": "m"}
    two = np.isin(joined.speakers, ["s0", "s1"])
    few = JoinedSpeech(
        Extracted(*(values[two] for values in joined.extracted)),
        *(v[two] for v in (joined.speakers, joined.rounds, joined.parts)),
    )
    assert len(joined_trials(few, alone, 300, seed=1)[2]) == 0


def test_where_nothing_can_be_joined_there_is_none(held_out):
    assert embed_joined(StandIn(), held_out, CHOSEN.model_copy(update={"joined_pairs": 0}), seed=1) is None
    assert embed_joined(StandIn(), held_out[:12], CHOSEN, seed=1) is None
    assert embed_joined(StandIn(), held_out[::12], CHOSEN, seed=1) is None


def test_few_pairs_of_many_speakers_take_some_of_them(held_out):
    joined = embed_joined(StandIn(), held_out, CHOSEN.model_copy(update={"joined_pairs": 3}), seed=1)
    assert len(set(joined.speakers)) == 3 and set(joined.rounds) == {0}


def test_audio_that_is_gone_says_how_to_do_without(held_out, tmp_path):
    gone = [*held_out[:-1], Utterance("s9-11", tmp_path / "gone.wav", "s9")]
    with pytest.raises(SpkverError, match=r"gone.wav: .*scoring.calibration.joined_pairs=0 does without"):
        embed_joined(StandIn(), gone, CHOSEN, seed=1)


def test_decisions_from_2_to_120_seconds_do_not_get_worse_with_more_speech(held_out, joined):
    extractor = StandIn()
    first, second, labels = joined_trials(joined, {}, 2000, seed=1)
    rows = joined.extracted.embeddings

    def columns(a, b, of, to):
        # One array of both sides, as `spkver.scoring.systems.RatedScores` makes it.
        seconds = np.concatenate([a.seconds, b.seconds])
        score = (a.embeddings[of] * b.embeddings[to]).sum(1)
        return {"score": score} | quality_columns({"duration": seconds}, of, to + len(a.seconds))

    features = columns(joined.extracted, joined.extracted, first, second)
    calibration = fit_calibration(features, labels, 0.05, 1e-6, held=features.keys() - {"score"})
    of_scores = fit_calibration({"score": features["score"]}, labels, 0.05, 1e-6)
    assert len(rows) > 300

    rng, found = np.random.default_rng(7), []
    tested = directions(rng, 40)
    enroll_index, test_index = np.indices((40, 40)).reshape(2, -1)
    own = enroll_index == test_index
    for seconds in (2, 4, 8, 15, 30, 60, 120):
        # What is longer than a minute is cut before it is embedded.
        sides = [extractor.extract([speech(rng, d, min(seconds, 60)) for d in tested]) for _ in range(2)]
        trials = columns(*sides, enroll_index, test_index)
        llrs = calibration.llrs(trials)
        accepted = llrs >= bayes_threshold(0.05)
        plain = of_scores.llrs({"score": trials["score"]}) >= bayes_threshold(0.05)
        found.append((accepted[own].mean(), accepted[~own].mean(), plain[~own].mean()))
    true, false, false_of_scores = map(np.array, zip(*found))
    assert (np.diff(true) > -0.06).all() and true[-1] > 0.95 > true[0]
    assert false.max() < 0.03 and false[-1] <= false[0] + 0.01
    # Without the duration, speech that is long enough makes everybody alike.
    assert false_of_scores[-1] > 3 * false[-1]
