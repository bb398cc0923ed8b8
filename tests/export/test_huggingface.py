"""``spkver export --huggingface``: a folder that can be loaded as it is, and a card that says what was measured."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

import spkver
from spkver.cli import main
from spkver.experiment.model_folder import load_model, save_model

RECORD = {"eer": 0.0403, "min_dcf_0.01": 0.35, "min_dcf_0.05": 0.21, "targets": 1584, "nontargets": 15000}
METRICS = {
    "test/trials": {
        "cosine": RECORD | {"eer_interval": [0.038, 0.044]},
        "onnx_int8": RECORD | {"eer": 0.0412},
        "cosine+asnorm": RECORD | {"eer": 0.0311},
    }
}


def run(*words):
    return main([str(word) for word in words])


@pytest.fixture
def exp(trained, tmp_path):
    exp = shutil.copytree(trained, tmp_path / "exp")
    (exp / "metrics.json").write_text(json.dumps(METRICS))
    return exp


def run_example(folder, a, b, monkeypatch):
    monkeypatch.setattr("sys.argv", ["example.py", str(a), str(b)])
    runpy.run_path(str(folder / "example.py"), run_name="__main__")


def card_of(folder):
    """The front matter and the text of a model card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_folder_is_a_model_that_loads_and_embeds_the_same(exp, tmp_path, voices):
    out = tmp_path / "hub"
    assert run("export", exp, "--huggingface", out) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "LICENSE",
        "README.md",
        "config.yaml",
        "example.py",
        "model.safetensors",
    ]
    path = voices / "wav" / "v0" / "0.wav"
    assert np.array_equal(spkver.load(out).embed(path), spkver.load(exp / "model").embed(path))
    assert (out / "LICENSE").read_bytes() == (Path(__file__).parents[2] / "LICENSE").read_bytes()


def test_the_example_code_runs(exp, tmp_path, voices, monkeypatch, capsys):
    assert run("export", exp / "model", "--huggingface", tmp_path / "hub") == 0
    a, b = (str(voices / "wav" / name) for name in ("v0/0.wav", "v1/0.wav"))
    run_example(tmp_path / "hub", a, b, monkeypatch)
    cosine, decision = capsys.readouterr().out.splitlines()[-2:]
    outcome = spkver.load(exp / "model").verify(a, b)
    assert float(cosine.removeprefix("cosine ")) == pytest.approx(outcome.score, abs=1e-5)
    assert decision == str(outcome)


def test_the_card_has_front_matter_and_the_measured_table(exp, tmp_path):
    assert run("export", exp / "model", "--huggingface", tmp_path / "hub") == 0
    front, text = card_of(tmp_path / "hub")
    assert (front["license"], front["library_name"]) == ("apache-2.0", "spkver")
    assert "speaker-verification" in front["tags"]
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "exp"
    assert result["dataset"]["name"] == "test/trials"
    assert result["metrics"] == [{"type": "eer", "name": "EER (%)", "value": 4.03}]
    assert "| test/trials | cosine | 4.03% | 3.80% to 4.40% | 0.350 | 0.210 | 1584 | 15000 |" in text
    assert "| test/trials | onnx_int8 | 4.12% |  | 0.350 | 0.210 | 1584 | 15000 |" in text
    assert "asnorm" not in text  # the cohort that it needs is not in the folder
    threshold = load_model(exp / "model").run["threshold"]
    assert f"decides by, {threshold:.3f}," in text


def test_nothing_of_this_machine_or_of_the_training_speakers_is_in_the_folder(exp, tmp_path, voices):
    assert run("export", exp, "--huggingface", tmp_path / "hub") == 0
    for path in (tmp_path / "hub").iterdir():
        content = path.read_bytes()
        assert str(voices).encode() not in content
        assert b"command" not in content or path.name == "LICENSE"


def test_a_model_without_metrics_or_threshold_says_so_and_its_example_runs(exp, tmp_path, voices, monkeypatch, capsys):
    model = load_model(exp / "model")
    save_model(tmp_path / "bare", model.config, {}, model.encoder.state_dict(), {}, [])
    assert run("export", tmp_path / "bare", "--huggingface", tmp_path / "hub", "--license", "cc-by-nc-4.0") == 0
    front, text = card_of(tmp_path / "hub")
    assert front["license"] == "cc-by-nc-4.0"
    assert "model-index" not in front
    assert "Nothing was measured" in text
    assert "verify" not in text
    assert not (tmp_path / "hub" / "LICENSE").exists()
    path = voices / "wav" / "v0" / "0.wav"
    run_example(tmp_path / "hub", path, path, monkeypatch)
    assert float(capsys.readouterr().out.splitlines()[-1].removeprefix("cosine ")) == pytest.approx(1, abs=1e-5)
