"""The speaker-batched sampler: what a batch holds, how often an utterance is used, and from what it depends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from spkver.data.sampler import SpeakerBatchSampler
from spkver.errors import SpkverError


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts)


def items(batches):
    return [[draw.item for draw in batch] for batch in batches]


counts_of_speakers = st.lists(st.integers(1, 30), min_size=4, max_size=20)


@given(counts_of_speakers, st.integers(1, 4), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_speaker_stands_twice_in_a_batch_and_the_length_is_right(counts, p, k, epoch):
    labels = labels_of(counts)
    sampler = SpeakerBatchSampler(labels, p, k, seed=3)
    sampler.set_epoch(epoch)
    announced = len(sampler)
    batches = items(sampler)
    assert announced == len(batches) >= 1
    for batch in batches:
        assert len(batch) == p * k
        groups = labels[np.array(batch)].reshape(p, k)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == p


@pytest.mark.parametrize("k", [1, 2, 3])
def test_each_utterance_is_used_equally_often_over_the_epochs(k):
    counts = [3, 7, 8, 8, 9, 10, 11, 13, 20, 5]
    labels = labels_of(counts)
    sampler = SpeakerBatchSampler(labels, 4, k, seed=1)
    used = np.zeros(len(labels))
    epochs = 40
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        used += np.bincount(np.concatenate(items(sampler)), minlength=len(labels))
    # Each is due once an epoch; a speaker is never owed more than about two groups.
    assert used.min() >= epochs - 2 * k - 1
    assert used.max() <= epochs + 1


def test_a_speaker_with_most_of_the_data_appears_in_every_batch_and_its_utterances_take_turns():
    labels = labels_of([500, 10, 10, 10, 10])
    sampler = SpeakerBatchSampler(labels, 2, 1, seed=1)
    used = np.zeros(len(labels))
    for epoch in range(50):
        sampler.set_epoch(epoch)
        batches = items(sampler)
        assert all(min(batch) < 500 for batch in batches)
        used += np.bincount(np.concatenate(batches), minlength=len(labels))
    assert used[:500].max() - used[:500].min() <= 1
    assert used[500:].min() >= 48


def test_batches_depend_on_seed_and_epoch_only():
    labels = labels_of([5, 6, 7, 8])

    def batches(seed, epoch, before=()):
        sampler = SpeakerBatchSampler(labels, 2, 2, seed=seed)
        for earlier in before:
            sampler.set_epoch(earlier)
            list(sampler)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches(1, 4) == batches(1, 4, before=[0, 1, 2, 3]) == batches(1, 4, before=[9, 2])
    assert batches(1, 4) != batches(2, 4)
    assert items(batches(1, 4)) != items(batches(1, 5))
    # Where each speaker gives as much in every epoch, it is the order that is another.
    labels = labels_of([4] * 12)
    orders = [labels[np.concatenate(items(batches(1, epoch)))].tolist() for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1]


def test_resuming_inside_an_epoch_gives_the_batches_that_are_left():
    sampler = SpeakerBatchSampler(labels_of([9, 9, 9, 9]), 3, 1, seed=5)
    sampler.set_epoch(2)
    whole = list(sampler)
    sampler.set_epoch(2, start_step=5)
    assert len(sampler) == len(whole) - 5
    assert list(sampler) == whole[5:]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_processes_get_slices_of_the_one_global_batch(world_size):
    labels = labels_of([4] * 12)
    alone = list(SpeakerBatchSampler(labels, 6, 2, seed=1))
    slices = [list(SpeakerBatchSampler(labels, 6, 2, 1, rank, world_size)) for rank in range(world_size)]
    together = [[draw for part in parts for draw in part] for parts in zip(*slices)]
    assert together == alone


def test_fewer_speakers_than_a_batch_needs_is_an_error_that_names_the_key():
    with pytest.raises(SpkverError, match=r"batch.speakers is 5, but there are 3 training speakers"):
        SpeakerBatchSampler(labels_of([4, 4, 4]), 5)
    with pytest.raises(SpkverError, match="there are 0"):
        SpeakerBatchSampler([], 1)


def test_orders_and_batches_are_those_of_earlier_versions():
    # So that a stored training goes on as it would have.
    sampler = SpeakerBatchSampler(labels_of([3, 5, 4, 1]), 2, 2, seed=11)
    assert items(sampler)[:3] == [[10, 11, 3, 7], [12, 12, 0, 2], [4, 6, 9, 8]]
    sampler = SpeakerBatchSampler(labels_of([3, 5, 4, 1]), 2, 2, seed=2**64 + 11)
    assert items(sampler)[:3] == [[10, 11, 12, 12], [8, 9, 4, 7], [1, 0, 6, 5]]


def test_each_order_of_a_speakers_utterances_is_as_likely_and_says_nothing_of_the_next():
    n_speakers, passes = 3000, 4
    sampler = SpeakerBatchSampler(labels_of([3] * n_speakers), n_speakers, 3, seed=7)
    orders = np.empty((passes, n_speakers), int)
    for epoch in range(passes):
        sampler.set_epoch(epoch)
        groups = np.array(items(sampler)).reshape(n_speakers, 3)
        groups = groups[np.argsort(groups[:, 0])]  # speaker after speaker
        orders[epoch] = (groups % 3) @ [9, 3, 1]
    for pairs in (orders, 27 * orders[:-1] + orders[1:], 27 * orders[:, :-1] + orders[:, 1:]):
        seen = np.unique(pairs, return_counts=True)[1]
        assert len(seen) == (6 if pairs is orders else 36)
        assert chisquare(seen).pvalue > 1e-3


@pytest.mark.parametrize("batches_left", [1000, 9])
def test_among_many_speakers_the_same_are_chosen_as_without_leaving_out_any(monkeypatch, batches_left):
    sampler = SpeakerBatchSampler(labels_of([2] * 5000), 64, 1)
    left = np.random.default_rng(0).integers(0, 9, 5000).astype(float)
    left[[7, 31, 40]] = batches_left

    def chosen(few):
        monkeypatch.setattr("spkver.data.sampler._FEW", few)
        return [set(sampler._choose(left, batches_left, np.random.default_rng(seed)).tolist()) for seed in range(100)]

    assert chosen(few=100) == chosen(few=10_000)
    monkeypatch.setattr("spkver.data.sampler._FEW", 100)
    draws = np.random.default_rng(1).random(5000)
    assert len(sampler._front(draws, np.full(5000, 3.0), 240)) < 400  # 2 x 64 are expected, or twice as many


def test_a_speaker_with_fewer_utterances_than_k_still_takes_part():
    labels = labels_of([1, 8, 8])
    sampler = SpeakerBatchSampler(labels, 3, 4, seed=0)
    batches = items(sampler)
    assert all(batch.count(0) == 4 for batch in batches)


def test_a_speaker_with_more_utterances_is_drawn_more_often_from_the_start_of_an_epoch():
    # 20 of 200 groups are the first speaker's: of 100 batches it is in 10 of the first 50, give or take 2.2.
    labels = labels_of([20] + [10] * 18)
    early = [
        sum(min(batch) < 20 for batch in items(SpeakerBatchSampler(labels, 2, 1, seed=seed))[:50]) for seed in range(30)
    ]
    assert np.mean(early) == pytest.approx(10, abs=1.5)


def test_speakers_of_a_batch_mix_over_an_epoch():
    # With 40 speakers and 4 a batch, a pair that always came together would be a structured sampler.
    labels = labels_of([20] * 40)
    together = np.zeros((40, 40))
    for batch in items(SpeakerBatchSampler(labels, 4, 1, seed=2)):
        speakers = labels[np.array(batch)]
        together[np.ix_(speakers, speakers)] += 1
    np.fill_diagonal(together, 0)
    assert together.max() <= 8  # 20 appearances, 1.5 expected meetings a pair


def test_a_speaker_is_drawn_as_often_as_it_has_groups_left():
    sampler = SpeakerBatchSampler(labels_of([2] * 50), 4, 1)
    left = np.repeat([1.0, 2.0, 0.0, 4.0], [20, 10, 5, 15])
    rng = np.random.default_rng(3)
    drawn = np.bincount(np.concatenate([sampler._choose(left, 1000, rng)[:1] for _ in range(6000)]), minlength=50)
    shares = [drawn[left == weight].mean() for weight in (1, 2, 4)]
    assert drawn[left == 0].sum() == 0
    # Of four without replacement, in random order: nearly in proportion.
    assert 1.7 < shares[1] / shares[0] < 2.1 and 3.2 < shares[2] / shares[0] < 4.1


def test_whoever_has_a_group_for_each_batch_left_is_in():
    sampler = SpeakerBatchSampler(labels_of([2] * 50), 4, 1)
    left = np.ones(50)
    left[[7, 31, 40]] = 9
    for seed in range(50):
        chosen = sampler._choose(left, 9, np.random.default_rng(seed))
        assert {7, 31, 40} < set(chosen.tolist()) and len(set(chosen.tolist())) == 4
