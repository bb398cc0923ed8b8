"""Simulated rooms: the decay that was asked for, and the direct path before all else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data.simulated_room import simulated_room

RATE = 16000


@pytest.mark.parametrize("rt60", [0.3, 0.6, 1.0])
def test_a_simulated_room_decays_as_asked(rt60):
    """RT60 from the slope of Schroeder's backward integral between -5 and -25 dB, after the direct path."""
    measured = []
    for seed in range(20):
        room = simulated_room(np.random.default_rng(seed), rt60, RATE)
        tail = room[int(0.05 * RATE) :].astype(np.float64)
        decay = 10 * np.log10(np.cumsum(tail[::-1] ** 2)[::-1] / np.sum(tail**2))
        span = np.flatnonzero((decay < -5) & (decay > -25))
        measured.append(-60 / (np.polyfit(span / RATE, decay[span], 1)[0]))
    assert np.mean(measured) == pytest.approx(rt60, rel=0.06)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1.5))
def test_a_simulated_room_has_its_direct_path_first_and_within_the_ratio(seed, rt60):
    room = simulated_room(np.random.default_rng(seed), rt60, RATE)
    assert room.dtype == np.float32 and len(room) == round(rt60 * RATE)
    assert np.argmax(np.abs(room)) == 0 and room[0] == 1
    assert -0.01 <= -10 * np.log10(np.sum(room[1:].astype(np.float64) ** 2)) <= 10.01
