"""Speakers kept aside from training: who they are, which trials they make, and the EER of these."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from spkver.data.audio_check import keep_usable
from spkver.data.directory import DataDirectory, Utterance, read_data_directory
from spkver.errors import SpkverError
from spkver.scoring.metrics import equal_error_rate
from spkver.training.held_out import HeldOut, split_as_begun, split_speakers


def directory_of(counts: dict[str, int], genders: dict[str, str] | None = None) -> DataDirectory:
    utterances = [
        Utterance(f"{name}-{n}", Path(f"{name}-{n}.wav"), name) for name, count in counts.items() for n in range(count)
    ]
    return DataDirectory(
        Path("data"), utterances, genders or {}, {utterance.id: 1.0 + len(utterance.id) for utterance in utterances}
    )


def test_only_speakers_of_two_utterances_who_are_new_to_the_model_are_held_out():
    directory = directory_of({"a": 1, "b": 2, "c": 3, "d": 1, "e": 2, "f": 2})
    for seed in range(10):
        train, held_out = split_speakers(directory, 2, seed, known=["c", "e"])
        assert (train, held_out) == (["a", "c", "d", "e"], ["b", "f"])
    assert {tuple(split_speakers(directory, 2, seed)[1]) for seed in range(40)} == set(combinations("bcef", 2))


def test_all_but_two_speakers_can_be_held_out_and_no_more():
    directory = directory_of(dict.fromkeys("abcd", 2))
    train, held_out = split_speakers(directory, 2, 5)
    assert len(train) == len(held_out) == 2
    assert split_speakers(directory, 0, 5) == (list("abcd"), [])
    with pytest.raises(SpkverError, match=r"^data: data.held_out_speakers is 3 of 4 speakers, 4 of them with two utt"):
        split_speakers(directory, 3, 5)
    with pytest.raises(SpkverError, match=r"is 1 of 4 speakers"):
        split_speakers(directory, 1, 5)


def test_what_lacks_is_told_with_the_reason():
    directory = directory_of({**dict.fromkeys("abcd", 2), **dict.fromkeys("xyz", 1)})
    with pytest.raises(SpkverError, match=r"is 5 of 7 speakers, 4 of them with two utterances; choose 0 or at least 2"):
        split_speakers(directory, 5, 1)
    with pytest.raises(SpkverError, match=r"is 3 of 7 speakers, 2 of them with two utterances and new to the model of"):
        split_speakers(directory, 3, 1, known={"a", "b"})
    assert len(split_speakers(directory, 4, 1)[1]) == 4


def test_a_run_that_has_begun_keeps_its_speakers(tmp_path):
    (tmp_path / "speakers").write_text("d\na\n")
    assert split_as_begun(directory_of(dict.fromkeys("abcd", 2)), tmp_path) == (["d", "a"], ["b", "c"])


class Extractor:
    """Gives each utterance an embedding of its own, near its speaker's."""

    def __init__(self):
        self.asked = []

    def embed_utterances(self, utterances, title):
        self.asked.append((utterances, title))
        rng = np.random.default_rng(3)
        centres = {speaker: rng.standard_normal(8) for speaker in "abcd"}
        made = np.stack([centres[utterance.speaker] + 1.5 * rng.standard_normal(8) for utterance in utterances])
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def test_the_eer_is_that_of_the_cosines_of_all_target_pairs_and_of_nontargets_of_one_gender():
    directory = directory_of({"a": 3, "b": 4, "c": 2, "d": 3}, {"a": "f", "b": "f", "c": "m", "d": "m"})
    held_out = HeldOut.of(directory, 10_000, seed=1)
    ids = [utterance.id for utterance in held_out.utterances]
    pairs = {frozenset((ids[a], ids[b])): label for a, b, label in zip(held_out.enroll, held_out.test, held_out.labels)}
    expected = {}
    for one, other in combinations(directory.utterances, 2):
        if directory.genders[one.speaker] == directory.genders[other.speaker]:
            expected[frozenset((one.id, other.id))] = one.speaker == other.speaker
    assert len(pairs) == len(held_out.labels)
    assert pairs == expected
    assert sum(pairs.values()) == 3 + 6 + 1 + 3

    extractor = Extractor()
    eer, threshold = held_out.equal_error_rate(extractor)
    assert extractor.asked == [(directory.utterances, "held-out EER")]
    embeddings = Extractor().embed_utterances(directory.utterances, "").astype(float)
    cosines = [embeddings[a] @ embeddings[b] for a, b in zip(held_out.enroll, held_out.test)]
    wanted = equal_error_rate(cosines, held_out.labels)
    assert (eer, threshold) == pytest.approx(wanted, abs=1e-6)
    assert 0.05 < eer < 0.45


def test_nontargets_are_a_sample_by_the_seed_and_any_two_where_no_gender_is_known():
    directory = directory_of({"a": 3, "b": 4, "c": 2, "d": 3})
    directory.genders.clear()

    def trials(seed, n=10):
        made = HeldOut.of(directory, n, seed)
        return list(zip(made.enroll.tolist(), made.test.tolist())), made.labels

    labels = trials(1)[1]
    assert (labels.sum(), (labels == 0).sum()) == (13, 10)
    assert trials(1)[0] == trials(1)[0] != trials(2)[0]
    assert (trials(1, 10_000)[1] == 0).sum() == 12 * 11 // 2 - 13


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
