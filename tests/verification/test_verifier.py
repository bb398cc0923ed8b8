"""``spkver.load``: the same embedding from a path and from samples of any kind, and a decision."""

import numpy as np
import pytest
import soundfile
import torch

import spkver
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, save_model


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
    samples *= 0.02 + (np.sin(2 * np.pi * 2.5 * time) > 0)  # a steady sound is no speech
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


def test_channels_may_come_first_and_integers_without_sign_have_their_silence_in_the_middle(voice, voices):
    samples, _ = soundfile.read(voices / "wav" / "v0" / "0.wav", dtype="float32")
    right = voice.embed(samples)
    for same in (
        samples[None],
        torch.from_numpy(samples)[None].requires_grad_(),
        np.stack([samples + 0.01, samples - 0.01]),
        np.round(samples * 2**31).astype(np.int32),
        samples.tolist(),
    ):
        assert np.abs(voice.embed(same) - right).max() < 1e-4
    assert voice.embed(np.round(samples * 128 + 128).clip(0, 255).astype(np.uint8)) @ right > 0.99
    assert voice.embed(torch.from_numpy(samples).bfloat16()) @ right > 0.999
    assert np.array_equal(voice.embed(samples, 16000.0), voice.embed(samples, 16000))
    assert np.array_equal(voice.embed_windows(samples[None])[0], voice.embed_windows(samples)[0])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda voice, x: voice.embed((16000, x)), "a tuple: expected a path, or samples"),
        (lambda voice, x: voice.embed(list(range(100))), "samples of type int64"),
        (lambda voice, x: voice.embed(sample for sample in x), "a generator"),
        (lambda voice, x: voice.embed(None), "None: expected"),
        (lambda voice, x: voice.embed(x, 0), r"sample_rate must be a whole number of Hz above 0, got 0 \(int\)"),
        (lambda voice, x: voice.embed(x, -16000), "sample_rate must be"),
        (lambda voice, x: voice.verify(x, 7), r"7 \(int\): expected a path"),
        (lambda voice, x: voice.embed_windows(x, "3"), r"window_seconds must be a number, got '3' \(str\)"),
        (lambda voice, x: voice.embed_windows(x, 3.0, float("nan")), "hop_seconds must be a number, got nan"),
        (lambda voice, x: voice.set_threshold(float("nan")), "the threshold must be a finite number, got nan"),
        (lambda voice, x: setattr(voice, "threshold", "high"), "the threshold must be a finite number, got 'high'"),
        (lambda voice, x: voice.embed(np.where(np.arange(len(x)) == 999, 3e38, x)), "samples"),
        (lambda voice, x: spkver.load(None), "expected the path of a model folder, such as exp/mini/model, got None"),
        (lambda voice, x: spkver.load(voice.folder, "cosine+znrm"), r"no system 'cosine\+znrm'"),
        (lambda voice, x: spkver.load(voice.folder, 7), "expected the name of a system, such as cosine"),
        (lambda voice, x: spkver.load(voice.folder, "untrained"), "'untrained' cannot decide"),
        (
            lambda voice, x: spkver.load(voice.folder, "plda").verify(x, x),
            "has no threshold, as none was saved for plda",
        ),
    ],
)
def test_a_wrong_argument_is_one_line(voice, voices, call, expected):
    samples, _ = soundfile.read(voices / "wav" / "v0" / "0.wav", dtype="float32")
    with pytest.raises(SpkverError, match=expected) as caught:
        call(voice, samples)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_an_embedding_that_is_not_finite_is_refused(trained, voices, monkeypatch):
    voice = spkver.load(trained / "model")
    extract = voice._extractor.extract

    def broken(waveforms):
        made = extract(waveforms)
        return made._replace(embeddings=made.embeddings * np.nan)

    monkeypatch.setattr(voice._extractor, "extract", broken)
    path = voices / "wav" / "v0" / "0.wav"
    with pytest.raises(
        SpkverError, match=rf"^{path}: its embedding is not finite, so it is unusable; samples reach 0\."
    ):
        voice.embed(path)


def test_a_threshold_says_where_it_comes_from(trained, voices):
    voice = spkver.load(trained / "model")
    path = voices / "wav" / "v0" / "0.wav"
    outcome = voice.verify(path, path)
    assert (outcome.system, outcome.threshold_source) == ("cosine", "equal error among held-out training speakers")
    voice.threshold = 0.5
    assert voice.verify(path, path)[2:] == (0.5, False, "cosine", "as it was set")
