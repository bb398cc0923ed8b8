"""A model folder is the old model or the new one, or says that it is none; never a mixture that looks whole."""

import os
import shutil
from contextlib import suppress

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spkver import files
from spkver.config import complete, load_run
from spkver.embedding.extractor import Extractor
from spkver.errors import SpkverError
from spkver.experiment.model_folder import load_model, load_tensors, read_speakers, save_model


class PowerCut(BaseException):
    """What ends a process between two instructions."""


def generation(folder):
    """What each file of the folder says of the model that it is of; which is loaded at all."""
    model = load_model(folder)
    head = load_tensors(folder / "head.safetensors")
    return {
        float(model.encoder.state_dict()["embedding.weight"][0, 0]),
        float(head["weight"][0, 0]),
        float(read_speakers(folder)[0]),
        float(load_run(folder / "config.yaml")[1]["threshold"]),
    }


@pytest.mark.parametrize("n_renamed", [1, 2, 3, 4])
def test_a_rewriting_that_ends_anywhere_leaves_no_mixture_of_two_models(trained, tmp_path, monkeypatch, n_renamed):
    folder = tmp_path / "model"
    model = load_model(trained / "model")
    head = load_tensors(trained / "model" / "head.safetensors")
    shutil.copytree(trained / "model", folder)

    def save(number):
        weights = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
        weights["embedding.weight"][0, 0] = head["weight"][0, 0] = number
        save_model(folder, model.config, {"threshold": number}, weights, head, [str(number)])

    save(1.0)
    assert generation(folder) == {1.0}
    renamed = []

    def replace(*paths):
        if len(renamed) == n_renamed:
            raise PowerCut
        renamed.append(paths)
        os.rename(*paths)

    monkeypatch.setattr(files.os, "replace", replace)
    with suppress(PowerCut):
        save(2.0)
    assert len(renamed) == n_renamed
    if n_renamed == 4:
        assert generation(folder) == {2.0}
        return
    with pytest.raises(SpkverError, match=r"is no model folder \(no config.yaml\)"):
        generation(folder)


def test_a_rewriting_that_fails_before_the_first_file_is_whole_leaves_the_old_model(trained, tmp_path):
    folder = shutil.copytree(trained / "model", tmp_path / "model")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    model = load_model(folder)
    with pytest.raises(AttributeError):
        save_model(folder, model.config, {}, model.encoder.state_dict(), {"weight": None}, ["a"])
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_an_int8_model_has_a_quarter_of_the_size_and_nearly_the_same_embeddings(trained, voices, tmp_path):
    model = load_model(trained / "model")
    weights = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    weights["embedding.weight"][1] = 0.0  # a row of nothing
    small = complete(model.config, ["training.model_precision=int8"], "here")
    for name, config in (("float32", model.config), ("int8", small)):
        save_model(tmp_path / name, config, {}, weights, load_tensors(trained / "model" / "head.safetensors"), ["a"])
    stored = load_file(tmp_path / "int8" / "model.safetensors")
    read = load_tensors(tmp_path / "int8" / "model.safetensors")
    assert set(read) == set(weights)
    for name, tensor in weights.items():
        if tensor.ndim < 2:
            assert torch.equal(read[name], tensor)
            continue
        assert stored[name].dtype == torch.int8 and read[name].dtype == torch.float32
        largest = tensor.abs().flatten(1).amax(1)
        off = (read[name] - tensor).abs().flatten(1).amax(1)
        assert (off <= largest / 254 * 1.001).all(), name
        assert torch.allclose(read[name].abs().flatten(1).amax(1), largest, rtol=1e-5)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("float32", "int8")}
    n_vectors = sum(tensor.numel() * tensor.element_size() for tensor in weights.values() if tensor.ndim < 2)
    assert sizes["int8"] - n_vectors < 0.45 * (sizes["float32"] - n_vectors)  # the tiny model's names take the rest
    embeddings = []
    for name in ("float32", "int8"):
        kept = load_model(tmp_path / name)
        extractor = Extractor(kept.encoder, kept.config)
        embeddings.append(extractor.extract([extractor.read(voices / "wav" / "v0" / "0.wav").samples]).embeddings[0])
    cosine = float(np.dot(*embeddings))
    assert 0.999 < cosine < 1 - 1e-7, cosine
