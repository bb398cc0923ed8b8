"""The fingerprint of a model changes with whatever changes an embedding, and with nothing else."""

import shutil

import pytest

import spkver
from spkver.config import dump_config, load_config, schema
from spkver.errors import SpkverError
from spkver.experiment.model_fingerprint import IMPORTED, embedding_fingerprint


@pytest.fixture
def model(trained, tmp_path):
    return shutil.copytree(trained / "model", tmp_path / "model")


def changed(model, *overrides):
    (model / "config.yaml").write_text(dump_config(load_config(model / "config.yaml", overrides)))
    return embedding_fingerprint(model)


@pytest.mark.parametrize(
    "override",
    [
        "scoring.max_seconds=4",
        "scoring.variants=[[1.0, 1.0], [0.9, 1.0]]",
        "features.window=povey",
        "features.n_mels=40",
        "data.sample_rate=8000",
        "model.n_heads=1",
    ],
)
def test_what_changes_an_embedding_changes_the_fingerprint(model, override):
    before = embedding_fingerprint(model)
    assert changed(model, override) != before


def test_what_changes_no_embedding_changes_no_fingerprint(model):
    before = embedding_fingerprint(model)
    others = ["scoring.bootstrap=7", "scoring.p_targets=[0.3]", "scoring.batch_seconds=9", "optimizer.lr=0.5"]
    assert changed(model, *others) == before


def test_weights_count(model):
    before = embedding_fingerprint(model)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    assert embedding_fingerprint(model) != before
    assert spkver.load(model).fingerprint == embedding_fingerprint(model)


def test_a_key_that_came_later_makes_no_other_model_of_an_older_one(model, monkeypatch):
    before = embedding_fingerprint(model)
    value = load_config(model / "config.yaml").model.n_layers
    monkeypatch.setattr(
        schema.SpeechEncoderV3.model_fields["n_layers"], "json_schema_extra", {"before": value}, raising=True
    )
    without = embedding_fingerprint(model)
    assert without != before  # n_layers at that value now counts as if it were not there
    config = (model / "config.yaml").read_text()
    assert f"n_layers: {value}" in config
    (model / "config.yaml").write_text(config.replace(f"n_layers: {value}", ""))
    assert embedding_fingerprint(model) == without


def test_imported_embeddings_have_a_fingerprint_without_a_model(tmp_path):
    (tmp_path / IMPORTED).write_text("{}")
    first = embedding_fingerprint(tmp_path)
    (tmp_path / IMPORTED).write_text('{"dimensions": 3}')
    assert embedding_fingerprint(tmp_path) != first
    with pytest.raises(SpkverError, match="is no model folder"):
        embedding_fingerprint(tmp_path / "none")
