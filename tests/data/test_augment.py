"""Augmentation: the SNR that was asked for, reverberation in time with the speech, one generator."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from spkver.data import augment
from spkver.data.augment import (
    AudioFiles,
    Augmenter,
    add_at_snr,
    babble,
    reverberate,
    simulated_room,
)
from spkver.errors import SpkverError

RATE = 16000


def voice(seed: int, n_samples: int = 2 * RATE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(n_samples) * np.sin(np.arange(n_samples) / 900)).astype(np.float32)


def config(noise=0.0, babble=0.0, reverb=0.0, noise_list=None, reverb_list=None):
    return SimpleNamespace(
        noise=SimpleNamespace(probability=noise, list=noise_list, snr_db=[0.0, 15.0]),
        babble=SimpleNamespace(probability=babble, voices=[3, 7], snr_db=[13.0, 20.0]),
        reverb=SimpleNamespace(probability=reverb, list=reverb_list, rt60_seconds=[0.1, 0.6]),
    )


def draw_voice(rng, n_samples, not_speaker):
    return voice(int(rng.integers(1000)), n_samples)


@pytest.fixture
def noise_list(tmp_path):
    """Three noises: short, longer than is kept in memory, and at another rate."""
    rng = np.random.default_rng(3)
    for name, seconds, rate in (("short", 0.5, RATE), ("long", 12.0, RATE), ("other", 4.0, 48000)):
        soundfile.write(tmp_path / f"{name}.wav", 0.2 * rng.standard_normal(int(seconds * rate)), rate)
    (tmp_path / "noise.scp").write_text("short short.wav\nlong long.wav\nother other.wav\n")
    augment._decoded.cache_clear()
    return tmp_path / "noise.scp"


def snr_db(speech, mixture):
    noise = mixture.astype(np.float64) - speech
    return 10 * np.log10(np.mean(speech.astype(np.float64) ** 2) / np.mean(noise**2))


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(-10, 30), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_the_snr_is_reached(seed, wanted, speech_gain, noise_gain):
    speech, noise = (
        np.float32(speech_gain) * voice(seed, 4000),
        np.float32(noise_gain) * voice(seed + 1, 4000),
    )
    mixture = add_at_snr(speech, noise, wanted)
    assert mixture.dtype == np.float32
    assert snr_db(speech, mixture) == pytest.approx(wanted, abs=0.1)


def test_silent_noise_leaves_the_speech_and_silent_speech_stays_silent():
    speech = voice(0)
    np.testing.assert_array_equal(add_at_snr(speech, np.zeros_like(speech), 0.0), speech)
    np.testing.assert_array_equal(add_at_snr(np.zeros_like(speech), speech, 0.0), np.zeros_like(speech))


def test_noise_crops_come_from_every_file_and_place_and_short_ones_are_repeated(noise_list):
    files = AudioFiles(noise_list, RATE)
    rng = np.random.default_rng(0)
    crops = [files.draw_crop(rng, RATE) for _ in range(40)]
    assert all(crop.shape == (RATE,) and crop.dtype == np.float32 for crop in crops)
    repeated = [crop for crop in crops if np.array_equal(crop[: RATE // 2], crop[RATE // 2 :])]
    assert 5 <= len(repeated) <= 25
    assert len({float(crop[0]) for crop in crops}) == 40 - len(repeated) + 1


def test_crops_of_long_files_are_read_from_the_right_place(noise_list, monkeypatch):
    files = AudioFiles(noise_list, RATE)
    crops = [files.draw_crop(np.random.default_rng(seed), RATE) for seed in range(12)]
    monkeypatch.setattr(augment, "KEPT_SECONDS", 100.0)
    for seed, crop in enumerate(crops):
        again = files.draw_crop(np.random.default_rng(seed), RATE)
        np.testing.assert_allclose(again, crop, atol=1e-6)


def test_a_fault_of_the_noise_list_is_named_by_line(noise_list):
    noise_list.write_text("short short.wav\nlost lost.wav\n")
    with pytest.raises(SpkverError, match=r"noise\.scp:2: no audio file .*lost\.wav"):
        AudioFiles(noise_list, RATE)


def test_babble_sums_other_speakers_within_the_range():
    asked = []

    def draw(rng, n_samples, not_speaker):
        asked.append(not_speaker)
        return np.full(n_samples, rng.random(), np.float32)

    counts = set()
    for seed in range(60):
        asked.clear()
        crowd = babble(np.random.default_rng(seed), 100, "anna", draw, (3, 5))
        rng = np.random.default_rng(seed)
        rng.integers(3, 5, endpoint=True)
        np.testing.assert_allclose(crowd, sum(rng.random() for _ in asked), rtol=1e-5)
        assert crowd.shape == (100,) and set(asked) == {"anna"}
        counts.add(len(asked))
    assert counts == {3, 4, 5}


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


def test_reverberation_keeps_length_power_and_timing():
    speech = voice(1)
    response = np.zeros(4000, np.float32)
    response[137] = 0.8  # the direct path of a measured response comes after a delay
    response[[20, 1500]] = 0.1, -0.3
    wet = reverberate(speech, response)
    assert wet.shape == speech.shape and wet.dtype == np.float32
    assert np.mean(wet.astype(np.float64) ** 2) == pytest.approx(np.mean(speech.astype(np.float64) ** 2), rel=1e-4)
    slow = np.convolve(speech.astype(np.float64), response)[137 : 137 + len(speech)]
    slow *= np.sqrt(np.mean(speech.astype(np.float64) ** 2) / np.mean(slow**2))
    np.testing.assert_allclose(wet, slow, atol=1e-5)
    lags = np.correlate(wet, speech[200:-200], mode="valid")
    assert np.argmax(np.abs(lags)) == 200


def test_a_response_that_is_only_a_direct_path_changes_nothing():
    speech = voice(2)
    np.testing.assert_allclose(reverberate(speech, np.eye(1, 500, 80, dtype=np.float32)[0]), speech, atol=1e-6)
    np.testing.assert_array_equal(reverberate(np.zeros(1000, np.float32), np.ones(10, np.float32)), 0)


def test_an_augmenter_without_any_corpus_works_and_does_nothing_at_probability_zero():
    speech = voice(3)
    augmenter = Augmenter(config(), RATE)
    np.testing.assert_array_equal(augmenter(speech, np.random.default_rng(0), "anna"), speech)
    before = speech.copy()
    wet = Augmenter(config(reverb=1.0), RATE)(speech, np.random.default_rng(0), "anna")
    assert wet.shape == speech.shape and not np.allclose(wet, speech)
    np.testing.assert_array_equal(speech, before)


def test_each_kind_comes_as_often_as_asked_and_noise_never_with_babble(noise_list, monkeypatch):
    applied = []
    for name in ("reverberate", "add_at_snr", "babble"):
        original = getattr(augment, name)

        def recording(*args, name=name, original=original):
            applied[-1].append(name)
            return original(*args)

        monkeypatch.setattr(augment, name, recording)
    augmenter = Augmenter(config(0.5, 0.3, 0.4, noise_list), RATE, draw_voice)
    speech = voice(4, 800)
    for seed in range(600):
        applied.append([])
        augmented = augmenter(speech, np.random.default_rng(seed), "anna")
        assert augmented.shape == speech.shape and augmented.dtype == np.float32
    rates = {
        "reverb": np.mean(["reverberate" in kinds for kinds in applied]),
        "babble": np.mean(["babble" in kinds for kinds in applied]),
        "noise": np.mean(["add_at_snr" in kinds and "babble" not in kinds for kinds in applied]),
    }
    # Three standard deviations of 600 draws are 0.061.
    assert rates == pytest.approx({"reverb": 0.4, "babble": 0.3, "noise": 0.5}, abs=0.061)
    assert all(kinds[0] == "reverberate" for kinds in applied if "reverberate" in kinds)


def test_a_generator_gives_the_same_crop_whatever_was_read_before(noise_list):
    augmenter = Augmenter(config(1.0, 0.0, 0.5, noise_list), RATE)
    speech = voice(5)
    augment._decoded.cache_clear()
    cold = [augmenter(speech, np.random.default_rng(seed), "anna") for seed in range(8)]
    after = []
    for seed in reversed(range(8)):
        rng = np.random.default_rng(seed)
        after.append((augmenter(speech, rng, "anna"), rng.random()))
    for seed, (warm, following) in zip(reversed(range(8)), after):
        np.testing.assert_array_equal(warm, cold[seed])
        augment._decoded.cache_clear()
        rng = np.random.default_rng(seed)
        augmenter(speech, rng, "anna")
        assert rng.random() == following


@pytest.mark.parametrize("kind, low, high", [("noise", 0, 15), ("babble", 13, 20)])
def test_the_snr_of_noise_and_that_of_babble_lie_in_their_configured_ranges(noise_list, kind, low, high):
    augmenter = Augmenter(config(**{kind: 1.0}, noise_list=noise_list), RATE, draw_voice)
    speech = voice(6)
    reached = [snr_db(speech, augmenter(speech, np.random.default_rng(s), "anna")) for s in range(50)]
    assert low - 0.1 < min(reached) < low + 0.2 * (high - low)
    assert high - 0.2 * (high - low) < max(reached) < high + 0.1


def test_measured_responses_are_taken_from_the_list(tmp_path):
    soundfile.write(tmp_path / "r.wav", np.eye(1, 900, 300)[0], RATE, subtype="FLOAT")
    (tmp_path / "rir.scp").write_text("r r.wav\n")
    augmenter = Augmenter(config(reverb=1.0, reverb_list=tmp_path / "rir.scp"), RATE)
    speech = voice(7)
    np.testing.assert_allclose(augmenter(speech, np.random.default_rng(0), "anna"), speech, atol=1e-6)


def test_a_configuration_that_cannot_work_is_refused(noise_list):
    with pytest.raises(SpkverError, match=r"augment\.noise\.list"):
        Augmenter(config(noise=0.5), RATE)
    with pytest.raises(SpkverError, match="exceed 1 together"):
        Augmenter(config(0.6, 0.6, noise_list=noise_list), RATE, draw_voice)
    with pytest.raises(ValueError, match="draw_voice"):
        Augmenter(config(babble=0.5), RATE)


def test_an_augmenter_can_be_sent_to_a_worker_process(noise_list):
    augmenter = Augmenter(config(1.0, noise_list=noise_list), RATE)
    speech = voice(8)
    expected = augmenter(speech, np.random.default_rng(1), "anna")
    copy = pickle.loads(pickle.dumps(augmenter))
    np.testing.assert_array_equal(copy(speech, np.random.default_rng(1), "anna"), expected)


def test_real_noise_is_mixed_into_real_speech(speechocean762, esc10):
    path = next((speechocean762 / "WAVE").glob("*/*.ogg"))
    speech, _ = soundfile.read(path, dtype="float32")
    augmenter = Augmenter(config(1.0, noise_list=esc10 / "wav.scp"), RATE)
    for seed in range(20):
        mixture = augmenter(speech, np.random.default_rng(seed), "anna")
        assert np.isfinite(mixture).all()
        # Some clips are digital silence in places; such a crop leaves the speech as it was.
        assert np.array_equal(mixture, speech) or -0.1 < snr_db(speech, mixture) < 15.1
