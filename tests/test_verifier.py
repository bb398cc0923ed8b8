"""``spkver.load``: the same embedding from a path and from samples of any kind, and a decision."""

import numpy as np
import pytest
import soundfile

import spkver
from spkver.errors import SpkverError
from spkver.model_folder import load_model, save_model


@pytest.fixture(scope="session")
def voice(trained):
    return spkver.load(trained / "model")


def test_a_path_and_its_samples_have_one_embedding(voice, voices):
    path = voices / "wav" / "v0" / "0.wav"
    samples, rate = soundfile.read(path, dtype="float32")
    embedding = voice.embed(path)
    assert embedding.shape == (16,)
    assert embedding.dtype == np.float32
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    for same in (
        voice.embed(str(path)),
        voice.embed(samples),
        voice.embed(samples, rate),
        voice.embed(samples.astype(np.float64)),
        voice.embed(np.round(samples * 32768).astype(np.int16)),
        voice.embed(np.stack([samples, samples], 1)),
    ):
        assert np.abs(same - embedding).max() < 1e-4


def test_samples_at_another_rate_are_resampled(voice, tmp_path):
    rng = np.random.default_rng(0)
    time = np.arange(44100) / 44100
    samples = sum(np.sin(2 * np.pi * f * time + rng.uniform(0, 6)) for f in (200, 400, 900, 1500)) / 8
    samples *= 1 - 0.9 * np.cos(2 * np.pi * 4 * time) ** 2  # a steady sound is no speech
    soundfile.write(tmp_path / "a.wav", samples, 44100, subtype="FLOAT")
    from_file = voice.embed(tmp_path / "a.wav")
    assert np.abs(voice.embed(samples, 44100) - from_file).max() < 1e-4
    assert voice.embed(samples, 16000) @ from_file < 0.9999


def test_a_recording_is_of_its_own_speaker_at_score_one(voice, voices):
    path = voices / "wav" / "v0" / "0.wav"
    outcome = voice.verify(path, path)
    assert outcome.score == pytest.approx(1, abs=1e-5)
    assert outcome.same_speaker
    assert outcome.threshold == voice.threshold
    score = voice.verify(path, voices / "wav" / "v1" / "0.wav").score
    assert score == pytest.approx(float(voice.embed(path) @ voice.embed(voices / "wav" / "v1" / "0.wav")), abs=1e-6)


def test_the_decision_is_the_threshold(trained, voices):
    verifier = spkver.load(trained / "model")
    pair = voices / "wav" / "v0" / "0.wav", voices / "wav" / "v1" / "0.wav"
    score = verifier.verify(*pair).score
    verifier.threshold = score
    assert verifier.verify(*pair).same_speaker
    verifier.threshold = np.nextafter(score, 2)
    assert not verifier.verify(*pair).same_speaker


@pytest.mark.parametrize(
    "audio, expected",
    [
        ("nowhere.wav", "nowhere.wav"),
        (np.zeros(16000, np.float32), "samples: silent"),
        (np.zeros(0, np.float32), "samples: empty"),
        (np.full(16000, np.nan, np.float32), "samples: non-finite"),
        (np.zeros((2, 3, 4)), "expected"),
    ],
)
def test_audio_that_holds_no_voice_is_one_line(voice, audio, expected):
    with pytest.raises(SpkverError, match=expected) as caught:
        voice.embed(audio)
    assert "\n" not in str(caught.value)


def test_a_folder_without_model_is_one_line(tmp_path):
    with pytest.raises(SpkverError, match=r"is no model folder \(no config.yaml\)"):
        spkver.load(tmp_path)


def test_a_damaged_model_is_one_line(trained, tmp_path):
    model = load_model(trained / "model")
    save_model(tmp_path, model.config, {}, model.encoder.state_dict(), {}, [])
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(SpkverError, match=r"is not a whole safetensors file"):
        spkver.load(tmp_path)


def test_a_model_without_threshold_says_how_to_give_one(trained, tmp_path, voices):
    model = load_model(trained / "model")
    save_model(tmp_path, model.config, {}, model.encoder.state_dict(), {}, [])
    path = voices / "wav" / "v0" / "0.wav"
    with pytest.raises(SpkverError, match=r"has no threshold"):
        spkver.load(tmp_path).verify(path, path)
