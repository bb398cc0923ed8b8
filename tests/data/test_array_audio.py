"""Samples of every array that people have become the same mono float32; all else is refused in one line."""

import numpy as np
import pytest
import torch

from spkver.data.array_audio import checked_rate, mono_samples
from spkver.errors import SpkverError

RAMP = np.linspace(-0.9, 0.9, 2000)


@pytest.mark.parametrize(
    ("samples", "tolerance"),
    [
        (RAMP, 1e-7),
        (RAMP.astype(np.float32), 0),
        (RAMP.astype(np.float16), 1e-3),
        (RAMP.tolist(), 1e-7),
        (np.round(RAMP * 2**15).astype(np.int16), 2**-15),
        (np.round(RAMP * 2**31).astype(np.int32), 1e-7),
        (np.round(RAMP * 128 + 128).astype(np.uint8), 2**-7),
        (torch.from_numpy(RAMP).requires_grad_(), 1e-7),
        (torch.from_numpy(RAMP).bfloat16(), 4e-3),
        (torch.from_numpy(RAMP).half(), 1e-3),
        (torch.from_numpy(np.round(RAMP * 2**15).astype(np.int16)), 2**-15),
        (RAMP[None], 1e-7),
        (RAMP[:, None], 1e-7),
        (np.stack([RAMP + 0.01, RAMP - 0.01]), 1e-7),
        (np.stack([RAMP + 0.01, RAMP - 0.01], 1), 1e-7),
        (np.asfortranarray(np.stack([RAMP] * 4)), 1e-7),
        (torch.from_numpy(np.stack([RAMP + n / 100 for n in (-1, 0, 1, 0)])), 1e-7),
        (RAMP[::-1][::-1].astype(">f4"), 1e-7),
        (np.ma.masked_array(RAMP), 1e-7),
    ],
)
def test_every_kind_of_array_is_the_same_recording(samples, tolerance):
    found = mono_samples(samples)
    assert found.dtype == np.float32 and found.shape == (2000,)
    assert np.abs(found - RAMP).max() <= tolerance + 1e-7


def test_offset_binary_has_its_silence_at_128():
    assert mono_samples(np.array([128, 0, 255], np.uint8)).tolist() == [0.0, -1.0, 127 / 128]


def test_what_holds_nothing_is_empty():
    for shape in (0, (0, 2), (2, 0)):
        assert mono_samples(np.zeros(shape)).shape == (0,)


@pytest.mark.parametrize(
    ("samples", "named"),
    [
        (list(range(100)), "samples of type int64"),
        (np.arange(100), "samples of type int64"),
        (torch.arange(100), "samples of type int64"),
        (np.zeros(100, np.int8), "samples of type int8"),
        (np.zeros(100, np.uint16), "samples of type uint16"),
        (np.zeros(100, bool), "samples of type bool"),
        (np.zeros(100, complex), "samples of type complex128"),
        (torch.zeros(100, dtype=torch.complex64), "samples of type complex64"),
        (["a", "b"], "samples of type <U1"),
        ([[1.0], [1.0, 2.0]], "a list that makes no array"),
        ([None], "samples of type object"),
        ((16000, RAMP), "a tuple"),
        ((RAMP, 16000), "a tuple"),
        ((sample for sample in RAMP), "a generator"),
        (b"RIFF", "a bytes"),
        ({"array": RAMP}, "a dict"),
        (None, "None"),
        (0.5, r"0.5 \(float\)"),
        (np.zeros((2, 3, 4)), r"samples of shape \(2, 3, 4\)"),
        (np.float32(1), r"samples of shape \(\)"),
        (np.zeros((100, 100)), "which of the two are channels is not clear"),
        (np.zeros((100, 16000)), "which of the two are channels is not clear"),
    ],
)
def test_what_is_no_recording_for_sure_is_named_in_one_line(samples, named):
    with pytest.raises(SpkverError, match=named) as caught:
        mono_samples(samples)
    assert "expected a path, or samples (n_samples,)" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_16_bits_in_an_integer_of_32_are_not_taken_for_silence():
    with pytest.raises(SpkverError, match="int32 whose values are those of 16 bits; give them as int16"):
        mono_samples(np.round(RAMP * 2**15).astype(np.int32))
    assert mono_samples(np.zeros(5, np.int32)).tolist() == [0.0] * 5


def test_a_whole_rate_of_any_type_is_taken():
    for rate in (16000, 16000.0, np.int32(16000), np.float64(16000)):
        assert checked_rate(rate) == 16000


@pytest.mark.parametrize("rate", [0, -16000, 16000.5, float("nan"), float("inf"), True, 10**400, "16000", [16000], 1j])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(SpkverError, match="sample_rate must be a whole number of Hz above 0, got "):
        checked_rate(rate)
