"""Any ratio of rates: another implementation's numbers, parts that equal the whole, little time and memory."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, resample_poly

from spkver.data.resampling import (
    HIGHEST_RATE,
    LOWEST_RATE,
    _phase_weights,
    low_pass,
    resample,
    resample_grid,
    resample_margin,
    resample_ratio,
    resample_up_down,
    speed,
)
from spkver.errors import SpkverError


@settings(deadline=None)
@given(up=st.integers(1, 160), down=st.integers(1, 160), n_samples=st.integers(1, 20_000))
def test_any_ratio_and_length_is_resampled_as_scipy_does_with_the_same_taps(up, down, n_samples):
    assume(math.gcd(up, down) == 1 and up != down)
    samples = np.random.default_rng(n_samples).standard_normal(n_samples)
    ours = resample_up_down(samples, up, down)
    assert ours.dtype == np.float32
    expected = resample_poly(samples, up, down, window=low_pass(up, down).astype(np.float64))
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "rates", [(22051, 16000), (44101, 16000), (4001, 16000), (16001, 16000), (11026, 16000), (9001, 8000)]
)
@pytest.mark.parametrize("n_samples", [1, 500, 30_011])
def test_rates_of_a_large_ratio_are_resampled_as_scipy_does(rates, n_samples):
    up, down = resample_ratio(*rates)
    samples = np.random.default_rng(0).standard_normal(n_samples)
    widest = max(up, down)
    taps = firwin(2 * 16 * widest + 1, 0.95 / widest, window=("kaiser", 6.5))
    expected = resample_poly(samples, up, down, window=taps)
    ours = resample(samples, *rates)
    assert ours.dtype == np.float32 and ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=5e-6)


@settings(deadline=None, max_examples=50)
@given(up=st.integers(1, 160), down=st.integers(1, 160), first=st.integers(0, 4), n_samples=st.integers(1, 9000))
def test_a_part_on_the_grid_is_bit_for_bit_the_whole(up, down, first, n_samples):
    assume(math.gcd(up, down) == 1)
    check_part(up, down, first, n_samples)


@pytest.mark.parametrize("rates", [(22051, 16000), (44101, 16000), (22050, 16000), (44100, 16000), (11025, 16000)])
@pytest.mark.parametrize("first", [0, 1, 3])
def test_a_part_of_a_recording_of_any_rate_is_bit_for_bit_the_whole(rates, first):
    check_part(*resample_ratio(*rates), first, 20_000)


def check_part(up, down, first, n_samples):
    begin, margin = first * resample_grid(up, down), resample_margin(up, down)
    samples = np.random.default_rng(n_samples).standard_normal(begin + n_samples + 2 * margin).astype(np.float32)
    whole = resample_up_down(samples, up, down)
    part = resample_up_down(samples[begin : begin + n_samples + margin], up, down)
    # What lies further from the edges than the filter reaches; there is no edge where the recording begins.
    edge = -(-margin * up // down) + 1
    inside = slice(edge if begin else 0, max(len(part) - edge, 0))
    at = begin * up // down
    assert n_samples < 10_000 or inside.stop - inside.start > 1000
    np.testing.assert_array_equal(part[inside], whole[at : at + len(part)][inside])


@pytest.mark.parametrize("rate", [LOWEST_RATE + 1, 22051, 44101, HIGHEST_RATE - 1, HIGHEST_RATE])
def test_ten_seconds_of_any_rate_take_a_second_and_200_mb_at_most(rate):
    _phase_weights.cache_clear()
    samples = np.zeros(10 * rate, np.float32)
    tracemalloc.start()
    start = time.thread_time()
    assert len(resample(samples, rate, 16000)) == 160_000
    seconds = time.thread_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 1.0
    assert samples.nbytes + peak < 200e6


@pytest.mark.parametrize("rate", [0, 1, LOWEST_RATE - 1, HIGHEST_RATE + 1])
def test_a_rate_that_no_recording_of_speech_has_is_refused(rate):
    with pytest.raises(SpkverError, match=f"a sample rate of {rate} Hz; expected 4000 to 384000 Hz"):
        resample(np.zeros(100, np.float32), rate, 16000)


@pytest.mark.parametrize("factor", [0.9, 0.97, 1.1, 1.5])
def test_speed_shortens_and_raises_the_pitch(factor):
    tone = np.sin(2 * np.pi * 400 * np.arange(32000) / 16000).astype(np.float32)
    faster = speed(tone, factor)
    assert faster.dtype == np.float32
    assert len(faster) == pytest.approx(32000 / factor, abs=1)
    expected = np.sin(2 * np.pi * 400 * factor * np.arange(len(faster)) / 16000)
    np.testing.assert_allclose(faster[100:-100], expected[100:-100], atol=2e-3)


def test_speed_one_changes_nothing_and_backwards_is_refused():
    samples = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    np.testing.assert_array_equal(speed(samples, 1.0), samples)
    with pytest.raises(ValueError, match="factor"):
        speed(samples, -1.0)
