"""The model that comes with spkver: small, whole, and right about people whom it never met."""

from collections import defaultdict

import numpy as np
import pytest
from onnxruntime import InferenceSession

import spkver
from spkver.cli import main
from spkver.corpora.speechocean762 import read_split
from spkver.data.audio import read_audio
from spkver.data.trial_making import make_trials
from spkver.data.trials import map_trials
from spkver.experiment.model_folder import GENERAL, load_model, load_tensors, model_folder
from spkver.scoring.metrics import equal_error_rate

MEGABYTES = 4.0


def test_it_is_small():
    weights, onnx = GENERAL / "model.safetensors", GENERAL / "general_int8.onnx"
    assert (weights.stat().st_size + onnx.stat().st_size) / 1e6 < MEGABYTES
    assert sum(weight.numel() for weight in load_model(GENERAL).encoder.parameters()) < 1.5e6
    assert not load_model(GENERAL).config.model.average_spectrum  # voice and microphone in one


def test_nothing_in_it_tells_of_a_machine_or_names_a_speaker():
    assert {path.relative_to(GENERAL).as_posix() for path in GENERAL.rglob("*") if path.is_file()} == {
        "README.md",
        "backend/calibration-cosine.json",
        "backend/weights",
        "config.yaml",
        "general_int8.onnx",
        "model.safetensors",
        "speakers",
    }
    assert (GENERAL / "speakers").read_text() == ""
    text = (GENERAL / "config.yaml").read_text()
    assert not any(
        word in text for word in ("command", "machine", "commit", "started", "/home", "/root", "/work", "/tmp")
    )


def test_its_calibration_is_of_these_weights():
    voice = spkver.load()
    assert voice.calibrated and voice.folder == GENERAL and np.isfinite(voice.threshold)


def test_its_name_means_it_unless_a_folder_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_folder("general") == GENERAL
    (tmp_path / "general").mkdir()
    assert model_folder("general") == (tmp_path / "general").relative_to(tmp_path)


@pytest.fixture(scope="module")
def strangers(speechocean762):
    """Four recordings each of twenty test speakers, and their embeddings by Python."""
    of_speaker = defaultdict(list)
    for utterance in read_split(speechocean762, "test").utterances:
        of_speaker[utterance.speaker].append(utterance)
    utterances = [u for speaker in sorted(of_speaker)[:20] for u in of_speaker[speaker][:4]]
    voice = spkver.load()
    return utterances, np.stack([voice.embed(utterance.path) for utterance in utterances])


def error_rate(utterances, embeddings):
    ids = [utterance.id for utterance in utterances]
    trials = make_trials(ids, [utterance.speaker for utterance in utterances], seed=1)
    enroll, test = map_trials(trials, ids, "")
    return equal_error_rate((embeddings[enroll] * embeddings[test]).sum(1), trials.known_labels)[0]


def test_it_tells_people_apart_whom_it_never_met(strangers):
    utterances, embeddings = strangers
    assert error_rate(utterances, embeddings) < 0.07  # 5.5 %; untrained it would be three times that


def test_its_onnx_file_tells_them_apart_as_well(strangers):
    utterances, embeddings = strangers
    session = InferenceSession(GENERAL / "general_int8.onnx")
    made = []
    for utterance in utterances:
        samples = read_audio(utterance.path, 16000)[None]
        made.append(session.run(None, {"waveform": samples, "lengths": np.array([samples.shape[1]])})[0][0])
    cosines = (np.stack(made) * embeddings).sum(1)
    assert cosines.mean() > 0.99
    assert abs(error_rate(utterances, np.stack(made)) - error_rate(utterances, embeddings)) < 0.02


def test_verify_decides_by_it_and_says_so_where_no_model_is_named(speechocean762, capsys):
    wavs = speechocean762 / "WAVE"
    a, same = sorted(wavs.glob("SPEAKER0003/*"))[:2]
    other = sorted(wavs.glob("SPEAKER0024/*"))[0]
    assert main(["verify", str(a), str(same)]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("same speaker   log-likelihood ratio ")
    assert said.err.count("\n") == 1
    assert said.err.startswith("The general model of spkver decides, trained on ")
    assert "equal error" in said.err and "model of more speakers by --model" in said.err
    assert main(["verify", str(a), str(other), "--model", "general", "--json"]) == 3
    assert capsys.readouterr().err == ""  # whoever names it knows it


def test_a_new_store_takes_it_and_an_old_one_keeps_its_own(voices, trained, tmp_path, capsys):
    anna = str(voices / "wav" / "v0" / "0.wav")
    assert main(["enroll", "anna", anna, "--store", str(tmp_path / "new")]) == 0
    assert "general model" in capsys.readouterr().err
    assert main(["identify", anna, "--store", str(tmp_path / "new")]) == 0
    assert "general model" not in capsys.readouterr().err
    own = ["--store", str(tmp_path / "old")]
    assert main(["enroll", "anna", anna, *own, "--model", str(trained)]) == 0
    assert main(["enroll", "bob", str(voices / "wav" / "v1" / "0.wav"), *own]) == 0
    assert "general model" not in capsys.readouterr().err


def test_training_goes_on_from_it(voices, tmp_path):
    words = ["batch.speakers=8", "training.epochs=1", "training.average_last=1", "training.keep_last=1"]
    words += ["data.held_out_speakers=0", "snapshots.speakers=0", "data.workers=0", "data.crop_seconds=0.5"]
    words += ["augment.noise.probability=0", "training.checkpoint_minutes=60", "optimizer.lr=0.000001"]
    exp = tmp_path / "exp"
    assert main(["train", "general_lmf", "--data", str(voices), "--exp", str(exp), "--init", "general", *words]) == 0
    before, after = load_tensors(GENERAL / "model.safetensors"), load_tensors(exp / "untrained" / "model.safetensors")
    assert all(np.allclose(before[name], after[name], atol=1e-3) for name in before)
