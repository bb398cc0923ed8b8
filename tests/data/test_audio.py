"""Reading audio: crops equal the full decode, resampling, broken files."""

import struct

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data.audio import (
    AudioError,
    audio_info,
    check_samples,
    is_16_bit_audio,
    read_audio,
    wrap_to,
)
from spkver.data.resampling import resample
from spkver.data.streaming import audio_blocks

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def speech_like(n_samples: int, rate: int, seed: int = 0) -> np.ndarray:
    """A gliding tone with bursts of noise: no two places are alike."""
    seconds = np.arange(n_samples) / rate
    noise = np.random.default_rng(seed).standard_normal(n_samples) * (np.sin(3 * seconds) > 0)
    return (0.3 * np.sin(2 * np.pi * 300 * seconds * (1 + seconds / 10)) + 0.05 * noise).astype(np.float32)


def write(path, samples, rate=16000, kind=None, **options):
    container, coding = FORMATS[kind or path.name.partition(".")[2]]
    soundfile.write(path, samples, rate, format=container, subtype=coding, **options)
    return path


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_crop_equals_the_cut_of_the_full_decode(tmp_path, kind, rate):
    # Variable bit rate is the hard case of MP3, the lowest bit rate that of Opus.
    options = {"mp3": {"bitrate_mode": "VARIABLE"}, "opus": {"compression_level": 1.0}}.get(kind, {})
    path = write(tmp_path / f"a.{kind}", speech_like(7 * rate + 137, rate), rate, **options)
    full, _ = soundfile.read(path, dtype="float32")
    for first in [*range(0, len(full), 9973), len(full) - 5000, len(full) - 300, len(full) - 1]:
        crop = read_audio(path, rate, first / rate, 1.0)
        np.testing.assert_allclose(crop, full[first : first + rate], atol=1e-6, err_msg=f"frame {first}")


def test_crops_near_the_end_of_real_vorbis_are_exact(speechocean762):
    """libsndfile alone misses here: up to 0.2 of full scale in the last page."""
    for path in sorted((speechocean762 / "WAVE").glob("*/*.ogg"))[::500]:
        full, _ = soundfile.read(path, dtype="float32")
        for first in range(0, len(full), 1771):
            crop = read_audio(path, 16000, first / 16000, 0.2)
            np.testing.assert_array_equal(crop, full[first : first + 3200], err_msg=f"{path} {first}")


@pytest.mark.parametrize(("kind", "rate"), [("wav", 16000), ("flac", 16000), ("ogg", 16000), ("wav", 44100)])
def test_a_crop_reads_little_more_than_itself(tmp_path, monkeypatch, kind, rate):
    path = write(tmp_path / f"a.{kind}", speech_like(30 * rate, rate), rate)
    frames_read = []
    read = soundfile.SoundFile.read

    def counting(self, *args, **kwargs):
        block = read(self, *args, **kwargs)
        frames_read.append(len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    assert len(read_audio(path, 16000, 12.3, 2.0)) == 32000
    # Resampling begins on the grid of its matrix products.
    assert sum(frames_read) < (2.1 if rate == 16000 else 2.4) * rate


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000])
@pytest.mark.parametrize("start", [0.0, 0.7213, 2.9])
def test_a_resampled_crop_equals_the_crop_of_the_resampled_file(tmp_path, rate, start):
    path = write(tmp_path / "a.wav", speech_like(3 * rate + 11, rate), rate)
    full = read_audio(path, 16000)
    assert len(full) == -(-(3 * rate + 11) * 16000 // rate)
    first = round(start * 16000)
    crop = read_audio(path, 16000, start, 0.5)
    assert len(crop) == min(8000, len(full) - first)
    np.testing.assert_array_equal(crop, full[first : first + 8000])


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_agrees_with_torchaudio_in_the_pass_band(tmp_path, rate):
    rng = np.random.default_rng(0)
    seconds = np.arange(2 * rate) / rate
    frequencies = rng.uniform(50, 0.8 * min(rate, 16000) / 2, 20)
    tones = sum(0.04 * np.sin(2 * np.pi * (f * seconds + rng.random())) for f in frequencies).astype(np.float32)
    ours = read_audio(write(tmp_path / "a.float.wav", tones, rate), 16000)
    other = torchaudio.functional.resample(
        torch.from_numpy(tones), rate, 16000, lowpass_filter_width=128, resampling_method="sinc_interp_kaiser"
    ).numpy()
    middle = slice(2000, 30000)
    error = np.mean((ours[middle] - other[middle]) ** 2) / np.mean(other[middle] ** 2)
    assert 10 * np.log10(error) < -50


def test_samples_in_memory_are_resampled_as_a_file_is(tmp_path):
    samples = speech_like(22050, 22050)
    read = read_audio(write(tmp_path / "a.float.wav", samples, 22050), 16000)
    for given_as in (np.float32, np.float64):
        resampled = resample(samples.astype(given_as), 22050, 16000)
        assert resampled.dtype == np.float32
        np.testing.assert_allclose(resampled, read, atol=1e-6)
    assert resample(samples.astype(np.float64), 16000, 16000).dtype == np.float32


def test_what_the_lower_rate_cannot_hold_is_removed(tmp_path):
    path = write(tmp_path / "a.float.wav", np.sin(2 * np.pi * 5000 * np.arange(16000) / 16000), 16000)
    assert np.abs(read_audio(path, 8000)[200:-200]).max() < 10 ** (-60 / 20)


def test_channels_are_averaged_and_info_comes_from_the_header(tmp_path):
    left, right = speech_like(8000, 8000, 1), speech_like(8000, 8000, 2)
    path = write(tmp_path / "a.float.wav", np.stack([left, right], axis=1), 8000)
    samples = read_audio(path, 8000)
    assert samples.dtype == np.float32 and samples.shape == (8000,)
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-7)
    assert audio_info(path) == (8000, 8000, 2)


