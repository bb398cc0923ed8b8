"""A batch of crops: rows by speed, by room and by noise; only what is asked for."""

import numpy as np
import torch

from spkver.data.augment_draws import Drawn
from spkver.data.crop_batch import Clipped, Crop, Kept, Sent, as_16_bit, as_float32, joined
from spkver.data.recordings import Place

N = 100


def crop(label=0, factor=1.0, samples=None, **drawn):
    return Crop(np.zeros(N + 1, np.float32) if samples is None else samples, label, label % 3, factor, Drawn(**drawn))


def test_crops_of_a_speed_lie_together_with_their_rows():
    steps = np.arange(N + 1, dtype=np.int16)
    batch = joined([crop(5, 1.0, steps), crop(1, 0.9), crop(7, 1.0, steps), crop(4, 0.9, steps)], N)
    assert batch.labels.tolist() == [5, 1, 7, 4] and batch.formants.tolist() == [2, 1, 1, 1]
    slow, plain = batch.speeds
    assert (slow.factor, slow.rows.tolist(), slow.samples.dtype) == (0.9, [1, 3], torch.float32)
    assert (plain.factor, plain.rows.tolist(), plain.samples.dtype) == (1.0, [0, 2], torch.int16)
    np.testing.assert_array_equal(slow.samples[1], steps / 32768)


def test_nothing_that_was_not_drawn_is_sent():
    batch = joined([crop(), crop()], N)
    assert (batch.rooms, batch.added, batch.gain_db, batch.clipped, batch.telephone) == ([], [], None, None, None)


def test_kept_recordings_are_named_and_others_sent_along():
    short, late = np.ones(2, np.float32), np.array([0.1, 0, -0.9, 0.2], np.float32)
    batch = joined(
        [crop(response=late), crop(response=Place(7, 30)), crop(), crop(response=short), crop(response=Place(50, 9))], N
    )
    kept, sent = batch.rooms
    assert isinstance(kept, Kept) and isinstance(sent, Sent)
    assert (kept.rows.tolist(), kept.begins, kept.lengths.tolist(), kept.longest) == ([1, 4], [7, 50], [30, 9], 30)
    assert (sent.rows.tolist(), sent.peaks) == ([0, 3], [2, 0])
    np.testing.assert_array_equal(sent.samples, [late, [1, 1, 0, 0]])


def test_values_stand_beside_their_rows():
    noise = np.ones(N, np.float32)
    batch = joined(
        [
            crop(added=noise, snr_db=7.0, gain_db=-3.0),
            crop(clipped_share=0.25, telephone=True),
            crop(clipped_share=0.0001, gain_db=2.0),
        ],
        N,
    )
    assert batch.snr_db[batch.added[0].rows].tolist() == [7.0]
    assert batch.gain_db.tolist() == [-3.0, 0.0, 2.0]
    assert isinstance(batch.clipped, Clipped)
    assert (batch.clipped.rows.tolist(), batch.clipped.counts.tolist(), batch.clipped.most) == ([1, 2], [25, 1], 25)
    assert batch.telephone.tolist() == [1]


def test_whole_steps_of_16_bits_become_integers_and_come_back():
    steps = np.array([-32768, 32767, 0, 1], np.int16)
    floats = as_float32(steps)
    assert floats.dtype == np.float32 and floats.tolist() == [-1.0, 32767 / 32768, 0.0, 1 / 32768]
    np.testing.assert_array_equal(as_16_bit(floats), steps)
    assert as_16_bit(floats).dtype == np.int16
    for other in ([1.0, 0.0], [0.1, 0.0], [1.5 / 32768, 0.0]):
        samples = np.array(other, np.float32)
        assert as_16_bit(samples) is samples
