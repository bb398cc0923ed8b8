"""Recordings of noise and rooms: what is drawn does not depend on which of them are kept in memory."""

import numpy as np
import pytest
import soundfile

from spkver.data.audio import read_audio, wrap_to
from spkver.data.recordings import Place, Recordings
from spkver.errors import SpkverError

RATE = 16000
SECONDS = {"short": (0.5, RATE), "long": (12.0, RATE), "other": (4.0, 48000)}


@pytest.fixture
def noise_list(tmp_path):
    """Three noises: shorter than a crop, long, and at another rate."""
    rng = np.random.default_rng(3)
    for name, (seconds, rate) in SECONDS.items():
        soundfile.write(tmp_path / f"{name}.wav", 0.2 * rng.standard_normal(int(seconds * rate)), rate)
    (tmp_path / "noise.scp").write_text("".join(f"{name} {name}.wav\n" for name in SECONDS))
    return tmp_path / "noise.scp"


def samples_of(kept, wave):
    return kept[wave.begin : wave.begin + wave.length].numpy() if isinstance(wave, Place) else wave


def test_noise_crops_come_from_every_file_and_place_and_short_ones_are_repeated(noise_list):
    files = Recordings(noise_list, RATE, RATE)
    rng = np.random.default_rng(0)
    crops = [files.draw_crop(rng) for _ in range(40)]
    assert all(crop.shape == (RATE,) and crop.dtype == np.float32 for crop in crops)
    repeated = [crop for crop in crops if np.array_equal(crop[: RATE // 2], crop[RATE // 2 :])]
    assert 5 <= len(repeated) <= 25
    assert len({float(crop[0]) for crop in crops}) == 40 - len(repeated) + 1


@pytest.mark.parametrize(
    "megabytes, kept",
    # 4 bytes a sample: a crop of 1 s is 0.064 MB, 4 s are 0.256, 12 s are 0.768; a slice as long as the longest must
    # begin at the last one, too. By the size of the files the long one comes before the one at 48 kHz.
    [(0.0, []), (0.13, ["short"]), (1.6, ["short", "long"]), (2.0, ["short", "long", "other"])],
)
@pytest.mark.parametrize("crop_samples", [RATE, None])
def test_what_is_drawn_is_the_same_to_the_last_bit_whatever_is_kept(noise_list, megabytes, kept, crop_samples):
    some, none = Recordings(noise_list, RATE, crop_samples), Recordings(noise_list, RATE, crop_samples)
    samples = some.read(megabytes)
    assert samples.nbytes <= megabytes * 1e6
    assert sorted(some.kept) == sorted(list(SECONDS).index(name) for name in kept)
    places = 0
    for seed in range(30):
        one, two = np.random.default_rng(seed), np.random.default_rng(seed)
        drawn = some.draw(one) if crop_samples is None else some.draw_crop(one)
        places += isinstance(drawn, Place)
        expected = none.draw(two) if crop_samples is None else none.draw_crop(two)
        np.testing.assert_array_equal(samples_of(samples, drawn), expected)
        assert one.random() == two.random()
    assert (places > 0) == bool(kept)


def test_a_crop_is_cut_from_its_file(noise_list):
    files = Recordings(noise_list, RATE, 3 * RATE)
    for seed in range(10):
        crop = files.draw_crop(np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        whole = read_audio(files.paths[rng.integers(3)], RATE)
        start = rng.integers(max(1, len(whole) - 3 * RATE + 1))
        np.testing.assert_array_equal(crop, wrap_to(whole[start:], 3 * RATE))


def test_a_slice_as_long_as_any_recording_can_begin_at_each(noise_list):
    files = Recordings(noise_list, RATE)
    samples = files.read(10)
    longest = max(place.length for place in files.kept.values())
    last = max(place.begin + place.length for place in files.kept.values())
    assert all(len(samples[begin : begin + longest]) == longest for begin, _ in files.kept.values())
    assert not samples[last:].any()


def test_a_fault_of_the_list_is_named_by_line_and_one_of_a_file_by_its_path(noise_list):
    (noise_list.parent / "short.wav").write_bytes(b"no audio")
    with pytest.raises(SpkverError, match=r"short\.wav"):
        Recordings(noise_list, RATE, RATE).read(10)
    noise_list.write_text("short short.wav\nlost lost.wav\n")
    with pytest.raises(SpkverError, match=r"noise\.scp:2: no audio file .*lost\.wav"):
        Recordings(noise_list, RATE)