def reason_of(path, *args) -> str:
    with pytest.raises(AudioError) as caught:
        read_audio(path, 16000, *args)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["wav", "float.wav", "flac", "ogg", "opus", "mp3"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_truncated(tmp_path, kind, share):
    whole = write(tmp_path / f"a.{kind}", speech_like(96000, 16000)).read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: int(share * len(whole))])
    assert reason_of(path) == "truncated"


@pytest.mark.parametrize("container", ["AIFF", "AU"])
def test_other_containers_that_were_cut_off_are_truncated(tmp_path, container):
    path = tmp_path / "a"
    soundfile.write(path, speech_like(16000, 16000), 16000, format=container, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:20000])
    assert reason_of(path) == "truncated"


def test_an_ogg_file_that_ends_within_a_page_header_is_truncated(tmp_path):
    whole = write(tmp_path / "a.ogg", speech_like(96000, 16000)).read_bytes()
    path = tmp_path / "cut.ogg"
    for keep in (10, 27, 30):
        path.write_bytes(whole[: whole.rfind(b"OggS") + keep])
        assert reason_of(path) == "truncated"


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_into_a_pipe_is_whole(tmp_path, size):
    content = bytearray(write(tmp_path / "a.wav", speech_like(16000, 16000)).read_bytes())
    at = content.find(b"data") + 4
    content[at : at + 4] = struct.pack("<I", size)
    (tmp_path / "piped.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "piped.wav", 16000)) == 16000


def test_unusable_files_are_told_apart(tmp_path):
    assert reason_of(tmp_path / "none.wav") == "missing"
    (tmp_path / "zero.wav").touch()
    assert reason_of(tmp_path / "zero.wav") == "empty"
    assert reason_of(write(tmp_path / "a.wav", np.zeros(0, np.float32))) == "empty"
    (tmp_path / "page.wav").write_text("<html>404</html>")
    assert reason_of(tmp_path / "page.wav") == "unreadable"
    (tmp_path / "headerless.raw").write_bytes(bytes(100))
    assert reason_of(tmp_path / "headerless.raw") == "unreadable"
    for value in (np.nan, np.inf):
        samples = speech_like(1000, 16000)
        samples[500] = value
        assert reason_of(write(tmp_path / "a.float.wav", samples)) == "non-finite"


@pytest.mark.parametrize("peak", [3.0, -15.9])
def test_samples_beyond_full_scale_are_kept_as_they_are(tmp_path, peak):
    samples = speech_like(1000, 16000)
    samples[500] = peak
    np.testing.assert_array_equal(read_audio(write(tmp_path / "a.float.wav", samples), 16000), samples)


@pytest.mark.parametrize("value", [-16.1, 32767.0, 3e38])
def test_samples_far_beyond_full_scale_are_out_of_range_whatever_the_other_channel_holds(tmp_path, value):
    samples = speech_like(1000, 16000)
    samples[500] = value
    path = write(tmp_path / "a.float.wav", samples)
    assert reason_of(path) == "out-of-range"
    with pytest.raises(
        AudioError, match=f"holds a sample of {np.float32(value):g} where full scale is 1".replace("+", r"\+")
    ):
        read_audio(path, 16000)
    assert reason_of(write(tmp_path / "b.float.wav", np.stack([samples, -samples], 1))) == "out-of-range"


@pytest.mark.parametrize("rate", [1, 3999, 384_001, 2**31 - 1])
def test_a_file_of_a_rate_that_no_recording_has_is_unusable(tmp_path, rate):
    content = bytearray(write(tmp_path / "a.wav", speech_like(16000, 16000)).read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    assert reason_of(tmp_path / "a.wav") == "sample-rate"
    with pytest.raises(AudioError, match=f"a sample rate of {rate} Hz"):
        audio_info(tmp_path / "a.wav")


@pytest.mark.parametrize("rate", [4000, 22051, 44101, 384_000])
def test_a_crop_of_a_file_of_any_rate_is_bit_for_bit_that_of_the_whole(tmp_path, rate):
    path = write(tmp_path / "a.wav", speech_like(3 * rate + 11, rate), rate)
    full = read_audio(path, 16000)
    assert len(full) == -(-(3 * rate + 11) * 16000 // rate)
    for first in (0, 1, 15_999, 30_001, len(full) - 5):
        np.testing.assert_array_equal(read_audio(path, 16000, first / 16000, 0.5), full[first : first + 8000])


@pytest.mark.parametrize("kind", ["wav", "mp3", "ogg"])
def test_frames_that_are_decoded_in_pieces_are_those_of_one_go(tmp_path, monkeypatch, kind):
    path = write(tmp_path / f"a.{kind}", np.stack([speech_like(50_000, 16000, seed) for seed in (1, 2)], 1))
    whole, crop = read_audio(path, 16000), read_audio(path, 16000, 1.5, 0.5)
    monkeypatch.setattr("spkver.data.audio._DECODED_AT_ONCE", 1000)
    np.testing.assert_array_equal(read_audio(path, 16000), whole)
    np.testing.assert_array_equal(read_audio(path, 16000, 1.5, 0.5), crop)
    np.testing.assert_array_equal(np.concatenate(list(audio_blocks(path, 16000, 0.3))), whole)


def test_sixteen_bits_are_told_by_the_header(tmp_path):
    samples = speech_like(1000, 16000)
    assert is_16_bit_audio(write(tmp_path / "a.wav", samples), 16000)
    assert is_16_bit_audio(write(tmp_path / "a.flac", samples), 16000)
    assert not is_16_bit_audio(tmp_path / "a.wav", 8000)
    assert not is_16_bit_audio(write(tmp_path / "b.wav", np.stack([samples] * 2, 1)), 16000)
    assert not is_16_bit_audio(write(tmp_path / "a.ogg", samples), 16000)
    assert not is_16_bit_audio(write(tmp_path / "a.float.wav", samples), 16000)
    assert not is_16_bit_audio(tmp_path / "none.wav", 16000)


def test_a_crop_beyond_the_end_is_refused_and_one_across_it_is_shorter(tmp_path):
    path = write(tmp_path / "a.wav", speech_like(16000, 16000))
    assert len(read_audio(path, 16000, 0.75, 2.0)) == 4000
    assert reason_of(path, 1.0, 2.0) == "empty"
    with pytest.raises(ValueError, match="no crop"):
        read_audio(path, 16000, -1.0)
    with pytest.raises(ValueError, match="no crop"):
        read_audio(path, 16000, 0.0, 0.0)


def test_samples_are_judged():
    assert check_samples(np.zeros(0, np.float32)) == "empty"
    assert check_samples(np.full(100, 0.25, np.float32)) == "silent"
    assert check_samples(0.9e-4 * np.sin(np.arange(100.0))) == "silent"
    assert check_samples(1.1e-4 * np.sin(np.arange(100.0))) is None
    for value in (np.nan, np.inf, -np.inf):
        assert check_samples(np.array([0.0, value, 1.0])) == "non-finite"
    assert check_samples(np.array([0.0, -16.0])) is None
    assert check_samples(np.array([0.0, -16.1])) == check_samples(np.array([0.0, 3e38])) == "out-of-range"


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 200))
def test_wrapping_repeats_from_the_beginning(size, n):
    wrapped = wrap_to(np.arange(size), n)
    np.testing.assert_array_equal(wrapped, np.arange(n) % size)


def test_nothing_cannot_be_repeated():
    with pytest.raises(ValueError, match="empty"):
        wrap_to(np.zeros(0), 10)
