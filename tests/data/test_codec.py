"""Codecs: length, timing and type stay; the rate is the one that was asked for."""

import io

import numpy as np
import pytest
import soundfile

from spkver.data import codec as codec_module
from spkver.data.codec import Codec, through_codec


def voice(rate: int, n: int) -> np.ndarray:
    """Bursts of a gliding harmonic sound."""
    time = np.arange(n) / rate
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(5 * time)) / rate
    sound = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.2 + np.sin(20 * time) ** 2)
    return (0.2 * sound).astype(np.float32)


@pytest.fixture
def sizes(monkeypatch):
    """Bytes of each file that is encoded."""
    found = []
    real = soundfile.write

    def write(file, *words, **more):
        real(file, *words, **more)
        assert isinstance(file, io.BytesIO)
        found.append(len(file.getvalue()))

    monkeypatch.setattr(codec_module.soundfile, "write", write)
    return found


def lag(before: np.ndarray, after: np.ndarray) -> int:
    n = 1 << 17
    correlation = np.fft.irfft(np.fft.rfft(after, n) * np.conj(np.fft.rfft(before, n)))
    return int((np.argmax(correlation) + n // 2) % n - n // 2)


# At 16 kbit/s an MP3's frames have room for the header that says what its decoder leaves out, at 8 kHz, and not at
# 16 kHz. Opus knows no 22.05 kHz.
@pytest.mark.parametrize("rate", [8000, 16000, 22050])
@pytest.mark.parametrize("name, kbits", [("opus", 12), ("opus", 32), ("mp3", 16), ("mp3", 32)])
def test_length_and_timing_stay_and_the_rate_is_as_asked(sizes, rate, name, kbits):
    n = rate + 137
    before = voice(rate, n)
    after = through_codec(before, rate, Codec(name, kbits))
    assert after.shape == (n,) and after.dtype == np.float32
    assert abs(lag(before, after)) <= 1
    assert np.corrcoef(before, after)[0, 1] > 0.6
    assert not np.allclose(before, after, atol=1e-3)
    # Opus adds Ogg's headers, an MP3 a frame or two.
    assert kbits * 0.8 < 8 * sizes[0] / (n / rate) / 1000 < kbits * 1.2 + 10


def test_a_higher_rate_is_nearer_to_the_recording():
    before = voice(16000, 16000)
    for name in ("opus", "mp3"):
        errors = [np.std(through_codec(before, 16000, Codec(name, kbits)) - before) for kbits in (12, 32, 128)]
        assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("name", ["opus", "mp3"])
def test_16_bit_samples_stay_such_and_are_those_of_float32_rounded(name):
    before = np.clip(np.rint(32768 * voice(16000, 8000)), -32768, 32767).astype(np.int16)
    after = through_codec(before, 16000, Codec(name, 24))
    assert after.dtype == np.int16 and after.shape == before.shape
    floats = through_codec(before.astype(np.float32) / 32768, 16000, Codec(name, 24))
    np.testing.assert_array_equal(after, np.clip(np.rint(floats * 32768), -32768, 32767))


def test_the_same_samples_come_back_each_time_and_the_input_is_not_changed():
    before = 1.5 * voice(16000, 8000)  # beyond full scale, too
    kept = before.copy()
    for name in ("opus", "mp3"):
        np.testing.assert_array_equal(*(through_codec(before, 16000, Codec(name, 16)) for _ in range(2)))
    np.testing.assert_array_equal(before, kept)
