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


def test_samples_at_another_rate_are_compared_as_their_files_are(voice, voices, tmp_path):
    paths = [voices / "wav" / name / "0.wav" for name in ("v0", "v1")]
    slow = [soundfile.read(path, dtype="float32")[0] for path in paths]
    for n, samples in enumerate(slow):
        soundfile.write(tmp_path / f"{n}.wav", samples, 12000, subtype="FLOAT")
    files = [tmp_path / "0.wav", tmp_path / "1.wav"]
    expected = voice.verify(*files).score
    assert voice.verify(*slow, 12000).score == pytest.approx(expected, abs=1e-5)
    for pair in ((slow[0], files[1]), (files[0], slow[1])):
        assert voice.verify(*pair, 12000).score == pytest.approx(expected, abs=1e-5)
        assert abs(voice.verify(*pair).score - expected) > 1e-3


def test_windows_are_float32_and_their_times_float64_also_of_no_speech(voice, voices):
    spoken = np.concatenate([soundfile.read(voices / "wav" / "v0" / f"{n}.wav")[0] for n in range(6)])
    spoken *= 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(len(spoken)) / 16000)
    for samples in (spoken, 0.01 * np.random.default_rng(0).standard_normal(64000)):
        times, embeddings = voice.embed_windows(samples, 2.0, 1.0)
        assert (len(times) > 0) == (samples is spoken)
        assert (times.dtype, embeddings.dtype) == (np.float64, np.float32)
        assert (times.shape[1], embeddings.shape) == (2, (len(times), 16))
    at_half_the_rate = voice.embed_windows(spoken, 2.0, 1.0, sample_rate=8000)[0]
    assert at_half_the_rate[-1, 1] > 1.5 * voice.embed_windows(spoken, 2.0, 1.0)[0][-1, 1]


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
    expected = (
        rf"^{tmp_path}: has no threshold, as it was trained without held-out speakers \(data.held_out_speakers\); `spk"
    )
    with pytest.raises(SpkverError, match=expected):
        spkver.load(tmp_path).verify(path, path)
    assert spkver.load(tmp_path).threshold is spkver.load(tmp_path).threshold_source is None


def test_a_whole_number_is_a_threshold_too(trained, tmp_path):
    model = load_model(trained / "model")
    save_model(tmp_path, model.config, {"threshold": 1}, model.encoder.state_dict(), {}, [])
    assert spkver.load(tmp_path).threshold == spkver.load(tmp_path).likeness_threshold.value == 1.0


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


@pytest.mark.parametrize("broken", ["embeddings", "magnitudes", "zero magnitudes"])
def test_an_embedding_that_is_not_finite_is_refused_with_its_recordings_name(
    trained, voices, monkeypatch, broken, tmp_path
):
    voice = spkver.load(trained / "model")
    extract = voice._extractor.extract

    def breaking(waveforms):
        made = extract(waveforms)
        if broken == "embeddings":
            return made._replace(embeddings=made.embeddings * np.nan)
        return made._replace(magnitudes=made.magnitudes * (np.inf if broken == "magnitudes" else 0))

    monkeypatch.setattr(voice._extractor, "extract", breaking)
    samples = np.concatenate([soundfile.read(voices / "wav" / "v0" / f"{n}.wav")[0] for n in range(6)])
    samples *= 0.55 - 0.45 * np.cos(2 * np.pi * 4 * np.arange(len(samples)) / 16000)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    said = "its embedding is not finite, so it is unusable; samples reach "
    for audio, name in ((path, path), (samples, "samples")):
        with pytest.raises(SpkverError, match=rf"^{name}: {said}{np.abs(samples).max():g} where 1 is full scale"):
            voice.embed(audio)
        with pytest.raises(SpkverError, match=rf"^{name}: {said}0\.\d+ where"):
            voice.embed_windows(audio, 2.0, 1.0)


def test_a_prior_moves_the_threshold_only_of_calibrated_scores(trained, monkeypatch):
    voice = spkver.load(trained / "model")
    with pytest.raises(
        SpkverError, match=rf"^{voice.folder}: a prior needs calibrated scores; make them by `spkver cal"
    ):
        voice.set_prior(0.1)
    monkeypatch.setattr(voice, "system", "cosine+calibration")
    voice.set_prior(0.1)
    assert (voice.threshold, voice.threshold_source) == (pytest.approx(np.log(9)), "for a prior of 10 %")
    for wrong, shown in ((1.5, r"1\.5"), (0, "0"), ("half", "'half'")):
        with pytest.raises(SpkverError, match=rf"^the prior must lie between 0 and 1, got {shown}"):
            voice.set_prior(wrong)
    assert voice.threshold == pytest.approx(np.log(9))


def test_a_threshold_says_where_it_comes_from(trained, voices):
    voice = spkver.load(trained / "model")
    path = voices / "wav" / "v0" / "0.wav"
    outcome = voice.verify(path, path)
    assert (outcome.system, outcome.threshold_source) == ("cosine", "equal error among held-out training speakers")
    voice.threshold = 0.5
    assert voice.verify(path, path)[2:] == (0.5, False, "cosine", "as it was set")
