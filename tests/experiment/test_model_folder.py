"""A model folder is the old model or the new one, or says that it is none; never a mixture that looks whole."""

import os
import shutil
from contextlib import suppress

import pytest

from spkver import files
from spkver.config import load_run
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
