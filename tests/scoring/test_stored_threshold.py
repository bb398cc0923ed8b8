"""Thresholds with their system's name: written with all digits that count, and refused by another system."""

import doctest

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spkver.errors import SpkverError
from spkver.scoring import stored_threshold as thresholds
from spkver.scoring.stored_threshold import parse_threshold, threshold_text


def test_the_doctests_hold():
    assert doctest.testmod(thresholds) == (0, 1)


@given(st.floats(-1e6, 1e6, width=32))
def test_a_threshold_is_read_back_as_the_same_float32(value):
    text = threshold_text("cosine+asnorm", value)
    assert np.float32(parse_threshold(text, "cosine+asnorm")) == np.float32(value)
    with pytest.raises(SpkverError, match=r"is of the system 'cosine\+asnorm', and cosine decides; "):
        parse_threshold(text, "cosine")


def test_the_next_score_below_is_rejected():
    for rejected in np.linspace(-5, 5, 1001, dtype=np.float32):
        threshold = np.nextafter(rejected, np.float32(9))
        assert float(rejected) < parse_threshold(threshold_text("cosine", threshold), "cosine")


@pytest.mark.parametrize("text", ["", "high", "nan", "inf", "cosine:", "cosine:high", "cosine:1e999"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(SpkverError, match=f"^--threshold {text}: expected a number, or SYSTEM:NUMBER"):
        parse_threshold(text, "cosine")
