"""A file in pieces has the samples of the file in one go, whatever its form and rate."""

import tracemalloc

import numpy as np
import pytest
import soundfile

from spkver.data.audio import AudioError, read_audio
from spkver.data.streaming import audio_blocks


def noise(seconds, rate, channels=1):
    rng = np.random.default_rng(0)
    samples = 0.1 * rng.standard_normal((round(seconds * rate), channels))
    # Smooth enough for lossy codecs, and nowhere the same.
    return np.cumsum(samples, axis=0) % 0.5 - 0.25


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 22051])
@pytest.mark.parametrize("form", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("block_seconds", [0.37, 2.0, 60.0])
def test_pieces_are_the_whole(tmp_path, rate, form, block_seconds):
    path = tmp_path / f"a.{form}"
    if form == "mp3" and rate == 22051:
        rate = 32000  # MP3 has few rates
    soundfile.write(path, noise(5.123, rate, 2), rate)
    whole = read_audio(path, 16000)
    blocks = list(audio_blocks(path, 16000, block_seconds))
    joined = np.concatenate(blocks)
    assert joined.shape == whole.shape
    np.testing.assert_array_equal(joined, whole)
    assert joined.dtype == np.float32
    assert len(blocks) <= 2 if block_seconds > 6 else len(blocks) > 2
    assert min(map(len, blocks)) > 0


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_sample_out_of_range_is_named_where_it_is_reached(tmp_path, rate):
    samples = noise(3, rate)
    samples[2 * rate + 100] = 3e38
    soundfile.write(tmp_path / "spike.wav", samples, rate, subtype="FLOAT")
    blocks = audio_blocks(tmp_path / "spike.wav", 16000, 0.5)
    assert len(next(blocks)) > 0
    with pytest.raises(AudioError, match=r"spike\.wav: out of range, it holds a sample of 3e\+38") as caught:
        list(blocks)
    assert caught.value.reason == "out-of-range"


def test_opus_is_not_spoilt_by_seeking(tmp_path):
    path = tmp_path / "a.opus"
    soundfile.write(path, noise(5.0, 48000), 48000, format="OGG", subtype="OPUS")
    joined = np.concatenate(list(audio_blocks(path, 16000, 0.5)))
    assert np.abs(joined - read_audio(path, 16000)).max() < 1e-6


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 44100, 1, "PCM_16") as file:
        for _ in range(20):
            file.write(noise(30, 44100))
    tracemalloc.start()
    n = sum(len(block) for block in audio_blocks(path, 16000, 10.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 600 * 16000
    assert peak < 16e6  # the whole would be 106 MB at its own rate


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing"), (b"", "empty"), (b"no audio", "unreadable"), ("cut", "truncated")]
)
def test_a_file_of_no_use_is_named(tmp_path, content, reason):
    path = tmp_path / "bad.wav"
    if content == "cut":
        soundfile.write(path, noise(2, 16000), 16000)
        path.write_bytes(path.read_bytes()[:-5000])
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError, match=r"bad\.wav: ") as caught:
        list(audio_blocks(path, 16000, 1.0))
    assert caught.value.reason == reason


def test_samples_that_are_no_numbers_are_named_where_they_are_reached(tmp_path):
    path = tmp_path / "nan.wav"
    samples = noise(3, 16000)
    samples[40000] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    blocks = audio_blocks(path, 16000, 1.0)
    assert len(next(blocks)) == 16000
    with pytest.raises(AudioError, match=r"nan\.wav: holds samples that are not finite") as caught:
        list(blocks)
    assert caught.value.reason == "non-finite"
